"""Weights from the Hub into the model cache, checked: ``python -m modal_app.weights [MODEL ...]``.

    <cache>/<owner>--<name>/...             the files that a row of the catalogue names
    <cache>/<owner>--<name>/manifest.json   what they are; written when all of them are there

A file counts when its bytes have the digest that the Hub states for it; what was cut off goes on where it
stopped.  On Modal the same function fills the Volume ``model-cache``: ``modal run -m modal_app.weights``.
"""

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from modal_app import catalog
from modal_app.weights.download import carry_out, check_space
from modal_app.weights.folders import Manifest, Plan, plan, read_manifest, verify
from modal_app.weights.hub import Entry, Hub, HubOnline, Listing, WeightsError
from modal_app.weights.needs import Wanted, check_accepted, row_of, wanted
from modal_app.weights.progress import Bar, size_text, watched

__all__ = [
    "Bar",
    "Entry",
    "Hub",
    "HubOnline",
    "Listing",
    "Manifest",
    "Plan",
    "Wanted",
    "WeightsError",
    "fetch",
    "plan",
    "read_manifest",
    "row_of",
    "verify",
    "wanted",
]


def fetch(
    models: Sequence[str],
    cache: Path,
    *,
    gpu: str = catalog.DEFAULT_GPU,
    quant: str | None = None,
    accepted: Iterable[str] = (),
    dry_run: bool = False,
    hub: Hub | None = None,
    console: Console | None = None,
) -> list[Plan]:
    """Bring what the models need on a GPU into the cache, and say on the console what that is.

    ``accepted`` names models, or licences, of those rows that ask for it.  WeightsError when anything is
    refused or fails; what had arrived by then stays and is gone on with.
    """
    hub, console = hub or HubOnline(), console or Console(stderr=True)
    rows = [row_of(name) for name in models]
    for row in rows:
        check_accepted(row, accepted)
    with watched(console) as bar:
        plans = plan(hub, wanted(rows, gpu, quant), cache, bar)
        _tell(console, plans)
        if not dry_run:
            check_space(cache, sum(each.missing_bytes for each in plans))
            carry_out(hub, plans, bar)
    return plans


def _tell(console: Console, plans: Sequence[Plan]) -> None:
    """What is to be fetched, and from where; a warning for what nobody pinned."""
    table = Table("repository", "commit", "files", "size", "to fetch")
    for each in plans:
        name = f"{each.wanted.repository} {each.wanted.below}".strip()
        numbers = (str(len(each.entries)), size_text(each.size), size_text(each.missing_bytes))
        table.add_row(name, each.commit[:10], *numbers)
    if plans:
        console.print(table)
    else:
        console.print("nothing to fetch: these weights come with the code")
    for each in plans:
        if each.wanted.revision is None:
            console.print(
                f"{each.wanted.repository} is not pinned: commit {each.commit} is taken, recorded, and kept",
                style="yellow",
                soft_wrap=True,
            )


if importlib.util.find_spec("modal"):  # then ``modal run -m modal_app.weights`` finds it here
    from modal_app.weights.on_modal import app

    __all__ += ["app"]

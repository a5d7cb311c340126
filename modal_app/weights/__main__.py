"""``python -m modal_app.weights``: fetch, verify or list."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from modal_app import catalog, engine, weights
from modal_app.catalog import Model
from modal_app.weights import Wanted, WeightsError, read_manifest, row_of, verify, wanted
from modal_app.weights.folders import MANIFEST
from modal_app.weights.progress import size_text, watched

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    models: Annotated[
        list[str] | None, typer.Argument(help="Rows of the catalogue; none: list them.")
    ] = None,
    cache: Annotated[
        Path, typer.Option(help="Folder of fetched checkpoints.", envvar="MODEL_CACHE")
    ] = engine.options.model_cache,
    gpu: Annotated[str, typer.Option(help="The GPU to fetch weights for.")] = catalog.DEFAULT_GPU,
    quant: Annotated[str, typer.Option(help="A kind of weights to insist on, such as bf16.")] = "",
    accept: Annotated[
        list[str] | None, typer.Option(help="A model, or a licence, whose terms were read and accepted.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched.")] = False,
    check: Annotated[bool, typer.Option("--verify", help="Read what is there again; fetch nothing.")] = False,
) -> None:
    """Fetch the weights of models from the Hub, file by file, checked; or list the catalogue."""
    engine.options = replace(engine.options, model_cache=cache)
    console = Console(stderr=True)
    try:
        if check:
            _verify_all(models or [], cache, gpu, quant or None, console)
        elif not models:
            Console().print(_catalogue(gpu))
        else:
            weights.fetch(
                *(models, cache),
                gpu=gpu,
                quant=quant or None,
                accepted=accept or (),
                dry_run=dry_run,
                console=console,
            )
    except WeightsError as error:
        console.print(f"{error.code}: {error}", style="red", markup=False, soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None


def _verify_all(models: Sequence[str], cache: Path, gpu: str, quant: str | None, console: Console) -> None:
    """The models' folders, or all that were fetched; WeightsError when anything is wrong."""
    parts = wanted([row_of(name) for name in models], gpu, quant)
    folders = [cache / part.folder for part in parts if not _lent_in_vain(part, cache)]
    if not models:
        folders = sorted(path.parent for path in cache.rglob(MANIFEST))
    with watched(console) as bar:
        wrong = [line for folder in folders for line in verify(folder, bar)]
    for line in wrong:
        console.print(line, markup=False, soft_wrap=True, highlight=False)
    if wrong:
        raise WeightsError("checksum_mismatch", f"files that are not as they were: {len(wrong)}; fetch again")
    console.print(f"folders that are as they were fetched: {len(folders)}")


def _lent_in_vain(part: Wanted, cache: Path) -> bool:
    """The folder's own repository filled what another would have lent it."""
    own = read_manifest((cache / part.folder).parent) if part.unless else None
    return own is not None and any(path.startswith("processor/") for path in own.files)


def _catalogue(gpu: str) -> Table:
    """The rows, with the weights that the GPU runs and what of them lies here."""
    table = Table("model", "licence", "weights", "commit", "here", title=f"Models, as they run on {gpu}")
    for row in catalog.CATALOG:
        parts = _parts_on(row, gpu)
        size = _fetched(row, gpu) if parts else None
        bundled = row.family == "instant" or any(each.bundled for each in row.variants)
        table.add_row(
            row.id,
            escape(row.license) + (" (to be accepted)" if row.needs_acceptance else ""),
            "with the code" if bundled else parts[0].repository if parts else "none",
            (parts[0].revision or "not pinned")[:10] if parts else "",
            size_text(size) if size else "",
        )
    return table


def _parts_on(row: Model, gpu: str) -> list[Wanted]:
    try:
        return wanted([row], gpu)
    except WeightsError as error:
        if error.code == "unknown_gpu":
            raise
        return []


def _fetched(model: Model, gpu: str = catalog.DEFAULT_GPU) -> int | None:
    """Bytes in the engine's model cache of what a row needs on a GPU; None when some of it is missing."""
    try:
        parts = wanted([model], gpu)
    except WeightsError:
        return None
    manifests = {part.folder: read_manifest(engine.options.model_cache / part.folder) for part in parts}
    own = [found for part in parts for found in [manifests[part.folder]] if not part.unless]
    complete = [found for found in own if found is not None]
    return sum(each.size for each in complete) if len(complete) == len(own) else None


if __name__ == "__main__":
    cli()

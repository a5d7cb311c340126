"""What a row of the catalogue needs of the Hub to run on a GPU."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from modal_app import catalog, engine
from modal_app.catalog import Model, Variant
from modal_app.weights.hub import WeightsError


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Some files of a repository, and where in the cache they go."""

    repository: str
    revision: str | None
    patterns: tuple[str, ...]
    """Of paths, folder by folder: a ``*`` matches no slash."""
    folder: str
    """Below the cache."""
    below: str = ""
    """The folder of the repository that is taken; it is not part of the paths, nor of the patterns."""
    unless: str = ""
    """Not wanted when this folder, below the cache, is filled by its own repository."""


def wanted(rows: Sequence[Model], gpu: str = catalog.DEFAULT_GPU, quant: str | None = None) -> list[Wanted]:
    """What the rows need on a GPU of the table, each repository once; WeightsError where they do not run."""
    card = catalog.find_gpu(gpu)
    if card is None:
        names = ", ".join(each.name for each in catalog.GPUS)
        raise WeightsError("unknown_gpu", f"there is no GPU {gpu!r}; the catalogue has {names}")
    found: dict[tuple[str, str | None, str], Wanted] = {}
    for row in rows:
        if not row.variants:
            continue
        try:
            variant = catalog.choose_variant(row, card.capability, quant=quant)
        except catalog.UnsupportedHardware as error:
            raise WeightsError("unsupported_hardware", str(error)) from None
        for each in [] if variant.bundled else _parts(row, variant):
            key = (each.repository, each.revision, each.folder)
            known = found.get(key, each)
            patterns = dict.fromkeys((*known.patterns, *each.patterns))
            found[key] = replace(known, patterns=tuple(patterns))
    return list(found.values())


def row_of(name: str) -> Model:
    row = catalog.find(name)
    if row is None:
        known = ", ".join(each.id for each in catalog.CATALOG)
        raise WeightsError("unknown_model", f"there is no model {name!r}; the catalogue has {known}")
    return row


def check_accepted(row: Model, accepted: Iterable[str]) -> None:
    names = {name.strip().lower() for each in accepted for name in (each, *each.split(","))}
    if row.needs_acceptance and names.isdisjoint({row.id.lower(), row.license.lower()}):
        raise WeightsError(
            "licence_not_accepted",
            f"{row.id} comes under the {row.license}: read it, then say --accept {row.id}",
        )


def _parts(row: Model, variant: Variant) -> Iterator[Wanted]:
    """The checkpoint, its missing configuration, the LoRAs that draw in few steps, eyes for its encoder."""
    yield _whole(variant.repository, variant.revision, (variant.file,) if variant.file else variant.files)
    if row.config:
        yield _whole(row.config.repository, row.config.revision, row.config.files)
    if not variant.lightning_fused:
        for lora in row.step_loras.values():
            yield _whole(lora.repository, lora.revision, (lora.path,))
    lender = _lender(row)
    if lender is not None:
        own = _folder(variant.repository)
        yield Wanted(
            repository=lender.repository,
            revision=lender.revision,
            patterns=("*.json", "*.txt", "*.jinja"),
            folder=f"{own}/processor",
            below="processor/",
            unless=f"{own}/processor",
        )


def _whole(repository: str, revision: str | None, patterns: tuple[str, ...]) -> Wanted:
    return Wanted(repository=repository, revision=revision, patterns=patterns, folder=_folder(repository))


def _folder(repository: str) -> str:
    return engine.hub_folder(repository).relative_to(engine.options.model_cache).as_posix()


def _lender(row: Model) -> Variant | None:
    """Whose processor a text-to-image row takes: its text encoder sees pictures too, but its repository
    holds no processor; that of the family's edit model has the same vocabulary."""
    if row.language != "chat" or "reference" in row.roles:
        return None
    siblings = [
        variant
        for each in catalog.CATALOG
        if each.family == row.family and each.lora_group == row.lora_group and "reference" in each.roles
        for variant in each.variants
        if variant.pinned
    ]
    return siblings[0] if siblings else None

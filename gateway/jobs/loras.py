"""The LoRAs that a job draws with.

Whoever keeps them is above this slice and comes in by the composition root, as a ``Registry``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import structlog

from gateway.auth import Principal
from gateway.errors import ApiError, BadRequest
from gateway.jobs.schemas import JobCreate
from modal_app import catalog
from modal_app.catalog import Model
from styles import Franchise
from styles.franchises import mentioned

log = structlog.get_logger()


@dataclass(frozen=True)
class Lora:
    """A registered file that is ready."""

    id: UUID
    name: str
    group: str
    """Of base models, as in ``catalog.BASE_MODELS``."""
    trigger_words: tuple[str, ...]
    sha256: str
    bucket: str
    key: str

    @property
    def model(self) -> Model | None:
        """The default model of its group."""
        return catalog.default_model(self.group)


class Registry(Protocol):
    async def ready(self, caller: Principal, references: Sequence[str]) -> list[Lora]:
        """Each by id, name, ``hf:…``, ``civitai:…`` or address; the last three are registered if need be.

        NotFound for one that is not the caller's, BadRequest for one that is no LoRA, Conflict
        ``lora_not_ready`` for one that is still on its way.
        """

    async def known(self, caller: Principal, references: Sequence[str]) -> list[Lora | None]:
        """The same without registering anything: None for what is not there yet."""


@dataclass(frozen=True)
class LoraInUse:
    lora: Lora
    scale: float = 1.0
    franchise: str | None = None
    """That the prompt names and the LoRA draws, where nobody asked for a LoRA."""

    def entry(self, model: Model) -> dict[str, Any]:
        """What a job's row keeps of it; ``fit`` where it was trained on another checkpoint."""
        lora = self.lora
        fit = {"fit": "related"} if catalog.lora_fits(lora.group, model) == "warn" else {}
        franchise = {"franchise": self.franchise} if self.franchise else {}
        file = {"sha256": lora.sha256, "bucket": lora.bucket, "key": lora.key}
        return {"lora": str(lora.id), "name": lora.name, "scale": self.scale, **file, **fit, **franchise}


class JobLoras:
    """Finds the caller's own, by whichever of their names, and that of a franchise."""

    def __init__(self, registry: Registry, franchises: tuple[Franchise, ...]) -> None:
        self._registry = registry
        self._franchises = franchises

    async def find(self, caller: Principal, body: JobCreate) -> list[LoraInUse]:
        """Those of the body, fetched if need be; see ``Registry.ready``."""
        found = await self._registry.ready(caller, [use.lora for use in body.loras])
        return [LoraInUse(lora, use.scale) for lora, use in zip(found, body.loras, strict=True)]

    async def known(self, caller: Principal, body: JobCreate) -> list[LoraInUse]:
        """Those of them that are ready."""
        found = await self._registry.known(caller, [use.lora for use in body.loras])
        return [LoraInUse(lora, use.scale) for lora, use in zip(found, body.loras, strict=True) if lora]

    async def of_franchise(self, caller: Principal, prompt: str, model: Model) -> list[LoraInUse]:
        """The LoRA of the franchise that the prompt names, where there is one for the model.

        Nobody asked for it, so one that cannot be had costs nobody their picture.
        """
        franchise = mentioned(prompt, self._franchises) if self._franchises else None
        reference = _reference(franchise, model) if franchise else None
        if franchise is None or reference is None:
            return []
        try:
            (lora,) = await self._registry.ready(caller, [reference])
        except ApiError as error:
            log.warning("franchise_without_lora", franchise=franchise.name, code=error.code)
            return []
        fits = catalog.lora_fits(lora.group, model) in ("yes", "warn")
        return [LoraInUse(lora, franchise=franchise.name)] if fits else []


def model_of_group(group: str, default: Model | None, *, edits: bool) -> Model | None:
    """What ``auto`` draws with: the default, where it takes LoRAs of this group, else the group's own.

    With reference pictures its edit model, if it has one.
    """
    if default is not None and _takes(default, group):
        return default
    edit = (row for row in catalog.CATALOG if "reference" in row.roles and _takes(row, group))
    return (next(edit, None) if edits else None) or catalog.default_model(group)


def refuse_unfit(loras: Sequence[LoraInUse], model: Model) -> None:
    """BadRequest for the first LoRA that does not load into the model."""
    for use in loras:
        if catalog.lora_fits(use.lora.group, model) not in ("yes", "warn"):
            raise BadRequest(
                f"The LoRA `{use.lora.name}` is made for {use.lora.group}; `{model.id}` does not take it.",
                code="lora_incompatible",
                param="loras",
            )


def _takes(model: Model, group: str) -> bool:
    return "loras" in model.supports and catalog.lora_fits(group, model) == "yes"


def _reference(franchise: Franchise, model: Model) -> str | None:
    """Of the LoRA for the model's group."""
    if "loras" not in model.supports:
        return None
    fitting = (ref for name, ref in franchise.loras.items() if catalog.lora_fits(name, model) == "yes")
    return next(fitting, None)

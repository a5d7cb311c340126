"""One request on its way through a run of the Qwen engine, and the pictures it wants."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image

from modal_app import catalog
from modal_app.catalog import Model, Size
from modal_app.engine import Canceled, Item, Picture, repaint, show
from modal_app.engine.inputs import open_picture
from modal_app.engine.pictures import resample


@dataclass
class Work:
    """One request on its way through a run."""

    item: Item
    canceled: bool = False
    native_size: Size = (0, 0)
    conditions: list[Image.Image] = field(default_factory=list)
    """References that the model sees, in order."""
    condition_keys: list[str] = field(default_factory=list)
    over: repaint.Repaint | None = None
    """The picture that is drawn over, if any."""
    drawn: dict[int, Picture] = field(default_factory=dict)
    steps_done: int = 0

    @property
    def pictures_in(self) -> bool:
        """Whether pictures go in: such a run is not joined by others."""
        return bool(self.conditions or self.over)

    def prepare(self, model: Model) -> None:
        """Open what the request brings; InvalidPicture when something is not a picture."""
        request, files = self.item.request, self.item.files
        size = (request.width, request.height)
        self.native_size = catalog.native_size(model, *size)
        opened = [(use.role, use.sha256, open_picture(files[use.sha256])) for use in request.references]
        seen = [
            (sha256, image) for role, sha256, image in opened if role != "init" or "reference" in model.roles
        ]
        self.conditions = [_in_its_shape(image.convert("RGB"), model) for _, image in seen]
        self.condition_keys = [sha256 for sha256, _ in seen]
        first = next((image for role, _, image in opened if role == "init"), None)
        if first is None and request.mask and opened:
            first = opened[0][2]
        if first is not None:
            mask = open_picture(files[request.mask.sha256]) if request.mask else None
            self.over = repaint.of_request(first, mask, request.strength, size)

    @property
    def steps(self) -> int:
        """Of one picture."""
        steps = self.item.request.num_inference_steps
        return len(self.over.sigmas(steps)) if self.over else steps

    def wanted(self) -> bool:
        """Whether somebody wants the pictures still; once nobody does, nobody ever will."""
        self.canceled = self.canceled or self.item.cancelled()
        return not self.canceled

    def check(self) -> None:
        """Canceled if nobody wants the pictures any more."""
        if not self.wanted():
            raise Canceled("canceled")

    def step(self, pictures: int) -> None:
        self.steps_done += pictures
        self.item.on_step(self.steps_done, self.steps * self.item.request.num_images)

    def keep(self, plan: "Plan") -> None:
        """The picture that was to be drawn over is the result."""
        assert self.over is not None
        self.drawn[plan.n] = Picture(self.over.picture, plan.seed)

    def finished(self, plan: "Plan", image: Image.Image) -> None:
        request = self.item.request
        image = resample(image, (request.width, request.height))
        if self.over is not None:
            image = self.over.restored(image)
        self.drawn[plan.n] = Picture(image, plan.seed)


@dataclass(frozen=True)
class Plan:
    """Picture ``n`` of a work, ready to be drawn."""

    work: Work
    n: int
    seed: int
    embeddings: dict[str, torch.Tensor]


def tokens(plan: Plan) -> tuple[int, ...]:
    """Only prompts of equal length share a call: padding would change the shorter one's picture."""
    return tuple(embeds.shape[1] for embeds in plan.embeddings.values())


def stacked(plans: list[Plan]) -> dict[str, torch.Tensor]:
    names = plans[0].embeddings
    return {name: torch.cat([plan.embeddings[name] for plan in plans]) for name in names}


def _in_its_shape(image: Image.Image, model: Model) -> Image.Image:
    """A model of one shape has only ever seen that: what it drew in another was stretched, and goes back."""
    if len(model.native_sizes) != 1:
        return image
    width, height = model.native_sizes[0]
    scale = min(image.width / width, image.height / height)
    shape = round(width * scale), round(height * scale)
    return image if image.size == shape else image.resize(shape)


View = Callable[[torch.Tensor, Work], Image.Image]
"""A small picture of latents [1, tokens, channels]."""


def stepper(
    plans: list[Plan],
    after: Callable[[int, torch.Tensor], torch.Tensor] | None,
    view: View | None = None,
) -> Callable[..., Any]:
    """The step callback.  It reports, shows, and ends the call by raising once nobody wants its pictures.

    diffusers' own ``pipeline._interrupt`` would skip the steps, but decode a picture of noise.
    """
    before: torch.Tensor | None = None
    works = {id(plan.work): plan.work for plan in plans}.values()
    pictures = [(work, sum(plan.work is work for plan in plans)) for work in works]

    def stepped(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal before
        for work, count in pictures:
            work.step(count)
        if not any([work.wanted() for work in works]):
            raise Canceled("canceled")
        latents = tensors["latents"]
        if view is not None and before is not None:
            _show(plans, _expected(pipeline.scheduler.sigmas, step, before, latents), view)
        before = after(step, latents) if after else latents
        return {**tensors, "latents": before}

    return stepped


def _expected(
    sigmas: torch.Tensor, step: int, before: torch.Tensor, latents: torch.Tensor
) -> Callable[[int], torch.Tensor]:
    """Where a row of the batch is heading: a step goes along a straight line that ends without noise."""

    def row(index: int) -> torch.Tensor:
        start, end = before[index : index + 1].float(), latents[index : index + 1].float()
        velocity = (end - start) / (sigmas[step + 1] - sigmas[step])
        return end - sigmas[step + 1] * velocity

    return row


def _show(plans: list[Plan], expected: Callable[[int], torch.Tensor], view: View) -> None:
    """The first picture of each work; the others of a batch are as far."""
    seen: set[int] = set()
    for index, plan in enumerate(plans):
        if id(plan.work) not in seen:
            seen.add(id(plan.work))
            show(plan.work.item.on_step, plan.n, partial(_viewed, view, expected, index, plan.work))


def _viewed(view: View, expected: Callable[[int], torch.Tensor], index: int, work: Work) -> Image.Image:
    return view(expected(index), work)

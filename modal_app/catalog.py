"""Models and prices as data.  Code reads the row; it never branches on an id.

Adding a model of a known family is adding one row.  Free of torch and of modal: the gateway
validates requests against these rows before any GPU time is spent.
"""

import datetime
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

Family = Literal["qwen", "instant"]
Role = Literal["reference", "style", "init"]
Size = tuple[int, int]

NAMED_SIZES: dict[str, Size] = {
    "square": (1024, 1024),
    "portrait": (896, 1152),
    "landscape": (1152, 896),
    "panel": (1728, 2304),
    "ref_portrait": (832, 1216),
}
"""(width, height) in pixels."""

SIZE_MULTIPLE = 16
SIZE_MIN, SIZE_MAX = 64, 2560
ASPECT_MAX = 3.0
"""Between 1:3 and 3:1."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """One row: what a model is, what it accepts, and what it is expected to cost."""

    id: str
    family: Family
    checkpoint: str
    """Folder below ``modal_app/engine`` or a Hub repository; empty when there are no weights."""
    revision: str
    native_sizes: tuple[Size, ...]
    """Sizes the model was trained on; empty when it draws any size natively."""
    num_inference_steps: int
    max_inference_steps: int
    true_cfg_scale: float
    supports: frozenset[str] = field(default_factory=frozenset)
    """Optional request fields this model understands; any other is refused by name."""
    steps_by_quality: dict[str, int] = field(default_factory=dict)
    lora_group: str | None = None
    license: str
    commercial_use: bool
    roles: frozenset[Role] = field(default_factory=frozenset)
    """Roles of reference pictures that the model understands."""
    max_references: int = 0
    reference_pixels: int = 1024 * 1024
    """Area to which a reference is brought before the VAE sees it."""
    condition_pixels: int = 384 * 384
    """Area to which a reference is brought before the vision-language model sees it."""
    language: Literal["chat", "describe"] | None = None
    """What the text encoder can do beside encoding: follow instructions, or only describe a picture."""
    est_seconds: float
    """Seconds for one picture at the defaults, on the hardware the row is meant for."""


_TINY_FIELDS = frozenset(
    {"negative_prompt", "true_cfg_scale", "num_inference_steps", "loras", "mask", "strength"}
)
_TINY_STEPS = {"low": 6, "medium": 8, "high": 12, "xhigh": 20, "max": 50}

CATALOG: tuple[Model, ...] = (
    Model(
        id="tiny-qwen",
        family="qwen",
        checkpoint="tiny",
        revision="1",
        native_sizes=((96, 96),),
        num_inference_steps=12,
        max_inference_steps=100,
        true_cfg_scale=1.0,
        supports=_TINY_FIELDS,
        steps_by_quality=_TINY_STEPS,
        roles=frozenset({"init"}),
        max_references=1,
        lora_group="tiny",
        language="describe",
        license="Apache-2.0",
        commercial_use=True,
        est_seconds=0.3,  # 12 steps on one CPU thread, 96 x 96, resampled to 1024 x 1024
    ),
    Model(
        id="tiny-qwen-edit",
        family="qwen",
        checkpoint="tiny",
        revision="1",
        native_sizes=((96, 96),),
        num_inference_steps=12,
        max_inference_steps=100,
        true_cfg_scale=1.0,
        supports=_TINY_FIELDS,
        steps_by_quality=_TINY_STEPS,
        roles=frozenset({"reference", "style", "init"}),
        max_references=3,
        reference_pixels=96 * 96,
        condition_pixels=96 * 96,
        lora_group="tiny",
        language="describe",
        license="Apache-2.0",
        commercial_use=True,
        est_seconds=0.4,
    ),
    Model(
        id="instant",
        family="instant",
        checkpoint="",
        revision="1",
        native_sizes=(),
        num_inference_steps=1,
        max_inference_steps=200,
        true_cfg_scale=1.0,
        supports=frozenset({"num_inference_steps"}),
        license="Apache-2.0",
        commercial_use=True,
        est_seconds=0.01,
    ),
)

_BY_ID = {model.id: model for model in CATALOG}


def find(model_id: str) -> Model | None:
    """The row of ``model_id``, or None."""
    return _BY_ID.get(model_id)


def native_size(model: Model, width: int, height: int) -> Size:
    """The trained size nearest in aspect ratio to the wanted one; the wanted one if all are native."""
    if not model.native_sizes:
        return width, height
    return min(model.native_sizes, key=lambda size: abs(size[0] / size[1] - width / height))


@dataclass(frozen=True)
class Price:
    """What an hour of a GPU costs from a day on, in micro-dollars."""

    gpu: str
    usd_micros_per_hour: int
    effective_from: datetime.date


PRICES: tuple[Price, ...] = (
    Price("T4", 600_000, datetime.date(2026, 1, 1)),
    Price("A10", 1_100_000, datetime.date(2026, 1, 1)),
    Price("A100", 4_000_000, datetime.date(2026, 1, 1)),
    Price("L40S", 1_950_000, datetime.date(2026, 5, 1)),
    # One core at Modal's published 13.1 micro-dollars a second: what the bundled CPU model
    # would cost if it were rented, so that budgets and forecasts have something to count.
    Price("cpu", 47_160, datetime.date(2026, 5, 1)),
)


def price(gpu: str, on: datetime.date) -> Price:
    """The price row of ``gpu`` in force on a day; KeyError when there is none."""
    rows = [row for row in PRICES if row.gpu == gpu and row.effective_from <= on]
    if not rows:
        raise KeyError(f"no price for {gpu} on {on}")
    return max(rows, key=lambda row: row.effective_from)


def cost_usd_micros(gpu: str, seconds: float, on: datetime.date) -> int:
    """Micro-dollars of one call, rounded once, half up."""
    exact = Decimal(str(seconds)) * price(gpu, on).usd_micros_per_hour / 3600
    return int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))

"""What a row of the catalog says of a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Family = Literal["qwen", "qwen21", "flux", "sdxl", "sd1", "instant"]
"""One engine each draws a family; sdxl and sd1 share theirs."""

Role = Literal["reference", "style", "init"]
Quality = Literal["low", "medium", "high", "xhigh", "max", "auto"]
Quant = Literal["svdq-int4-r32", "svdq-int4-r128", "svdq-nvfp4", "fp8", "int8", "bf16", "fp16", "fp32"]
"""How weights are stored and multiplied.  ``svdq-*`` come quantized from their own repositories; ``fp8``
and ``int8`` are made from the 16-bit weights while loading."""

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

FOLDER_FILES = ("*.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.jinja", "*/*.safetensors")
"""Of a repository in diffusers' layout; the single-file copies that many keep beside it stay out."""

HALF_FILES = ("*.json", "*/*.json", "*/*.txt", "*/*.fp16.safetensors")
"""The same of a repository that holds its weights in both 32 and 16 bits."""


FALLBACK_CONSISTENCY_THRESHOLD = 60.0
"""From which score on a character counts as the same where rules gave it, from palette and shape: in the
bundled model's world 92 of 100 do, and 32 of 100 strangers, many of whom differ in one trait alone."""


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a Hub repository at a commit."""

    repository: str
    revision: str | None
    path: str


@dataclass(frozen=True, kw_only=True)
class HubFolder:
    """Some files of a Hub repository at a commit."""

    repository: str
    revision: str | None
    files: tuple[str, ...] = FOLDER_FILES


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The same model in other weights."""

    quant: Quant
    repository: str
    """Hub repository, or a folder below ``modal_app/engine`` when ``bundled``."""
    revision: str | None
    """Commit of 40 hex digits; None where none could be verified: what is fetched has to be recorded."""
    est_vram_gb: float
    """Peak with every part on the GPU, in 10^9 bytes; 0 on the CPU."""
    largest_part_gb: float
    """Peak with one part on the GPU at a time."""
    file: str = ""
    """The one file that holds the whole checkpoint; empty for diffusers' layout in folders."""
    files: tuple[str, ...] = FOLDER_FILES
    """Patterns of what to fetch."""
    lightning_fused: bool = False
    """The row's step LoRA is already part of the weights."""
    bundled: bool = False

    @property
    def pinned(self) -> bool:
        """Whether the weights are fixed: by a commit, or because they come with the code."""
        return self.revision is not None


@dataclass(frozen=True, kw_only=True)
class Model:
    """One row: what a model is, what it accepts, and what it is expected to cost."""

    id: str
    family: Family
    checkpoint: str = ""
    """Folder below ``modal_app/engine`` or a Hub repository; empty when there are no weights."""
    revision: str | None = None
    quant: Quant | None = None
    file: str = ""
    """The four above are those of one variant: the first, unless ``as_variant`` chose another."""
    variants: tuple[Variant, ...] = ()
    config: HubFolder | None = None
    """Configurations and tokenizers that a checkpoint in a single file lacks."""
    native_sizes: tuple[Size, ...]
    """Sizes the model was trained on; empty when it draws any size natively."""
    num_inference_steps: int
    max_inference_steps: int
    true_cfg_scale: float
    """Classifier-free guidance, which a negative prompt needs; 1 is off.  diffusers' argument for it is
    called ``guidance_scale`` in Stable Diffusion's pipelines."""
    guidance_scale: float | None = None
    """Guidance that the model was distilled with and reads as a number; None where it has none."""
    supports: frozenset[str] = field(default_factory=frozenset)
    """Optional request fields this model understands; any other is refused by name."""
    steps_by_quality: dict[str, int] = field(default_factory=dict)
    fast: str | None = None
    """Id of the row that draws this model in few steps, at the qualities ``FAST_QUALITIES``."""
    step_loras: Mapping[int, HubFile] = field(default_factory=dict)
    """LoRA of weight 1 that a variant without ``lightning_fused`` needs, by the number of steps."""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the scheduler that replace the checkpoint's own."""
    sampler: str | None = None
    """Default of ``samplers``."""
    samplers: frozenset[str] = field(default_factory=frozenset)
    """Names of ``SAMPLERS``; empty where the model draws with its own scheduler only."""
    clip_skip: int | None = None
    """As Civitai counts: 1 is CLIP's last layer, 2 the one before; None where there is no choice."""
    max_sequence_length: int = 512
    """Tokens of a prompt that count; the rest is cut off."""
    prompt_prefix: str = ""
    """Words that prompts of this checkpoint begin with."""
    lora_group: str | None = None
    """Civitai's name of the base model, see ``base_models``."""
    license: str
    commercial_use: bool
    needs_acceptance: bool = False
    """The operator has to accept the licence by name before weights are fetched."""
    roles: frozenset[Role] = field(default_factory=frozenset)
    """Roles of reference pictures that the model understands."""
    max_references: int = 0
    max_references_per_subject: int = 3
    """Pictures of one subject that the model takes for one and the same."""
    reference_pixels: int = 1024 * 1024
    """Area to which a reference is brought before the VAE sees it."""
    condition_pixels: int = 384 * 384
    """Area to which a reference is brought before the vision-language model sees it."""
    language: Literal["chat", "describe"] | None = None
    """What the text encoder can do beside encoding: follow instructions, or only describe a picture."""
    likeness: tuple[float, float] = (0.6, 0.95)
    """Cosines of two readings (``engine.language.consistency``) of strangers and of one character, which
    count 0 and 100.  A guess, unless a row has figures of ``scripts.calibrate_consistency``."""
    consistency_threshold: float = 60.0
    """From which score on a character counts as the same; a guess like the figures above."""
    est_seconds: float
    """Seconds for one picture at the defaults, on the hardware the row is meant for."""

    @property
    def pinned(self) -> bool:
        """Whether every file of every variant is fixed."""
        revisions = [*(file.revision for file in self.step_loras.values())]
        revisions += [self.config.revision] if self.config else []
        return all(variant.pinned for variant in self.variants) and None not in revisions

    @property
    def est_vram_gb(self) -> float:
        """Of the first variant; 0 when there are no weights."""
        return self.variants[0].est_vram_gb if self.variants else 0.0


def as_variant(model: Model, variant: Variant) -> Model:
    """The row with the weights of one of its variants."""
    return replace(
        model,
        checkpoint=variant.repository,
        revision=variant.revision,
        quant=variant.quant,
        file=variant.file,
    )


def step_lora(model: Model, steps: int) -> HubFile | None:
    """The LoRA that the row needs, at weight 1, to draw in ``steps``: of the next count it has one for.

    None for a row without any, and where the LoRA is already part of the row's weights.
    """
    fused = any(each.lightning_fused for each in model.variants if each.quant == model.quant)
    if fused or not model.step_loras:
        return None
    enough = [count for count in model.step_loras if count >= steps]
    return model.step_loras[min(enough, default=max(model.step_loras))]


def native_size(model: Model, width: int, height: int) -> Size:
    """The trained size nearest in aspect ratio to the wanted one; the wanted one if all are native."""
    if not model.native_sizes:
        return width, height
    return min(model.native_sizes, key=lambda size: abs(size[0] / size[1] - width / height))


@dataclass(frozen=True)
class Sampler:
    """A sampler by the name that Civitai and its users know."""

    scheduler: str
    """Class in diffusers."""
    options: Mapping[str, Any] = field(default_factory=dict)


SAMPLERS: dict[str, Sampler] = {
    "Euler": Sampler("EulerDiscreteScheduler"),
    "Euler a": Sampler("EulerAncestralDiscreteScheduler"),
    "DPM++ 2M Karras": Sampler(
        "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}
    ),
}
"""Each takes exactly one step of the model per step, so that progress can be counted."""

"""Everything an operator may change about the service on Modal, in one table: plain data.

Imports neither modal nor torch.  ``resources`` turns it into Modal's objects, ``app`` and the generator files
into what is deployed; after a change, deploy again.  Seconds are wall-clock seconds, memory is in MiB; prices
are in ``catalog.PRICES``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modal_app import catalog
from modal_app.engine import Options

APP = "tenkaigen"
TAGS = {"service": "tenkaigen-gpu", "env": "production"}
"""What Modal's billing is grouped by."""
PYTHON = "3.11"

SECRET = "tenkaigen-secrets"  # noqa: S105 - its name
SECRET_KEYS = ("TENKAIGEN_WEBHOOK_URL", "TENKAIGEN_WEBHOOK_SECRET", "RECIPE_SECRET")
"""A deployment whose secret lacks one of them fails.  ``GPU_ORIGINS``, optional in it: origins that files
may be fetched from, separated by commas; without it, the webhook's."""

MODEL_VOLUME, MODEL_FOLDER = "model-cache", "/models"
"""Checkpoints; GPU containers read them only."""
SOURCE_VOLUME, SOURCE_FOLDER = "lora-cache", "/sources"
"""LoRAs and reference pictures by their sha256: a CPU fetches them, GPU containers read them only."""
CALLS = "tenkaigen-calls"
"""modal.Dict of calls: ids, progress, cancel flags and ended calls; an entry goes after 7 unread days."""

LOCAL_PACKAGES = ("modal_app",)
"""What containers import of ours."""
IGNORED_FILES = ("**/__pycache__/**", "**/*.pyc")
"""All else of these packages goes along: the bundled tiny model is not Python."""

ACCEPTED_LICENSES: frozenset[str] = frozenset()
"""Ids of models whose licence you have read and accepted, of those that ask for it."""
QUANT: str | None = None
"""A kind of weights to insist on, such as bf16; None: what each GPU runs best."""
COMPILE = False
"""Minutes at the first picture of every container, so not for classes that scale to zero."""
STEP_CACHE_THRESHOLD = 0.0

CPU_SNAPSHOT = True
"""Restore containers from a picture of their memory after the imports.  Deployed apps only."""
GPU_SNAPSHOT = False
"""Of GPU memory as well, with the models of ``preload``.  Modal calls it alpha; failed restores and first
requests of minutes are reported, so it is off until it was measured for these models."""


@dataclass(frozen=True, kw_only=True)
class CpuFunction:
    """A function without a GPU; ``max_inputs`` calls share a container."""

    max_inputs: int
    max_containers: int
    scaledown_window_seconds: int
    timeout_seconds: int
    startup_timeout_seconds: int = 120
    min_containers: int = 0
    retries: int | None = None
    """None where Modal allows none: of a web function."""
    cpu: float = 0.5
    memory_mib: int = 512

    def options(self) -> dict[str, Any]:
        """Arguments of ``App.function``."""
        return {
            "cpu": self.cpu,
            "memory": self.memory_mib,
            "min_containers": self.min_containers,
            "max_containers": self.max_containers,
            "scaledown_window": self.scaledown_window_seconds,
            "timeout": self.timeout_seconds,
            "startup_timeout": self.startup_timeout_seconds,
            "retries": self.retries,
        }


@dataclass(frozen=True, kw_only=True)
class GpuClass:
    """A pool of GPU containers, one call at a time each: a picture fills a GPU."""

    name: str
    """Of its class in ``qwen_generator`` or ``diffusion_generator``."""
    gpus: tuple[str, ...]
    """In order of preference; each has to hold some weights of every model of the class."""
    models: tuple[str, ...]
    preload: tuple[str, ...] = ()
    """Loaded when a container starts, not at the first call that names them."""
    max_containers: int
    """The cap on what a minute can cost."""
    scaledown_window_seconds: int = 300
    """How long a container waits, and costs, after its last call; 2 to 3600."""
    timeout_seconds: int
    """Of one call; about three times the slowest it is meant for."""
    startup_timeout_seconds: int = 1200
    """Of loading; 20 B parameters take more than 300 s from a cold volume."""
    min_containers: int = 0
    buffer_containers: int = 0
    retries: int = 1
    """Of a GPU that broke, in a fresh container.  A call that fails is an answer and is never retried."""
    cpu: float = 4.0
    memory_mib: int = 32 * 1024

    def options(self) -> dict[str, Any]:
        """Arguments of ``App.cls``, but for the objects of ``resources``."""
        return {
            "gpu": list(self.gpus),
            "cpu": self.cpu,
            "memory": self.memory_mib,
            "min_containers": self.min_containers,
            "max_containers": self.max_containers,
            "buffer_containers": self.buffer_containers,
            "scaledown_window": self.scaledown_window_seconds,
            "timeout": self.timeout_seconds,
            "startup_timeout": self.startup_timeout_seconds,
            "retries": self.retries,
            "enable_memory_snapshot": CPU_SNAPSHOT,
            "experimental_options": {"enable_gpu_snapshot": True} if GPU_SNAPSHOT else {},
        }


_TINY = ("tiny-qwen", "tiny-qwen-edit")
"""Bundled, so that a fresh deployment can be tried before any weights were fetched."""
_QWEN = ("qwen-image", "qwen-image-fast", "qwen-image-edit", "qwen-image-edit-fast")

RESIDENT = GpuClass(
    name="QwenGenerator",
    gpus=("L40S", "A100-80GB"),
    models=(*_QWEN, *_TINY),
    preload=("qwen-image-fast",),
    max_containers=4,
    timeout_seconds=1800,  # 3 x 100 steps of an edit with guidance, 535 s from the catalogue's estimate
)
ECONOMY = GpuClass(
    name="QwenEconomyGenerator",
    gpus=("A10", "L4"),
    models=(*_QWEN, *_TINY),
    max_containers=2,
    scaledown_window_seconds=60,
    timeout_seconds=5400,  # an A10 is about three times slower
)
LARGE = GpuClass(
    name="QwenLargeGenerator",
    gpus=("H100", "H200"),
    models=(*_QWEN, "qwen-image-2.1"),
    max_containers=1,
    scaledown_window_seconds=120,
    timeout_seconds=1800,
    memory_mib=96 * 1024,  # 16-bit weights pass through main memory: 58 GB
)
DIFFUSION = GpuClass(
    name="DiffusionGenerator",
    gpus=("L40S", "A100-80GB"),
    models=("flux1-dev", "flux1-schnell", "sdxl", "pony", "sd15"),
    max_containers=2,
    scaledown_window_seconds=120,
    timeout_seconds=600,
)
GPU_CLASSES = (RESIDENT, ECONOMY, LARGE, DIFFUSION)
"""Deployed all; one that no route leads to costs nothing."""

ROUTES: Mapping[str, str] = {
    **dict.fromkeys((*_QWEN, *_TINY), RESIDENT.name),
    "qwen-image-2.1": LARGE.name,
    **dict.fromkeys(DIFFUSION.models, DIFFUSION.name),
}
"""Which class draws a model.  A model without a line is refused at the front door."""

FRONT_DOOR = CpuFunction(
    max_inputs=100, max_containers=4, scaledown_window_seconds=300, timeout_seconds=60, memory_mib=1024
)
CONDUCTOR = CpuFunction(
    max_inputs=100,
    max_containers=4,
    scaledown_window_seconds=60,
    timeout_seconds=6 * 3600,
    retries=3,  # what it has done stands in the dict, so it goes on where it was
    memory_mib=1024,
)
PROXY_AUTH = True
"""Callers of the front door show Modal-Key and Modal-Secret; Modal answers 401 to all others."""
ENDPOINT_LABEL = "tenkaigen-generate"

PATIENCE_SECONDS = 2 * 3600
"""How long a call may wait for a GPU and draw, all in all, before it fails."""
WEBHOOK_ROUNDS, WEBHOOK_PAUSE_SECONDS = 3, 60.0
"""A gateway that does not take an event in 5 tries of 30 s gets another round after a pause; after the last
the event is kept as a dead letter, and the gateway finds the call by asking."""

CPU_PACKAGES: Mapping[str, str] = {
    "aiohappyeyeballs": "2.7.1",
    "aiohttp": "3.14.5",
    "aiosignal": "1.4.0",
    "annotated-doc": "0.0.7",
    "annotated-types": "0.8.0",
    "anyio": "4.16.0",
    "attrs": "26.1.0",
    "certifi": "2026.10.18",
    "fastapi": "0.165.0",
    "frozenlist": "1.8.0",
    "h11": "0.16.0",
    "httpcore": "1.0.9",
    "httpx": "0.28.1",
    "idna": "3.20",
    "multidict": "7.2.1",
    "opentelemetry-api": "1.45.2",
    "propcache": "0.5.4",
    "pydantic": "2.14.3",
    "pydantic-core": "2.50.4",
    "sniffio": "1.3.1",
    "standardwebhooks": "1.1.0",
    "starlette": "1.10.0",
    "typing-extensions": "4.16.0",
    "typing-inspection": "0.4.5",
    "yarl": "1.25.1",
}
"""The front door and the conductor, with all that their packages require."""

GPU_PACKAGES: Mapping[str, str] = {
    **CPU_PACKAGES,
    "accelerate": "1.15.0",
    "bitsandbytes": "0.50.2",
    "charset-normalizer": "3.5.2",
    "click": "8.5.1",
    "diffusers": "0.42.1",
    "filelock": "4.2.11",
    "fsspec": "2026.9.0",
    "hf-xet": "1.8.0",
    "httpcore2": "2.16.2",
    "httpx2": "2.16.2",
    "huggingface-hub": "2.4.0",
    "importlib-metadata": "10.2.0",
    "jinja2": "3.1.6",
    "kernels": "0.17.2",
    "lazy-importer": "0.1.0",
    "markdown-it-py": "4.3.0",
    "markupsafe": "3.0.4",
    "mdurl": "0.1.2",
    "mpmath": "1.3.0",
    "networkx": "3.6.1",
    "numpy": "2.4.6",
    "packaging": "26.3",
    "peft": "0.21.2",
    "pillow": "13.0.0",
    "psutil": "7.2.2",
    "pygments": "2.21.0",
    "pyyaml": "6.0.3",
    "regex": "2026.11.15",
    "requests": "2.34.2",
    "rich": "15.0.0",
    "safetensors": "0.8.0",
    "setuptools": "84.2.1",
    "shellingham": "1.5.4",
    "sympy": "1.14.0",
    "tokenizers": "0.23.3",
    "torch": "2.13.0",
    "torchvision": "0.28.0",
    "tqdm": "4.70.1",
    "transformers": "5.23.0",
    "truststore": "0.10.5",
    "typer": "0.29.2",
    "urllib3": "2.8.0",
    "zipp": "4.1.2",
}
"""The same for GPU containers.  CUDA comes with torch's wheel, which pins its parts itself; bitsandbytes,
kernels and torchvision exist in the image only, because their wheels need that torch."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Compiled code that diffusers takes from a Hub repository, by its version."""

    repository: str
    version: int
    revision: str | None = None
    """Commit of 40 hex digits.  None where none could be verified: the build prints the one that the
    version led to; written down here, later builds take exactly that."""


KERNELS = (
    Kernel(repository="rootonchair/nunchaku-lite-kernels", version=2),  # for 4-bit weights
    Kernel(repository="kernels-community/flash-attn3", version=1),  # for attention on Hopper
)
"""Fetched when an image is built and never at run time: they are code."""

CPU_ENVIRONMENT: Mapping[str, str] = {"PYTHONUNBUFFERED": "1", "MODAL_MAX_THROTTLE_WAIT": "30"}
GPU_ENVIRONMENT: Mapping[str, str] = {
    **CPU_ENVIRONMENT,
    "HF_HOME": "/kernels",
    "DIFFUSERS_TRUST_REMOTE_KERNELS": "true",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TOKENIZERS_PARALLELISM": "false",
}
OFFLINE: Mapping[str, str] = {"HF_HUB_OFFLINE": "1"}
"""Set after the kernels were fetched: nothing is downloaded while a GPU waits."""


def engine_options() -> Options:
    """What engines in the containers are told."""
    return Options(
        model_cache=Path(MODEL_FOLDER),
        accepted_licenses=ACCEPTED_LICENSES,
        quant=QUANT,
        compile=COMPILE,
        step_cache_threshold=STEP_CACHE_THRESHOLD,
    )


def served_models() -> list[str]:
    """Ids of the models that the front door lets through, those with an unaccepted licence left out."""
    return [row.id for row in catalog.CATALOG if row.id in ROUTES and _is_accepted(row)]


def _is_accepted(row: catalog.Model) -> bool:
    return not row.needs_acceptance or row.id in ACCEPTED_LICENSES


def gpu_class(name: str) -> GpuClass:
    """The class of a name; KeyError when there is none."""
    return {each.name: each for each in GPU_CLASSES}[name]

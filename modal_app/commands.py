"""One picture from the command line: ``python -m modal_app.commands --prompt "A dragon"``.

``generate`` builds the request and saves the picture; a ``Runner`` draws it: on Modal, or in this process.
"""

import contextlib
import hashlib
import random
import re
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args
from uuid import uuid4

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from modal_app import catalog, engine
from modal_app.catalog import Model
from modal_app.contract import (
    Call,
    CallError,
    ImageRequest,
    LoraUse,
    Reference,
    Task,
    Timing,
)

Runner = Callable[[Task, dict[str, Any], dict[str, bytes]], tuple[Call, list[bytes]]]
"""``runner(task, request, files)``: the ended call and its picture files.  ``files`` are the bytes of every
file that the request names, by their sha256; the addresses in the request lead nowhere."""

STYLES = Path(__file__).parents[1] / "styles"
LORAS = Path(".data/loras")
"""Where a LoRA that is named without its folder is looked for."""
GUIDANCE_OF_NEGATIVES = 2.5
"""For a model that draws without guidance unless it has to: a negative prompt acts through guidance only."""
SEED_LIMIT = 2**32
"""Of seeds that are drawn here: short enough to be typed again."""
OUTPUT_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person may ask for; the names are those of the flags."""

    prompt: str
    style: str = ""
    """A house style such as ``design/anime``, a path of such a file, or words that go behind the prompt."""
    negative_prompt: str = ""
    width: int = 1024
    height: int = 1024
    seed: int = -1
    """Below 0: one is drawn, and printed."""
    steps: int = 0
    """0: as many as the quality takes."""
    quality: str = "auto"
    lora: str = ""
    """Paths, or names of files in ``LORAS``, with scales: ``a.safetensors:0.8,b:0.5``."""
    image: str = ""
    """Paths of reference pictures in the prompt's order: ``first.png,second.png``."""
    out: str = "test_output.png"
    model: str = "auto"


@dataclass(frozen=True)
class Models:
    """Rows that ``auto`` stands for: without pictures to draw from, and with some."""

    words: str
    pictures: str


QWEN = Models("qwen-image", "qwen-image-edit")
"""``auto`` takes their fast rows unless the quality asks for more."""
TINY = Models("tiny-qwen", "tiny-qwen-edit")


class BadOption(Exception):
    """An option that cannot be used; the message is one line that names it."""


def generate(options: Options, runner: Runner, models: Models = QWEN) -> int:
    """Draw, save, and print what it took: 0; or say on standard error why there is no picture: 1."""
    errors = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    try:
        request, files = build(options, models)
        _check_folder(Path(options.out))
        call, pictures = runner("image", request.model_dump(mode="json", exclude_none=True), files)
    except (BadOption, engine.EngineError) as error:
        errors.print(str(error))
        return 1
    if call.status != "succeeded" or not pictures:
        reason = call.error or CallError(code=call.status, message="there is no picture")
        errors.print(f"the picture was not drawn ({reason.code}): {reason.message}")
        return 1
    try:
        Path(options.out).write_bytes(pictures[0])
    except OSError as error:
        errors.print(f"--out {options.out}: {error.strerror}")
        return 1
    _tell(request, call, Path(options.out))
    return 0


def build(options: Options, models: Models = QWEN) -> tuple[ImageRequest, dict[str, bytes]]:
    """The request, and the files that it names by their sha256; BadOption, or UnsupportedParameter."""
    model = _model(options, models)
    files: dict[str, bytes] = {}
    width, height = _size(options)
    try:
        request = ImageRequest(
            model=model.id,
            prompt=f"{options.prompt}{_style(options.style)}",
            negative_prompt=options.negative_prompt or None,
            width=width,
            height=height,
            seed=random.randrange(SEED_LIMIT) if options.seed < 0 else options.seed,
            num_inference_steps=options.steps or _steps(model, options.quality),
            true_cfg_scale=_guidance(model, options),
            guidance_scale=model.guidance_scale,
            references=_references(model, options, files),
            loras=_loras(options, files),
            output_format=_output_format(options.out),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise BadOption(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    engine.check(model, request)
    return request, files


def local_runner(gpu: str = "") -> Runner:
    """Draws in this process, without any server.  ``gpu``: the price row; empty: of the GPU found here."""

    def run(task: Task, request: dict[str, Any], files: dict[str, bytes]) -> tuple[Call, list[bytes]]:
        wanted = ImageRequest.model_validate(request)
        call = Call(
            call_id=str(uuid4()),
            key=f"{uuid4()}:0:1",
            task="image",
            status="running",
            steps=wanted.num_inference_steps,
            gpu=gpu or gpu_here(),
        )
        try:
            return _drawn(call, wanted, files)
        except engine.EngineError as error:
            reason = CallError(code=error.code, message=str(error), retryable=error.retryable)
            return call.model_copy(update={"status": "failed", "error": reason}), []

    return run


def gpu_here() -> str | None:
    """The price row of this machine's GPU, or ``cpu`` where there is none; None for one without a price."""
    import torch  # noqa: PLC0415 - only where something is drawn

    if not torch.cuda.is_available():
        return "cpu"
    return priced_gpu(torch.cuda.get_device_name())


def priced_gpu(device_name: str) -> str | None:
    """From a device's name, ``NVIDIA A100-SXM4-80GB``, to Modal's, ``A100-80GB``."""
    words = set(re.split(r"[ -]+", device_name))
    return next((gpu.name for gpu in catalog.GPUS if words.issuperset(gpu.name.split("-"))), None)


# From options to a request.


def _model(options: Options, models: Models) -> Model:
    """The row to draw with; a low quality may have its own."""
    if options.quality not in get_args(catalog.Quality):
        raise BadOption(f"--quality {options.quality}: one of {', '.join(get_args(catalog.Quality))}")
    automatic = options.model == "auto"
    name = (models.pictures if _names(options.image) else models.words) if automatic else options.model
    model = catalog.find(name)
    if model is None:
        known = ", ".join(row.id for row in catalog.CATALOG)
        raise BadOption(f"--model {name}: the catalogue has {known}")
    fast = automatic and options.quality == "auto"
    return catalog.at_quality(model, catalog.FAST_QUALITIES[-1] if fast else options.quality)


def _steps(model: Model, quality: str) -> int:
    return model.steps_by_quality.get(quality, model.num_inference_steps)


def _guidance(model: Model, options: Options) -> float:
    """The row's own, unless a negative prompt needs some where the row has none."""
    if options.negative_prompt and model.true_cfg_scale <= 1 and "true_cfg_scale" in model.supports:
        return GUIDANCE_OF_NEGATIVES
    return model.true_cfg_scale


def _size(options: Options) -> catalog.Size:
    """(width, height), as the gateway takes them too."""
    least, most, step = catalog.SIZE_MIN, catalog.SIZE_MAX, catalog.SIZE_MULTIPLE
    for name, side in (("width", options.width), ("height", options.height)):
        if not least <= side <= most or side % step:
            raise BadOption(f"--{name} {side}: a multiple of {step} from {least} to {most}")
    short, long = sorted((options.width, options.height))
    if long > catalog.ASPECT_MAX * short:
        raise BadOption(f"--width {options.width} --height {options.height}: not between 1:3 and 3:1")
    return options.width, options.height


def _style(style: str) -> str:
    """What goes behind the prompt: a file's words, by its path or its name in ``STYLES``, or the words."""
    if not style.strip():
        return ""
    path = Path(style) if style.endswith(".toml") else STYLES / f"{style}.toml"
    if not style.endswith(".toml") and not path.is_file():
        return f", {style}"
    try:
        return f", {tomllib.loads(path.read_text())['keywords']}"
    except (OSError, ValueError, KeyError) as error:
        raise BadOption(
            f"--style {style}: no keywords can be read from it ({type(error).__name__})"
        ) from None


def _references(model: Model, options: Options, files: dict[str, bytes]) -> list[Reference]:
    """In order; a model that only paints over a picture takes the one picture for that."""
    role: catalog.Role = "init" if model.roles == {"init"} else "reference"
    return [Reference(**_source("image", path, files), role=role) for path in _names(options.image)]


def _loras(options: Options, files: dict[str, bytes]) -> list[LoraUse]:
    uses = map(_scaled, _names(options.lora))
    return [LoraUse(**_source("lora", _lora_file(name), files), scale=scale) for name, scale in uses]


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _scaled(text: str) -> tuple[str, float]:
    """``name:0.8`` to its parts; 1 where no number is given."""
    name, colon, number = text.rpartition(":")
    with contextlib.suppress(ValueError):
        if colon:
            return name, float(number)
    return text, 1.0


def _lora_file(name: str) -> str:
    places = (Path(name), Path(f"{name}.safetensors"), LORAS / name, LORAS / f"{name}.safetensors")
    return str(next((path for path in places if path.is_file()), name))


def _source(option: str, path: str, files: dict[str, bytes]) -> dict[str, str]:
    """Address and sha256 of a file, whose bytes are added to the files."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadOption(f"--{option} {path}: {error.strerror}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    files[sha256] = content
    return {"url": Path(path).resolve().as_uri(), "sha256": sha256}


def _output_format(out: str) -> Any:
    """By the name of the file."""
    suffix = Path(out).suffix.lower()
    if suffix not in OUTPUT_FORMATS:
        raise BadOption(f"--out {out}: a name that ends in {', '.join(OUTPUT_FORMATS)}")
    return OUTPUT_FORMATS[suffix]


def _check_folder(out: Path) -> None:
    """Before anything is paid for."""
    if not out.parent.is_dir():
        raise BadOption(f"--out {out}: there is no folder {out.parent}")


def _tell(request: ImageRequest, call: Call, out: Path) -> None:
    seconds, gpu = call.timing.gpu_seconds, call.gpu or "a GPU without a price"
    try:
        micros = catalog.cost_usd_micros(gpu, seconds, datetime.now(UTC).date())
        cost = f"about ${micros / 1e6:.6f}"
    except KeyError:
        cost = "cost unknown"
    loading = f" (and {call.timing.load_seconds:.2f} s to load)" if call.timing.load_seconds else ""
    Console(soft_wrap=True, markup=False, highlight=False).print(
        f"{out.resolve()}: {request.model}, seed {request.seed}, {request.num_inference_steps} steps, "
        f"{seconds:.2f} s on {gpu}{loading}, {cost}"
    )


# Drawing here.


def _drawn(call: Call, request: ImageRequest, files: Mapping[str, bytes]) -> tuple[Call, list[bytes]]:
    """The call, succeeded, and its picture files; EngineError."""
    from modal_app.work import encoded, manifest  # noqa: PLC0415 - needs Pillow, which a client of Modal lacks

    model = catalog.find(request.model)
    if model is None:
        raise engine.LoadFailed(f"there is no model {request.model!r}")
    started = time.monotonic()
    loaded = engine.load(model)
    load_seconds, started = time.monotonic() - started, time.monotonic()
    with _kept(files) as paths, _on_step(request) as on_step:
        drawing = loaded.run(request, paths, on_step, lambda: False)
    timing = Timing(load_seconds=load_seconds, gpu_seconds=time.monotonic() - started)
    contents = encoded(request, drawing, recipe_secret="")
    ended = {"status": "succeeded", "step": call.steps, "timing": timing, "fingerprint": drawing.fingerprint}
    return call.model_copy(update={**ended, "result": manifest(request, drawing, contents)}), contents


@contextlib.contextmanager
def _kept(files: Mapping[str, bytes]) -> Iterator[dict[str, Path]]:
    """The files on disk for as long as they are needed."""
    with tempfile.TemporaryDirectory(prefix="tenkaigen-") as folder:
        paths = {sha256: Path(folder) / sha256 for sha256 in files}
        for sha256, path in paths.items():
            path.write_bytes(files[sha256])
        yield paths


@contextlib.contextmanager
def _on_step(request: ImageRequest) -> Iterator[engine.OnStep]:
    """A progress bar on standard error, where somebody watches it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(request.model, total=request.num_inference_steps)
        yield lambda step, steps: progress.update(task, completed=step, total=steps)


# What a person types.

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    prompt: Annotated[str, typer.Option(help="What to draw.")],
    style: Annotated[str, typer.Option(help="A house style such as design/anime, or words.")] = "",
    negative_prompt: Annotated[str, typer.Option(help="What not to draw.")] = "",
    width: Annotated[int, typer.Option(help="In pixels.")] = Options.width,
    height: Annotated[int, typer.Option(help="In pixels.")] = Options.height,
    seed: Annotated[int, typer.Option(help="The same seed draws the same picture; -1 draws one.")] = -1,
    steps: Annotated[int, typer.Option(help="0: as many as the quality takes.")] = 0,
    quality: Annotated[str, typer.Option(help="low, medium, high, xhigh, max or auto.")] = "auto",
    lora: Annotated[str, typer.Option(help="LoRA files with scales: a.safetensors:0.8,b:0.5")] = "",
    image: Annotated[str, typer.Option(help="Reference pictures: first.png,second.png")] = "",
    out: Annotated[str, typer.Option("-o", "--out", help="Where the picture goes.")] = Options.out,
    model: Annotated[str, typer.Option(help="A model of the catalogue.")] = "auto",
    cache: Annotated[
        Path, typer.Option(help="Folder of fetched checkpoints.", envvar="MODEL_CACHE")
    ] = engine.options.model_cache,
    accepted_licenses: Annotated[
        str, typer.Option(help="Models whose licence was read and accepted.", envvar="ACCEPTED_LICENSES")
    ] = "",
) -> None:
    """Draw one picture on this machine, without a server; prints seconds, GPU and cost."""
    options = Options(
        prompt=prompt,
        style=style,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        seed=seed,
        steps=steps,
        quality=quality,
        lora=lora,
        image=image,
        out=out,
        model=model,
    )
    engine.options = engine.Options(model_cache=cache, accepted_licenses=frozenset(_names(accepted_licenses)))
    raise typer.Exit(generate(options, local_runner(), models_here()))


def models_here() -> Models:
    """What ``auto`` stands for on this machine: the real rows need a GPU and their weights."""
    real = catalog.find(QWEN.words)
    return QWEN if real and engine.servable(real) and gpu_here() != "cpu" else TINY


if __name__ == "__main__":
    cli()

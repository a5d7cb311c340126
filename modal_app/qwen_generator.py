# mypy: disable-error-code="untyped-decorator"
"""The Qwen-Image family on Modal's GPUs, and a command line to try it:

modal run modal_app/qwen_generator.py --prompt "A dragon"
"""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from modal_app import deployment, resources
from modal_app.calls import Outcome, order
from modal_app.contract import REQUESTS, Call, SubmitCall
from modal_app.gpu_class import GpuClass

app = resources.app("tenkaigen-qwen")


@app.cls(**resources.gpu_class(deployment.RESIDENT))
class QwenGenerator(GpuClass):
    """Text to image and edit side by side on 48 GB."""

    settings = deployment.RESIDENT


@app.cls(**resources.gpu_class(deployment.ECONOMY))
class QwenEconomyGenerator(GpuClass):
    """One model at a time on 24 GB: cheaper by the hour, slower by the picture."""

    settings = deployment.ECONOMY


@app.cls(**resources.gpu_class(deployment.LARGE))
class QwenLargeGenerator(GpuClass):
    """16-bit weights on Hopper."""

    settings = deployment.LARGE


CLASSES = {
    deployment.RESIDENT.name: QwenGenerator,
    deployment.ECONOMY.name: QwenEconomyGenerator,
    deployment.LARGE.name: QwenLargeGenerator,
}


@app.local_entrypoint()
def main(
    prompt: str,
    style: str = "",
    negative_prompt: str = "",
    width: int = 1024,
    height: int = 1024,
    seed: int = -1,
    steps: int = 0,
    quality: str = "auto",
    lora: str = "",
    image: str = "",
    out: str = "test_output.png",
) -> None:
    """Draw one picture; the exit status is that of the call."""
    from modal_app import commands  # noqa: PLC0415 - containers import this file too and need no commands

    options = commands.Options(
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
    )
    if status := commands.generate(options, run_on_modal):
        raise SystemExit(status)


def run_on_modal(task: str, request: dict[str, Any], files: Mapping[str, bytes]) -> tuple[Call, list[bytes]]:
    """Run one call on the GPU class that draws its model; the ended call and its pictures."""
    call = SubmitCall.model_validate({"key": f"{uuid4()}:0:1", "task": task, "request": request})
    placed = order(call.key, call.task, REQUESTS[call.task].model_validate(request))
    generator = CLASSES[deployment.ROUTES[request["model"]]]
    outcome = Outcome.unpacked(generator().generate.remote(placed.text(), dict(files)))
    return outcome.call, outcome.pictures

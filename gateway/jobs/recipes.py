"""What a body asks for as columns of a job, and what its model cannot do: pure functions."""

from collections.abc import Sequence
from typing import Any

import styles
from gateway.errors import BadRequest, Malformed
from gateway.jobs.loras import LoraInUse
from gateway.jobs.schemas import PROMPT_LIMIT, EstimateWarning, JobCreate
from gateway.usage.estimator import Estimate
from modal_app import catalog
from modal_app.catalog import Model
from modal_app.contract import ENHANCED_LIMIT

OPTIONAL_FIELDS = (
    *("negative_prompt", "num_inference_steps", "true_cfg_scale", "guidance_scale"),
    *("loras", "mask", "strength"),
)
"""Fields a model may not support; one that was sent to such a model is refused by name."""


UNPRICED: dict[str, Any] = {
    "estimated_usd_micros": 0,
    "reserved_usd_micros": 0,
    "reserved_gpu_seconds": 0,
}
"""Columns of a job that is not expected to cost anything, or nobody knows what."""
NO_PLAN: dict[str, Any] = {"plan": None, "inputs": {}, "image_kind": "generation"}
"""Columns of a job that the plan of its task leads and nothing was told."""


def refuse_long(prompt: str) -> None:
    """BadRequest that names ``prompt`` when it is longer than a prompt may be."""
    if len(prompt) > PROMPT_LIMIT:
        raise BadRequest(
            f"A prompt has at most {PROMPT_LIMIT} characters; this one has {len(prompt)}.",
            code="prompt_too_long",
            param="prompt",
        )


def refuse_unsupported(body: JobCreate, model: Model) -> None:
    """BadRequest that names the first field the model does not understand."""
    for name in OPTIONAL_FIELDS:
        given = name in body.model_fields_set and getattr(body, name) not in (None, [])
        if given and name not in model.supports:
            raise _unsupported(name, f"`{model.id}` does not support `{name}`.")
    _refuse_references(body, model)


def warnings(body: JobCreate, model: Model, estimate: Estimate) -> list[EstimateWarning]:
    """What a caller should know before the job runs."""
    width, height = _size(body)
    native = catalog.native_size(model, width, height)
    found = []
    if not estimate.served:
        message = f"The running GPU service does not serve `{model.id}`; the figures are for {estimate.gpu}."
        found.append(EstimateWarning(code="model_unavailable", message=message))
    if not estimate.priced:
        message = f"There is no price for {estimate.gpu}."
        found.append(EstimateWarning(code="no_price", message=message))
    if estimate.seconds.basis == "catalogue":
        message = f"Too few jobs of `{model.id}` were measured on {estimate.gpu}: a figure of the catalogue."
        found.append(EstimateWarning(code="not_measured", message=message))
    if native != (width, height):
        message = f"Drawn at {native[0]}x{native[1]} and resampled to {width}x{height}."
        found.append(EstimateWarning(code="resampled", message=message))
    if body.enhance:
        message = "The prompt is rewritten when the job runs."
        found.append(EstimateWarning(code="prompt_enhanced", message=message))
    return found


def columns(
    body: JobCreate, model: Model, references: list[dict[str, Any]], loras: Sequence[LoraInUse] = ()
) -> dict[str, Any]:
    """Everything of a new job that the body and the model decide."""
    width, height = _size(body)
    style = _style(body.style)
    params = _params(body, model)
    words = [word for use in loras for word in use.lora.trigger_words]
    called = body.enhance or any(use.franchise for use in loras)  # else the caller writes the words
    prompt = with_trained_words(body.prompt, words) if called else body.prompt
    return {
        **NO_PLAN,
        "task": "image",
        "priority": body.priority,
        "prompt_input": body.prompt,
        "prompt_enhanced": None,
        "prompt_final": final_prompt(prompt, style.id if style else None, references),
        "prompt_negative": body.negative_prompt,
        "enhance_status": "fallback" if body.enhance else "off",
        "inputs": {"enhance": _enhancing(words) if loras else {"mode": "reference"}} if body.enhance else {},
        "style": style.id if style else None,
        "model": model.id,
        "width": width,
        "height": height,
        "num_images": body.num_images,
        "params": params,
        "loras": [use.entry(model) for use in loras],
        "references": references,
        "metadata": body.metadata,
        "steps": params["num_inference_steps"],
    }


def final_prompt(prompt: str, style_id: str | None, references: list[dict[str, Any]]) -> str:
    """What the model is given: the style behind the prompt, then which pictures are there for their look."""
    style = styles.find(style_id) if style_id else None
    return _with_style_pictures(styles.apply(style, prompt), references)


def with_trained_words(prompt: str, trained_words: list[str]) -> str:
    """The prompt behind the words that call a LoRA, at most ``ENHANCED_LIMIT`` characters of whole words."""
    text = called(prompt, trained_words)
    if text == prompt or len(text) <= ENHANCED_LIMIT:
        return text
    return text[: ENHANCED_LIMIT + 1].rpartition(" ")[0] or text[:ENHANCED_LIMIT]


def called(prompt: str, trained_words: Sequence[str]) -> str:
    """The whole prompt behind the words that call a LoRA, unless it begins with them."""
    words = ", ".join(word.strip() for word in trained_words if word.strip())
    if not words or prompt.lower().startswith(words.lower()):
        return prompt
    return f"{words}, {prompt}"


def task_columns(task: str, model: str, request: dict[str, Any]) -> dict[str, Any]:
    """Everything of a new job that draws nothing itself: a language task, or a parent."""
    prompt = request.get("prompt", "")
    return {
        **NO_PLAN,
        "task": task,
        "priority": "normal",
        "prompt_input": prompt,
        "prompt_enhanced": None,
        "prompt_final": prompt,
        "prompt_negative": None,
        "enhance_status": "off",
        "inputs": {"request": request},
        "style": None,
        "model": model,
        "width": 1,
        "height": 1,
        "num_images": 1,
        "seed": 0,
        "params": {},
        "loras": [],
        "references": [],
        "visibility": "private",
        "metadata": {},
        **UNPRICED,
        "steps": 0,
    }


def _enhancing(trained_words: list[str]) -> dict[str, Any]:
    return {"mode": "lora", "trained_words": trained_words}


def _refuse_references(body: JobCreate, model: Model) -> None:
    roles = [use.role for use in body.references]
    if len(roles) > model.max_references:
        most = f"at most {model.max_references} references" if model.max_references else "no references"
        raise _unsupported("references", f"`{model.id}` takes {most}.")
    for role in roles:
        if role not in model.roles:
            raise _unsupported("references", f"`{model.id}` does not take a reference as `{role}`.")
    if roles.count("init") > 1:
        raise _unsupported("references", "Only one reference can be the picture to start from.")
    if body.mask and not roles:
        raise _unsupported("mask", "A mask needs the picture it lies on, among the references.")
    if body.strength is not None and "init" not in roles and not body.mask:
        raise _unsupported("strength", "`strength` needs a reference with the role `init`, or a mask.")


def _unsupported(param: str, detail: str) -> BadRequest:
    return BadRequest(detail, code="unsupported_parameter", param=param)


def _with_style_pictures(prompt: str, references: list[dict[str, Any]]) -> str:
    """An edit model is told in words which pictures are there for their look alone."""
    pictures = [use["role"] for use in references if use["role"] != "mask"]
    numbers = [str(n) for n, role in enumerate(pictures, 1) if role == "style"]
    if not numbers:
        return prompt
    return f"{prompt}, in the style of picture {' and picture '.join(numbers)}"


def _params(body: JobCreate, model: Model) -> dict[str, Any]:
    """Explicit numbers win over ``quality``, and that over the model's own defaults."""
    by_quality = model.steps_by_quality.get(body.quality, model.num_inference_steps)
    steps = body.num_inference_steps or by_quality
    if steps > model.max_inference_steps:
        raise BadRequest(
            f"`{model.id}` takes at most {model.max_inference_steps} steps.",
            code="parameter_out_of_range",
            param="num_inference_steps",
        )
    cfg = model.true_cfg_scale if body.true_cfg_scale is None else body.true_cfg_scale
    if body.negative_prompt and cfg <= 1:
        raise _unsupported(
            "negative_prompt",
            f"A negative prompt acts through guidance, which `true_cfg_scale` {cfg:g} leaves off: "
            "send `true_cfg_scale` above 1 with it.",
        )
    params: dict[str, Any] = {"quality": body.quality, "num_inference_steps": steps, "true_cfg_scale": cfg}
    for name in ("guidance_scale", "strength"):
        if getattr(body, name) is not None:
            params[name] = getattr(body, name)
    return params | {"output_format": body.output_format, "output_compression": body.output_compression}


def _size(body: JobCreate) -> tuple[int, int]:
    """(width, height) in pixels: numbers win over ``size``, which is a name or WxH."""
    named = catalog.NAMED_SIZES.get(body.size) or _parsed_size(body.size)
    width, height = body.width or named[0], body.height or named[1]
    if max(width / height, height / width) > catalog.ASPECT_MAX:
        raise Malformed(f"{width}x{height} is not between 1:3 and 3:1.", code="invalid_size", param="size")
    return width, height


def _parsed_size(size: str) -> tuple[int, int]:
    names = ", ".join(catalog.NAMED_SIZES)
    wrong = Malformed(
        f"`{size[:40]}` is neither WxH nor one of {names}; sides are multiples of "
        f"{catalog.SIZE_MULTIPLE} from {catalog.SIZE_MIN} to {catalog.SIZE_MAX}.",
        code="invalid_size",
        param="size",
    )
    width, times, height = size.partition("x")
    if not (
        times
        and width.isascii()
        and width.isdigit()
        and height.isascii()
        and height.isdigit()
        and len(size) < 12
    ):
        raise wrong
    sides = int(width), int(height)
    if any(not catalog.SIZE_MIN <= s <= catalog.SIZE_MAX or s % catalog.SIZE_MULTIPLE for s in sides):
        raise wrong
    return sides


def _style(name: str | None) -> styles.Style | None:
    if name is None:
        return None
    style = styles.find(name)
    if style is None:
        raise BadRequest(f"There is no style `{name[:80]}`.", code="unknown_style", param="style")
    return style

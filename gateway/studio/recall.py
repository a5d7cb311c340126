"""From a job back to the request that would make it again."""

from typing import Any

from gateway.studio.api import Json

SIZES = {
    "square": (1024, 1024),
    "portrait": (896, 1152),
    "landscape": (1152, 896),
    "ref_portrait": (832, 1216),
    "panel": (1728, 2304),
}
"""The named sizes of ``POST /v1/jobs`` that the form offers."""


def request_of(job: Json) -> Json:
    """A body for ``POST /v1/jobs``: the same words, look, size, seed and pictures to draw from."""
    params = job["params"]
    body: dict[str, Any] = {"prompt": job["prompt"]["input"], "style": job["style"], "model": job["model"]}
    body |= _size(params) if "width" in params else {}
    body |= {"seed": params.get("seed"), "num_inference_steps": params.get("num_inference_steps")}
    body |= {name: params.get(name) or None for name in ("loras", "references")}
    if params.get("num_images", 1) > 1:
        body["num_images"] = params["num_images"]
    if job["prompt"]["enhance_status"] != "off":
        body["enhance"] = True
    return {name: value for name, value in body.items() if value is not None}


def _size(params: Json) -> Json:
    size = params["width"], params["height"]
    named = [name for name, pixels in SIZES.items() if pixels == size]
    return {"size": named[0] if named else "x".join(map(str, size))}

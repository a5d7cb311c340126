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
    body |= {"loras": params.get("loras") or None, **_pictures(params.get("references") or [])}
    if params.get("num_images", 1) > 1:
        body["num_images"] = params["num_images"]
    if job["prompt"]["enhance_status"] != "off":
        body["enhance"] = True
    return {name: value for name, value in body.items() if value is not None}


def before_of(job: Json) -> str | None:
    """Where the picture is that this job's were made from: varied, enlarged, drawn over, or drawn from."""
    params = job["params"]
    if varied := params.get("variation_of"):
        return f"/v1/images/{varied}/content"
    uses = {use.get("role"): use for use in reversed(params.get("references") or [])}
    use = uses.get("init") or uses.get("reference") or {}
    if "image_id" in use:
        return f"/v1/images/{use['image_id']}/content"
    return f"/v1/uploads/{use['upload_id']}/content" if "upload_id" in use else None


def _pictures(uses: list[Json]) -> Json:
    """A job tells its mask among its pictures; a body names it apart."""
    masks = [{name: value for name, value in use.items() if name != "role"} for use in uses if _is_mask(use)]
    return {
        "references": [use for use in uses if not _is_mask(use)] or None,
        "mask": masks[0] if masks else None,
    }


def _is_mask(use: Json) -> bool:
    return bool(use.get("role") == "mask")


def _size(params: Json) -> Json:
    size = params["width"], params["height"]
    named = [name for name, pixels in SIZES.items() if pixels == size]
    return {"size": named[0] if named else "x".join(map(str, size))}

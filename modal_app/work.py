"""One call's work with a loaded engine: from a request to a result and its files.

Importing this module imports no torch; engines bring their own.
"""

import hashlib
from collections.abc import Callable

from modal_app.contract import (
    CONTENT_TYPES,
    ImageRequest,
    ImageResult,
    LanguageRequest,
    LanguageResult,
    PictureInfo,
    UpscaleRequest,
    seal,
)
from modal_app.engine import Drawing, Engine, Files, LanguageEngine, OnStep, language, pictures
from modal_app.engine.recipe import parameters, pixels_sha256, recipe


def carry_out(
    loaded: Engine,
    request: ImageRequest | LanguageRequest,
    files: Files,
    on_step: OnStep,
    cancelled: Callable[[], bool],
) -> Drawing | LanguageResult:
    """What the request asks for; EngineError.  A language task is done by rules where no model can."""
    if isinstance(request, UpscaleRequest):
        from modal_app.engine.upscale import upscale  # noqa: PLC0415 - needs numpy

        return upscale(loaded, request, files, on_step, cancelled)
    if isinstance(request, ImageRequest):
        return loaded.run(request, files, on_step, cancelled)
    if isinstance(loaded, LanguageEngine):
        return loaded.answer(request, files, cancelled)
    return language.answer(None, request, files, cancelled)


def encoded(request: ImageRequest, drawing: Drawing, recipe_secret: str) -> list[bytes]:
    """Picture files, each with its sealed recipe; without a secret, with none."""
    return [
        pictures.encode(
            picture.image,
            request.output_format,
            request.output_compression,
            _notes(request, drawing, n, recipe_secret),
        )
        for n, picture in enumerate(drawing.pictures)
    ]


def manifest(request: ImageRequest, drawing: Drawing, files: list[bytes]) -> ImageResult:
    """What is told of the files, which are pulled afterwards."""
    width, height = drawing.native_size
    return ImageResult(
        images=[
            PictureInfo(
                n=n,
                sha256=hashlib.sha256(content).hexdigest(),
                bytes=len(content),
                content_type=CONTENT_TYPES[request.output_format],
                width=picture.image.width,
                height=picture.image.height,
                seed=picture.seed,
                pixels_sha256=pixels_sha256(picture.image),
            )
            for n, (picture, content) in enumerate(zip(drawing.pictures, files, strict=True))
        ],
        native_width=width,
        native_height=height,
        resampling=drawing.resampling,
    )


def _notes(request: ImageRequest, drawing: Drawing, n: int, recipe_secret: str) -> pictures.Notes | None:
    if not recipe_secret:
        return None
    known = recipe(request, drawing, n)
    return pictures.Notes(parameters(known), seal(known, recipe_secret))

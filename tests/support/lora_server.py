"""Stands in for Hugging Face, Civitai and a site of one's own: files, redirects, tokens, and a slow line."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

LORAS = Path(__file__).parents[1] / "data" / "loras"
SEPIA = (LORAS / "sepia" / "pytorch_lora_weights.safetensors").read_bytes()
FRAME = (LORAS / "frame" / "pytorch_lora_weights.safetensors").read_bytes()
HF_TOKEN, CIVITAI_TOKEN = "hf_of_the_tests", "civitai_of_the_tests"


def lora(layer: str, wide: int = 3072) -> bytes:
    """A LoRA of one layer, as PEFT writes it."""
    down, up = np.ones((1, wide), np.float32), np.ones((wide, 1), np.float32)
    return save({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up})


FLUX = lora("transformer.single_transformer_blocks.0.attn.to_q")
FILES = {"sepia": SEPIA, "frame": FRAME, "flux": FLUX}


class LoraServer:
    """``seen`` has host, path and credential of every request; ``gate`` opens the slow line."""

    def __init__(self) -> None:
        self.files = {f"/{name}.safetensors": content for name, content in FILES.items()}
        self.seen: list[tuple[str, str, str | None]] = []
        self.gate = asyncio.Event()
        self.app = Starlette(
            routes=[
                Route("/away/{where}", self._away),
                Route("/slow/{name}", self._slow),
                Route("/{owner}/{repository}/resolve/{revision}/{file:path}", self._hugging_face),
                Route("/api/download/models/{version}", self._civitai),
                Route("/api/v1/model-versions/{version}", self._civitai_facts),
                Route("/{path:path}", self._file),
            ]
        )

    def requests(self, path: str) -> list[tuple[str, str | None]]:
        """Host and credential of those that began with ``path``."""
        return [(host, credential) for host, at, credential in self.seen if at.startswith(path)]

    def _note(self, request: Request) -> None:
        self.seen.append((request.url.hostname or "", request.url.path, request.headers.get("authorization")))

    async def _file(self, request: Request) -> Response:
        self._note(request)
        content = self.files.get(f"/{request.path_params['path'].rpartition('/')[2]}")
        return Response(content) if content is not None else Response("no", 404)

    async def _away(self, request: Request) -> Response:
        """To another host of the same machine: 0.0.0.0, say."""
        self._note(request)
        return RedirectResponse(f"http://{request.path_params['where']}:{request.url.port}/sepia.safetensors")

    async def _slow(self, request: Request) -> Response:
        self._note(request)
        content = self.files[f"/{request.path_params['name']}"]

        async def pieces() -> AsyncIterator[bytes]:
            yield content[:1000]
            while not self.gate.is_set():  # uvicorn waits for no event of another loop
                await asyncio.sleep(0.02)
            yield content[1000:]

        return StreamingResponse(pieces(), headers={"content-length": str(len(content))})

    async def _hugging_face(self, request: Request) -> Response:
        self._note(request)
        if request.headers.get("authorization") != f"Bearer {HF_TOKEN}":
            return Response("gated", 401)
        file = request.path_params["file"]
        return RedirectResponse(f"http://localhost:{request.url.port}/cdn/{file}")

    async def _civitai(self, request: Request) -> Response:
        self._note(request)
        if request.headers.get("authorization") != f"Bearer {CIVITAI_TOKEN}":
            return Response("sign in", 401)
        return RedirectResponse(f"http://localhost:{request.url.port}/b2/frame.safetensors", 307)

    async def _civitai_facts(self, request: Request) -> Response:
        self._note(request)
        return JSONResponse({"trainedWords": ["frm", "a frame"], "baseModel": "SDXL 1.0", "files": []})

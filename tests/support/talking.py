"""A GPU service in this process whose instant model also speaks, as the test tells it to."""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.app import create_app
from modal_app import service
from modal_app.callback import Callback
from modal_app.catalog import Model
from modal_app.contract import (
    EnhanceRequest,
    EnhanceResult,
    JudgeRequest,
    JudgeResult,
    LanguageRequest,
    LanguageResult,
    SubjectResult,
    Verdict,
)
from modal_app.engine import Canceled, EngineError, Files, instant, language
from modal_app.executor import LocalExecutor
from tests.support.stack import (
    GPU_TOKEN,
    WEBHOOK_SECRET,
    Process,
    Stack,
    free_port,
    gateway_settings,
    serve,
)


@dataclass
class Speech:
    """What the model says, and what it was asked."""

    asked: list[LanguageRequest] = field(default_factory=list)
    rewritten: str = "a detailed {}"
    scores: list[float] = field(default_factory=lambda: [100.0])
    """Of judged pictures, one after another; the last is repeated."""
    seconds: float = 0.0
    broken: bool = False

    def answer(self, request: LanguageRequest, files: Files, cancelled: Callable[[], bool]) -> LanguageResult:
        self.asked.append(request)
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            if cancelled():
                raise Canceled("canceled")
            time.sleep(0.01)
        if self.broken:
            raise EngineError("the words do not fit")
        if isinstance(request, EnhanceRequest):
            return EnhanceResult(prompt=self.rewritten.format(request.prompt), answered_by="vlm")
        if isinstance(request, JudgeRequest):
            score = self.scores.pop(0) if len(self.scores) > 1 else self.scores[0]
            return JudgeResult(score=score, verdicts=[], subjects=_seen(request, score), answered_by="vlm")
        return language.answer(None, request, files, cancelled)


def _seen(request: JudgeRequest, score: float) -> list[SubjectResult]:
    """The first came out so, the others are perfect; the last reference is the most like the picture."""
    return [
        SubjectResult(
            score=100.0 if n else score,
            likeness=[float(k) for k in range(len(subject.references))],
            verdicts=[Verdict(attribute=each, kept=score >= 50, score=score) for each in subject.attributes],
        )
        for n, subject in enumerate(request.subjects)
    ]


class TalkingEngine(instant.InstantEngine):
    def __init__(self, model: Model, speech: Speech) -> None:
        super().__init__(model, seconds=float(os.environ.get("INSTANT_SECONDS", "0")))
        self._speech = speech

    def answer(self, request: LanguageRequest, files: Files, cancelled: Callable[[], bool]) -> LanguageResult:
        return self._speech.answer(request, files, cancelled)


@contextlib.asynccontextmanager
async def talking_gpu(
    folder: Path, speech: Speech, gateway_url: str, *, webhook: bool, gpu: str = "cpu"
) -> AsyncIterator[str]:
    """The GPU service; yields its URL.  Without a webhook the gateway has to ask.  ``gpu``: what it costs."""
    callback = Callback(f"{gateway_url}/v1/callbacks/gpu", WEBHOOK_SECRET) if webhook else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instant, "load", lambda model: TalkingEngine(model, speech))
        async with (
            callback or contextlib.nullcontext(),
            LocalExecutor(
                models=["instant"],
                folder=folder / "gpu",
                callback=callback,
                origins=[gateway_url],
                gpu=gpu,
            ) as executor,
            serve(service.create_app(executor, GPU_TOKEN)) as url,
        ):
            yield url


@contextlib.asynccontextmanager
async def talking_stack(
    admin_url: str,
    folder: Path,
    speech: Speech,
    *,
    webhook: bool = True,
    gpu: str = "cpu",
    **overrides: object,
) -> AsyncIterator[Stack]:
    """Gateway and talking GPU service, both in this process."""
    port = free_port()
    async with talking_gpu(folder, speech, f"http://127.0.0.1:{port}", webhook=webhook, gpu=gpu) as gpu_url:
        settings = {"default_model": "instant", "webhook_patience_seconds": 0.3, **overrides}
        app = create_app(gateway_settings(admin_url, folder, port, gpu_url, **settings))
        async with serve(app, port) as url:
            running = Stack(admin_url, folder, NO_PROCESS, url)
            running.app = app
            yield running


NO_PROCESS = Process("", {}, Path(), "")

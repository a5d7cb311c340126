"""The client of the GPU service, where the service is not what it should be."""

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from gateway import gpu
from gateway.config import Settings
from gateway.gpu import GpuClient, GpuRefused, GpuUnreachable
from tests.support.stack import free_port, serve


def settings_of(endpoint: str) -> Settings:
    return Settings(_env_file=None, modal_generate_endpoint=endpoint, gpu_token="a-token-of-the-tests")  # type: ignore[call-arg]


async def test_who_hears_that_nobody_answers_is_told_no_address() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    async with GpuClient(settings_of(endpoint)) as client:
        with pytest.raises(GpuUnreachable) as refused:
            await client.healthy()
    assert str(refused.value) == "no answer (ClientConnectorError)"


async def test_an_answer_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PICTURE_LIMIT_BYTES", 1000)
    service = FastAPI()

    @service.get("/calls/{call}/images/{n}")
    async def image(call: str, n: int) -> Response:
        return Response(bytes(1000 + n))

    async with serve(service) as endpoint, GpuClient(settings_of(f"{endpoint}/")) as client:
        assert await client.picture("a", 0) == bytes(1000)
        with pytest.raises(GpuRefused) as refused:
            await client.picture("a", 1)
    assert refused.value.code == "answer_too_large"


async def test_the_credential_follows_no_redirect() -> None:
    asked, service = [], FastAPI()

    @service.get("/{path}")
    async def anything(path: str) -> Response:
        asked.append(path)
        return RedirectResponse("/elsewhere")

    async with serve(service) as endpoint, GpuClient(settings_of(endpoint)) as client:
        with pytest.raises(GpuUnreachable, match="307"):
            await client.healthy()
    assert asked == ["healthz"]


async def test_the_way_leads_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, proxy = [], FastAPI()

    @proxy.get("/{path:path}")
    async def passed_on(request: Request) -> Response:
        asked.append((request.headers["host"], request.headers["authorization"]))
        return Response()

    async with serve(proxy) as address:
        monkeypatch.setenv("http_proxy", address)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        async with GpuClient(settings_of("http://gpu.invalid")) as client:
            await client.healthy()
    assert asked == [("gpu.invalid", "Bearer a-token-of-the-tests")]

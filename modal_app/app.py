# mypy: disable-error-code="untyped-decorator"
"""What is deployed: ``modal deploy -m modal_app.app``, from the root of the repository.

    generate_endpoint   the front door, behind Modal's proxy auth; spawns
    CallConductor       leads a call on a CPU; spawns
    the GPU classes     of ``qwen_generator`` and ``diffusion_generator``

Nothing imports this file: whoever did would make a second app.
"""

import os
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import modal
from starlette.applications import Starlette

from modal_app import deployment, diffusion_generator, qwen_generator, resources
from modal_app.callback import Callback
from modal_app.conductor import Conductor, ModalExecutor
from modal_app.conductor_modal import ModalBackend
from modal_app.service import create_app
from modal_app.shelf import Fetching
from modal_app.sources import Sources

app = resources.app(deployment.APP).include(qwen_generator.app).include(diffusion_generator.app)

GENERATORS = {**qwen_generator.CLASSES, **diffusion_generator.CLASSES}


@app.function(**resources.cpu_function(deployment.FRONT_DOOR))
@modal.concurrent(max_inputs=deployment.FRONT_DOOR.max_inputs)
@modal.asgi_app(label=deployment.ENDPOINT_LABEL, requires_proxy_auth=deployment.PROXY_AUTH)
def generate_endpoint() -> Starlette:
    """The protocol of ``contract``; Modal has checked who calls, so there is no token of ours."""
    executor = ModalExecutor(
        _backend(),
        models=deployment.served_models(),
        gpu=deployment.RESIDENT.gpus[0],
        drop_file=_drop_file,
    )
    return create_app(executor, token=None)


@app.cls(**resources.conductor(deployment.CONDUCTOR))
@modal.concurrent(max_inputs=deployment.CONDUCTOR.max_inputs)
class CallConductor:
    """Many calls to a container: it only waits, for GPUs and for the gateway."""

    @modal.enter()
    async def open(self) -> None:
        self._open = AsyncExitStack()
        self._conductor = conductor(
            await self._open.enter_async_context(_sources()),
            await self._open.enter_async_context(_callback()),
        )

    @modal.method()
    async def conduct(self, call_id: str) -> None:
        """Lead a call from its order to the webhook."""
        await self._conductor.conduct(call_id, modal.current_function_call_id())

    @modal.method()
    async def redeliver(self, call_id: str) -> bool:
        """Tell the gateway again of a call whose event it did not take; whether it knows now."""
        return await self._conductor.announce(call_id)

    @modal.exit()
    async def close(self) -> None:
        await self._open.aclose()


def conductor(sources: Sources, callback: Callback) -> Conductor:
    """Over Modal, as the table says."""
    return Conductor(
        _backend(),
        routes=deployment.ROUTES,
        gpus={each.name: each.gpus[0] for each in deployment.GPU_CLASSES},
        fetcher=Fetching(sources, resources.sources.commit.aio),
        callback=callback,
        patience_seconds=deployment.PATIENCE_SECONDS,
        webhook_rounds=deployment.WEBHOOK_ROUNDS,
        webhook_pause_seconds=deployment.WEBHOOK_PAUSE_SECONDS,
    )


async def _drop_file(sha256: str) -> None:
    """One that is not there is no error."""
    with suppress(FileNotFoundError, modal.exception.NotFoundError):
        await resources.sources.remove_file.aio(f"/{sha256}")


def _backend() -> ModalBackend:
    return ModalBackend(resources.calls, CallConductor, GENERATORS)


def _callback() -> Callback:
    return Callback(os.environ["TENKAIGEN_WEBHOOK_URL"], os.environ["TENKAIGEN_WEBHOOK_SECRET"])


def _sources() -> Sources:
    origins = os.environ.get("GPU_ORIGINS") or os.environ["TENKAIGEN_WEBHOOK_URL"]
    return Sources(Path(deployment.SOURCE_FOLDER), [name.strip() for name in origins.split(",")])

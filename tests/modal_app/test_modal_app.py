"""What is deployed on Modal, as far as it can be shown without its servers."""

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import modal
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from standardwebhooks.webhooks import Webhook
from starlette.applications import Starlette

from modal_app import app as deployed
from modal_app import deployment, gpu_class, qwen_generator, resources
from modal_app.callback import Callback
from modal_app.calls import announced_key, conductor_key, order, order_key
from modal_app.conductor_memory import MemoryBackend
from modal_app.engine.instant import InstantEngine
from modal_app.sources import Sources
from tests.modal_app.conftest import SECRET, Client, Gateway, image_request, new_key

pytestmark = pytest.mark.filterwarnings("ignore:.*is executing locally:UserWarning")

ROOT = Path(__file__).parents[2]
DEAD_SERVER = {"MODAL_SERVER_URL": "http://127.0.0.1:9", "MODAL_CONFIG_PATH": "/nonexistent"}
COMMAND = [sys.executable, "-m", "modal", "run", "modal_app/qwen_generator.py"]


def output_of(command: list[str], **environment: str) -> tuple[int, str]:
    settings = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **DEAD_SERVER, **environment}
    ended = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, timeout=300, check=False)
    return ended.returncode, (ended.stdout + ended.stderr).decode()


def test_the_command_line_refuses_to_draw_nothing() -> None:
    status, text = output_of(COMMAND)
    assert status == 2 and "--prompt" in text and "Traceback" not in text


def test_the_command_line_explains_itself_without_a_server() -> None:
    status, text = output_of([*COMMAND, "--help"])
    assert status == 0
    names = ("prompt", "style", "negative-prompt", "width", "height", "seed", "steps", "quality")
    for name in (*names, "lora", "image", "out"):
        assert f"--{name}" in text


def test_without_a_token_the_command_line_says_so() -> None:
    status, text = output_of([*COMMAND, "--prompt", "A dragon"])
    assert status == 1 and "Token missing" in text


def test_a_dead_letter_can_be_told_again_by_hand() -> None:
    target = [*COMMAND[:4], "-m", "modal_app.app::CallConductor.redeliver", "--help"]
    status, text = output_of(target)
    assert status == 0 and "--call-id" in text


def required(names: list[str]) -> set[str]:
    """The packages and all that they require, in this environment."""
    found: set[str] = set()
    while names:
        name = canonicalize_name(names.pop())
        if name in found:
            continue
        found.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):
            for line in metadata.requires(name) or []:
                each = Requirement(line)
                if each.marker is None or each.marker.evaluate({"extra": ""}):
                    names.append(each.name)
    return found


IMPORT_BLOCKER = """
import sys
from importlib.machinery import PathFinder
class OnlyOfTheImage(PathFinder):
    @staticmethod
    def find_spec(name, path=None, target=None):
        absent = name.split(".")[0] in {blocked!r}
        return None if absent else PathFinder.find_spec(name, path, target)
sys.meta_path = [OnlyOfTheImage if finder is PathFinder else finder for finder in sys.meta_path]
"""


def in_an_image_with(packages: dict[str, str], code: str) -> tuple[int, str]:
    """Run code where nothing can be imported but Modal's client and the packages of an image."""
    there = {*packages, *required(["modal"])}
    blocked = sorted(
        module
        for module, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & {*there, "setuptools", "tenkaigen"}
    )
    assert "uvicorn" in blocked
    return output_of([sys.executable, "-c", IMPORT_BLOCKER.format(blocked=blocked) + code])


def test_the_front_door_opens_with_the_packages_of_its_image_and_without_torch() -> None:
    code = (
        "import asyncio, httpx, modal_app.app as app\n"
        "async def ask():\n"
        "    transport = httpx.ASGITransport(app.generate_endpoint.local())\n"
        "    async with httpx.AsyncClient(transport=transport, base_url='http://gpu') as http:\n"
        "        print((await http.get('/healthz')).json(), (await http.get('/models')).json())\n"
        "asyncio.run(ask())\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'PIL', 'numpy'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    status, text = in_an_image_with(dict(deployment.CPU_PACKAGES), code)
    assert status == 0, text
    assert "'status': 'ok'" in text and "qwen-image-fast" in text and "'gpu': 'L40S'" in text


def test_a_gpu_container_draws_with_the_packages_of_its_image() -> None:
    code = (
        "from modal_app import calls, contract, qwen_generator\n"
        "request = contract.ImageRequest(model='tiny-qwen', prompt='a red creature', width=96, height=96,\n"
        "    seed=1, num_inference_steps=2)\n"
        "order = calls.order('00000000-0000-4000-8000-000000000000:0:1', 'image', request)\n"
        "parcel = qwen_generator.QwenGenerator().generate.local(order.text())\n"
        "print(parcel['call'][:300], len(parcel['pictures'][0]))\n"
    )
    status, text = in_an_image_with(dict(deployment.GPU_PACKAGES), code)
    assert status == 0 and '"status":"succeeded"' in text, text


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[ModuleType, list[Any]]]:
    """Loads a file of ours as ``modal run`` does, and gives what its decorators were called with."""
    found: list[Any] = []

    def recorder(kind: str, original: Any) -> Any:
        def decorator(*args: Any, **named: Any) -> Any:
            found.append((kind, named))
            return original(*args, **named)

        return decorator

    for kind, owner in (("cls", modal.App), ("function", modal.App)):
        monkeypatch.setattr(owner, kind, recorder(kind, getattr(owner, kind)))
    for kind in ("asgi_app", "concurrent"):
        monkeypatch.setattr(modal, kind, recorder(kind, getattr(modal, kind)))

    def load(name: str) -> tuple[ModuleType, list[Any]]:
        path = ROOT / "modal_app" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"loaded_{name}", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module, found

    return load


def test_every_gpu_class_is_deployed_as_the_table_says(recorded: Any) -> None:
    recorded("qwen_generator")
    _, found = recorded("diffusion_generator")
    assert [kind for kind, _ in found] == ["cls"] * len(deployment.GPU_CLASSES)
    for (_, options), pool in zip(found, deployment.GPU_CLASSES, strict=True):
        assert options.items() >= pool.options().items()
        assert options["secrets"] == [resources.secret]
        assert options["volumes"].keys() == {deployment.MODEL_FOLDER, deployment.SOURCE_FOLDER}
        assert options["image"] is resources.gpu_image


def test_the_front_door_and_the_conductor_are_deployed_as_the_table_says(recorded: Any) -> None:
    _, found = recorded("app")
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for kind, options in found:
        by_kind.setdefault(kind, []).append(options)
    (endpoint,) = by_kind["asgi_app"]
    assert endpoint == {"label": deployment.ENDPOINT_LABEL, "requires_proxy_auth": True}
    (front_door,) = by_kind["function"]
    (conductor,) = by_kind["cls"]
    assert front_door.items() >= deployment.FRONT_DOOR.options().items()
    assert conductor.items() >= deployment.CONDUCTOR.options().items()
    assert "gpu" not in front_door and "gpu" not in conductor
    assert "secrets" not in front_door, "the front door knows no secret"
    assert conductor["secrets"] == [resources.secret]
    assert conductor["volumes"] == {deployment.SOURCE_FOLDER: resources.sources}
    assert {options["max_inputs"] for options in by_kind["concurrent"]} == {100}


def test_what_is_made_of_the_table_has_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, Any]] = []
    for kind in ("Dict", "Secret", "Volume"):
        original = getattr(modal, kind).from_name

        def from_name(name: str, kind: str = kind, original: Any = original, **options: Any) -> Any:
            made.append((f"{kind} {name}", options))
            return original(name, **options)

        monkeypatch.setattr(getattr(modal, kind), "from_name", from_name)
    local: list[tuple[Any, Any]] = []
    original_local = modal.Image.add_local_python_source

    def add(image: modal.Image, *packages: str, **options: Any) -> modal.Image:
        local.append((packages, options["ignore"]))
        return original_local(image, *packages, **options)

    monkeypatch.setattr(modal.Image, "add_local_python_source", add)
    spec = importlib.util.spec_from_file_location("loaded_resources", resources.__file__)
    assert spec and spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert dict(made) == {
        f"Dict {deployment.CALLS}": {"create_if_missing": True},
        f"Secret {deployment.SECRET}": {"required_keys": list(deployment.SECRET_KEYS)},
        f"Volume {deployment.MODEL_VOLUME}": {"create_if_missing": True},
        f"Volume {deployment.SOURCE_VOLUME}": {"create_if_missing": True},
    }
    assert local == [(deployment.LOCAL_PACKAGES, list(deployment.IGNORED_FILES))] * 2


def test_the_bundled_model_goes_along_with_our_code() -> None:
    ignored = modal.file_pattern_matcher.FilePatternMatcher(*deployment.IGNORED_FILES)
    weights = [*(ROOT / "modal_app/engine/tiny").rglob("*.safetensors")]
    assert weights and not any(ignored(path.relative_to(ROOT)) for path in weights)
    assert ignored(Path("modal_app/__pycache__/app.cpython-311.pyc"))


def test_a_kernel_is_fetched_by_its_commit_once_there_is_one() -> None:
    kernel = deployment.Kernel(repository="someone/kernels", version=2)
    (fetch,) = resources._kernel_commands(kernel)
    assert "revision='v2'" in fetch and "someone/kernels" in fetch
    fetch, note = resources._kernel_commands(dataclasses.replace(kernel, revision="a" * 40))
    assert "a" * 40 in fetch and note.endswith("/hub/kernels--someone--kernels/refs/v2")


def test_an_image_has_every_kernel_that_diffusers_will_ask_for() -> None:
    from diffusers.models.attention_dispatch import _HUB_KERNELS_REGISTRY, AttentionBackendName

    from modal_app.engine.acceleration import _ATTENTION

    asked = [_HUB_KERNELS_REGISTRY[AttentionBackendName(name)] for name in _ATTENTION.values()]
    wanted = {(kernel.repo_id, kernel.version) for kernel in asked}
    spec = importlib.util.find_spec("diffusers.quantizers.nunchaku.utils")
    assert spec and spec.origin  # not imported: without the kernels it raises
    constants = dict(re.findall(r"^_HF_KERNEL_(\w+) = (.+)$", Path(spec.origin).read_text(), re.MULTILINE))
    wanted.add((constants["REPO"].strip('"'), int(constants["VERSION"])))
    assert {(kernel.repository, kernel.version) for kernel in deployment.KERNELS} == wanted


def test_every_route_leads_to_a_class_that_is_deployed() -> None:
    assert set(deployment.ROUTES.values()) <= deployed.GENERATORS.keys()
    assert {pool.name for pool in deployment.GPU_CLASSES} == deployed.GENERATORS.keys()


class LocalContainer:
    """A container of ``QwenGenerator`` as Modal's ``.local()`` gives it."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._container = qwen_generator.QwenGenerator()

    def start(self) -> None:
        """Its hooks run at the first call."""

    def generate(self, order_text: str) -> dict[str, Any]:
        return dict(self._container.generate.local(order_text))


class Calls:
    """In the place of the ``modal.Dict``, for threads."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.get, self.put = backend.read, backend.write


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    options = gpu_class.engine.options
    monkeypatch.setenv("RECIPE_SECRET", "of the tests")
    monkeypatch.setattr(deployment, "ROUTES", {**deployment.ROUTES, "instant": "QwenGenerator"})
    yield
    gpu_class.engine.options = options


@pytest.fixture
async def gpu(
    quick_start: None, tmp_path: Path, callback: Callback, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    """The deployed front door and GPU class, both through ``.local()``, and the conductor between them."""
    makers: Any = {"QwenGenerator": LocalContainer}
    async with Sources(tmp_path, []) as sources, MemoryBackend(makers) as backend:
        monkeypatch.setattr(deployed, "_backend", lambda: backend)
        monkeypatch.setattr(resources, "calls", Calls(backend))
        backend.conductor = deployed.conductor(sources, callback)
        endpoint = deployed.generate_endpoint.local()
        assert isinstance(endpoint, Starlette)
        transport = httpx.ASGITransport(endpoint)
        async with httpx.AsyncClient(transport=transport, base_url="http://gpu") as http:
            client = Client(backend, http)  # type: ignore[arg-type]
            yield client


async def test_a_call_that_fails_is_told_and_costs_one_run(
    gpu: Client, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise ValueError("with secret words")

    monkeypatch.setattr(InstantEngine, "run", broken)
    call = await gpu.ended(await gpu.accepted())
    await gateway.until(lambda: bool(gateway.events("failed")))
    assert call.error and call.error.code == "engine_failed"
    assert gpu.executor.runs_of(call.call_id) == 1  # type: ignore[attr-defined]
    assert b"secret words" not in b"".join(body for _, body in gateway.received)


async def test_a_picture_comes_all_the_way_from_a_gpu_class_with_a_signed_webhook(
    gpu: Client, gateway: Gateway
) -> None:
    key = new_key()
    call_id = await gpu.accepted(key, model="tiny-qwen", num_inference_steps=40)
    assert await gpu.accepted(key, model="tiny-qwen") == call_id
    call = await gpu.ended(call_id)
    assert call.status == "succeeded" and call.result, call.error
    await gateway.until(lambda: bool(gateway.events("succeeded")))
    picture = await gpu.http.get(f"/calls/{call_id}/images/0")
    assert picture.headers["ETag"] == f'"{call.result.images[0].sha256}"'
    for headers, body in gateway.received:
        Webhook(SECRET).verify(body.decode(), headers)
    (event,) = gateway.events("succeeded")
    assert event.call == call and call.timing.load_seconds > 0


async def test_a_cancel_reaches_the_container_and_leaves_it_clean(
    gpu: Client, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = await gpu.ended(await gpu.accepted(model="tiny-qwen"))
    # The container looks once a second whether its call was canceled, which must not be when all is drawn.
    call_id = await gpu.accepted(model="tiny-qwen", num_inference_steps=100, num_images=10)
    await gpu.running(call_id)
    assert (await gpu.http.delete(f"/calls/{call_id}")).status_code == 200
    assert (await gpu.ended(call_id)).status == "canceled"
    assert (await gpu.http.get(f"/calls/{call_id}")).status_code == 200
    await gateway.until(lambda: bool(gateway.events("failed")))
    again = await gpu.ended(await gpu.accepted(model="tiny-qwen"))
    assert again.result == reference.result


async def test_an_input_that_is_delivered_again_ends_once(
    gpu: Client, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "4")  # it is seen to draw after one at the latest
    call_id = await gpu.accepted()
    await gpu.until(call_id, lambda call: call.stage == "generating")
    gpu.executor.kill_container(call_id)  # type: ignore[attr-defined]
    call = await gpu.ended(call_id)
    await gateway.until(lambda: bool(gateway.events("succeeded")))
    await asyncio.sleep(0.1)
    assert call.status == "succeeded" and gpu.executor.runs_of(call_id) == 2  # type: ignore[attr-defined]
    assert len(gateway.events("succeeded")) == 1


def test_the_command_line_s_run_comes_back_from_the_class_that_draws_the_model(
    quick_start: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Remote:
        def __init__(self) -> None:
            self.generate = self

        def remote(self, order_text: str, files: dict[str, bytes]) -> Any:
            return qwen_generator.QwenGenerator().generate.local(order_text, files)

    monkeypatch.setattr(resources, "calls", Calls(MemoryBackend({})))
    monkeypatch.setitem(qwen_generator.CLASSES, "QwenGenerator", Remote)
    request = image_request(model="instant").model_dump()
    call, pictures = qwen_generator.run_on_modal("image", request, {})
    assert call.status == "succeeded" and call.gpu == "cpu" and len(pictures) == 1


async def test_the_conductor_s_container_opens_conducts_tells_again_and_closes(
    recorded: Any,
    quick_start: None,
    gateway: Gateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Modal's own loop would run it: the class before decoration, its hooks and methods awaited."""
    monkeypatch.setattr(modal.App, "cls", lambda app, **options: lambda partial: partial)
    monkeypatch.setattr(modal, "concurrent", lambda **options: lambda decorated: decorated)
    monkeypatch.setattr(modal, "current_function_call_id", lambda: "fc-own")
    monkeypatch.setattr(deployment, "SOURCE_FOLDER", str(tmp_path / "sources"))
    monkeypatch.setenv("TENKAIGEN_WEBHOOK_URL", gateway.url)
    monkeypatch.setenv("TENKAIGEN_WEBHOOK_SECRET", SECRET)
    monkeypatch.setattr(deployment, "WEBHOOK_ROUNDS", 1)
    module, _ = recorded("app")
    gateway.answers = [404]
    async with MemoryBackend({"QwenGenerator": LocalContainer}) as backend:  # type: ignore[dict-item]
        monkeypatch.setattr(module, "_backend", lambda: backend)
        monkeypatch.setattr(resources, "calls", Calls(backend))
        placed = order(new_key(), "image", image_request(model="instant"))
        await backend.put(order_key(placed.call_id), placed.text())
        container = module.CallConductor()
        await container.open()
        await container.conduct(placed.call_id)
        assert backend.read(conductor_key(placed.call_id)) == "fc-own"
        assert not backend.read(announced_key(placed.call_id))
        assert await container.redeliver(placed.call_id)
        await container.close()
    assert [event.call.status for event in gateway.events("succeeded")] == ["succeeded"] * 2


def test_no_volume_is_brought_up_to_date_outside_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    class Volume:
        looks = 0

        def reload(self) -> None:
            self.looks += 1
            raise RuntimeError("there are open files preventing the operation")

    volume = Volume()
    gpu_class._bring_up_to_date(volume)
    assert volume.looks == 0
    monkeypatch.setattr(modal, "is_local", lambda: False)
    gpu_class._bring_up_to_date(volume)
    assert volume.looks == 1, "and one that refuses stays as it was"


@pytest.mark.parametrize("missing", ["TENKAIGEN_WEBHOOK_URL", "TENKAIGEN_WEBHOOK_SECRET"])
async def test_a_conductor_without_its_secret_does_not_start(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setenv("TENKAIGEN_WEBHOOK_URL", "https://example.com/hook")
    monkeypatch.setenv("TENKAIGEN_WEBHOOK_SECRET", SECRET)
    async with deployed._callback():
        pass
    monkeypatch.delenv(missing)
    with pytest.raises(KeyError):
        deployed._callback()

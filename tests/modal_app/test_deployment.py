"""The table of settings: what an operator could get wrong in it, told before a deployment."""

import ast
import dataclasses
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from modal_app import catalog, deployment, engine
from modal_app.deployment import CONDUCTOR, FRONT_DOOR, GPU_CLASSES, GpuClass

ROOT = Path(__file__).parents[2]
IMAGE_ONLY = {"torchvision": "0.28.0", "bitsandbytes": "0.50.2", "kernels": "0.17.2"}
"""Packages whose wheels need CUDA's torch."""
LINUX = {
    "extra": "",
    "python_version": deployment.PYTHON,
    "python_full_version": f"{deployment.PYTHON}.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}

each_class = pytest.mark.parametrize("pool", GPU_CLASSES, ids=lambda pool: pool.name)


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split(";")[0].strip().split("==") for line in lines if "==" in line]
    return {canonicalize_name(name): version for name, version in pins}


@pytest.mark.parametrize("packages", [deployment.CPU_PACKAGES, deployment.GPU_PACKAGES], ids=["cpu", "gpu"])
def test_an_image_has_the_versions_that_are_tested_here(packages: dict[str, str]) -> None:
    tested = {**locked(), **IMAGE_ONLY}
    assert {name: tested.get(name) for name in packages} == dict(packages)


@pytest.mark.parametrize("packages", [deployment.CPU_PACKAGES, deployment.GPU_PACKAGES], ids=["cpu", "gpu"])
def test_an_image_pins_what_its_packages_require(packages: dict[str, str]) -> None:
    for name in packages.keys() - IMAGE_ONLY.keys():
        for line in metadata.requires(name) or []:
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate(LINUX):
                assert canonicalize_name(required.name) in packages, f"{name} requires {line}"


def test_the_secret_lists_what_the_containers_read() -> None:
    assert set(deployment.SECRET_KEYS) == {
        "TENKAIGEN_WEBHOOK_URL",
        "TENKAIGEN_WEBHOOK_SECRET",
        "RECIPE_SECRET",
    }
    for name in ("app", "gpu_class"):
        for node in ast.walk(ast.parse((ROOT / "modal_app" / f"{name}.py").read_text())):
            if isinstance(node, ast.Constant) and str(node.value).isupper():
                assert node.value in (*deployment.SECRET_KEYS, "GPU_ORIGINS")


@each_class
def test_every_gpu_of_a_class_holds_each_of_its_models_whole(pool: GpuClass) -> None:
    assert pool.gpus
    for model_id in pool.models:
        model = catalog.find(model_id)
        assert model is not None and model.family in engine._MODULES
        assert set(pool.gpus) <= set(catalog.allowed_gpus(model)), model_id


@each_class
def test_every_gpu_has_a_price(pool: GpuClass) -> None:
    assert set(pool.gpus) <= {price.gpu for price in catalog.PRICES}


def test_the_class_that_keeps_words_and_edits_together_has_the_memory_for_both() -> None:
    for gpu in map(catalog.find_gpu, deployment.RESIDENT.gpus):
        assert gpu is not None
        rows = [catalog.find(name) for name in ("qwen-image-fast", "qwen-image-edit-fast")]
        needed = sum(catalog.choose_variant(row, gpu.capability).est_vram_gb for row in rows if row)
        # A GPU's memory is sold by its name and counted in 10^9 bytes; an L40S shows 47.7 of them.
        assert needed + catalog.gpus.HEADROOM_GB <= gpu.memory_gb * 0.99


@each_class
def test_nothing_runs_or_waits_without_a_cap(pool: GpuClass) -> None:
    assert (pool.min_containers, pool.buffer_containers) == (0, 0)
    assert 1 <= pool.max_containers <= 10
    assert 2 <= pool.scaledown_window_seconds <= 300
    assert pool.startup_timeout_seconds >= 900
    slowest = max(
        row.est_seconds * row.max_inference_steps / row.num_inference_steps for row in rows_of(pool)
    )
    assert pool.timeout_seconds >= slowest * 3
    assert pool.timeout_seconds + pool.startup_timeout_seconds <= deployment.PATIENCE_SECONDS


def rows_of(pool: GpuClass) -> list[catalog.Model]:
    return [row for row in map(catalog.find, pool.models) if row]


def test_a_conductor_outlives_what_it_waits_for() -> None:
    webhook = deployment.WEBHOOK_ROUNDS * (60 + deployment.WEBHOOK_PAUSE_SECONDS)
    assert CONDUCTOR.timeout_seconds > deployment.PATIENCE_SECONDS + webhook


@pytest.mark.parametrize("function", [FRONT_DOOR, CONDUCTOR], ids=["front door", "conductor"])
def test_what_needs_no_gpu_serves_many_at_once_and_is_capped(function: deployment.CpuFunction) -> None:
    assert "gpu" not in function.options()
    assert function.max_inputs >= 50
    assert function.min_containers == 0 and 1 <= function.max_containers <= 10


def test_the_front_door_is_behind_proxy_auth_and_ends_before_modal_redirects() -> None:
    assert deployment.PROXY_AUTH
    assert FRONT_DOOR.timeout_seconds <= 150


@each_class
def test_a_class_is_deployed_with_a_cpu_snapshot_and_without_one_of_the_gpu(pool: GpuClass) -> None:
    options = pool.options()
    assert options["enable_memory_snapshot"] is True
    assert options["experimental_options"] == {}


def test_the_gpu_snapshot_is_one_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "GPU_SNAPSHOT", True)
    options = deployment.RESIDENT.options()
    assert options["experimental_options"] == {"enable_gpu_snapshot": True}


@each_class
def test_options_are_those_of_the_table(pool: GpuClass) -> None:
    changed = dataclasses.replace(pool, gpus=("T4",), max_containers=9, scaledown_window_seconds=77)
    options = changed.options()
    assert (options["gpu"], options["max_containers"], options["scaledown_window"]) == (["T4"], 9, 77)
    assert (options["timeout"], options["retries"]) == (pool.timeout_seconds, 1)


def test_every_route_leads_to_a_class_that_draws_the_model() -> None:
    for model_id, name in deployment.ROUTES.items():
        assert model_id in deployment.gpu_class(name).models
    with pytest.raises(KeyError):
        deployment.gpu_class("NoGenerator")


def test_preloaded_models_are_routed_to_their_class() -> None:
    for pool in GPU_CLASSES:
        assert all(deployment.ROUTES[model_id] == pool.name for model_id in pool.preload)


def test_a_model_whose_licence_was_not_accepted_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "flux1-dev" not in deployment.served_models()
    monkeypatch.setattr(deployment, "ACCEPTED_LICENSES", frozenset({"flux1-dev"}))
    assert "flux1-dev" in deployment.served_models()
    assert deployment.engine_options().accepted_licenses == {"flux1-dev"}


def test_the_models_served_are_of_the_catalogue_and_routed() -> None:
    served = deployment.served_models()
    assert {"qwen-image", "qwen-image-fast", "qwen-image-edit", "tiny-qwen", "sdxl"} <= set(served)
    assert set(served) <= deployment.ROUTES.keys()


def test_kernels_are_pinned_by_a_commit_or_said_not_to_be() -> None:
    for kernel in deployment.KERNELS:
        assert kernel.revision is None or (len(kernel.revision) == 40 and int(kernel.revision, 16))


def test_containers_get_every_package_of_ours_that_they_import() -> None:
    found = set()
    for path in (ROOT / "modal_app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found & ours == set(deployment.LOCAL_PACKAGES)

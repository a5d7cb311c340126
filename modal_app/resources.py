"""Modal's objects, made from the table in ``deployment``; nothing is decided here.

Making them asks no server.  Containers make them as well, so none may depend on where this is imported.
"""

from collections.abc import Mapping
from typing import Any

import modal

from modal_app import deployment

calls = modal.Dict.from_name(deployment.CALLS, create_if_missing=True)
secret = modal.Secret.from_name(deployment.SECRET, required_keys=list(deployment.SECRET_KEYS))
models = modal.Volume.from_name(deployment.MODEL_VOLUME, create_if_missing=True)
sources = modal.Volume.from_name(deployment.SOURCE_VOLUME, create_if_missing=True)


def app(name: str) -> modal.App:
    """An app whose costs are found under the deployment's tags."""
    return modal.App(name, tags=dict(deployment.TAGS))


def cpu_function(settings: deployment.CpuFunction) -> dict[str, Any]:
    """Arguments of ``App.function`` for what needs no GPU."""
    return {**settings.options(), "image": cpu_image}


def conductor(settings: deployment.CpuFunction) -> dict[str, Any]:
    """Arguments of ``App.cls`` for what fetches files and tells the gateway."""
    volumes = {deployment.SOURCE_FOLDER: sources}
    return {**cpu_function(settings), "secrets": [secret], "volumes": volumes}


def gpu_class(settings: deployment.GpuClass) -> dict[str, Any]:
    """Arguments of ``App.cls``.  Both volumes are read only: what a GPU container writes is its own."""
    return {
        **settings.options(),
        "image": gpu_image,
        "secrets": [secret],
        "volumes": {
            deployment.MODEL_FOLDER: models.with_mount_options(read_only=True),
            deployment.SOURCE_FOLDER: sources.with_mount_options(read_only=True),
        },
    }


def _pins(packages: Mapping[str, str]) -> list[str]:
    return [f"{name}=={version}" for name, version in packages.items()]


def _kernel_commands(kernel: deployment.Kernel) -> list[str]:
    """Fetch a kernel into the image; at run time it is found by its version, without a network."""
    version = f"v{kernel.version}"
    wanted = kernel.revision or version
    what = f"'{kernel.repository}', repo_type='kernel', revision='{wanted}'"
    fetch = f"from huggingface_hub import snapshot_download; print(snapshot_download({what}))"
    commands = [f'python -c "{fetch}"']
    if kernel.revision:
        refs = f"$HF_HOME/hub/kernels--{kernel.repository.replace('/', '--')}/refs"
        commands.append(f"mkdir -p {refs} && printf %s {wanted} > {refs}/{version}")
    return commands


def _with_our_code(image: modal.Image) -> modal.Image:
    """Last of all, so that a changed line of ours builds no image."""
    return image.add_local_python_source(*deployment.LOCAL_PACKAGES, ignore=list(deployment.IGNORED_FILES))


_python = modal.Image.debian_slim(python_version=deployment.PYTHON)
cpu_image = _with_our_code(
    _python.uv_pip_install(*_pins(deployment.CPU_PACKAGES)).env(dict(deployment.CPU_ENVIRONMENT))
)
gpu_image = _with_our_code(
    _python.uv_pip_install(*_pins(deployment.GPU_PACKAGES))
    .env(dict(deployment.GPU_ENVIRONMENT))
    .run_commands(*(line for each in deployment.KERNELS for line in _kernel_commands(each)))
    .env(dict(deployment.OFFLINE))
)

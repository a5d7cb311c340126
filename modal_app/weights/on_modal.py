"""The Volume ``model-cache``, filled by a function without a GPU and without an endpoint."""

import os
from pathlib import Path

import modal

from modal_app import catalog, deployment, resources, weights
from modal_app.weights.hub import WeightsError

FETCH_TIMEOUT_SECONDS = 4 * 3600
"""60 GB at 5 MB/s; a call that is cut off goes on where it stopped."""
PACKAGES = ("huggingface-hub", "pydantic", "rich", "typer")

app = resources.app("tenkaigen-weights")
image = (
    modal.Image.debian_slim(python_version=deployment.PYTHON)
    .uv_pip_install(*(f"{name}=={deployment.GPU_PACKAGES[name]}" for name in PACKAGES))
    .add_local_python_source(*deployment.LOCAL_PACKAGES)
)


@app.function(  # type: ignore[untyped-decorator]
    image=image,
    volumes={deployment.MODEL_FOLDER: resources.models},
    # Of whoever starts the download; empty where no model asks for an account.
    secrets=[modal.Secret.from_dict({"HF_TOKEN": os.environ.get("HF_TOKEN", "")})],
    timeout=FETCH_TIMEOUT_SECONDS,
    max_containers=1,  # two writers of one Volume overwrite each other's commits
)
def download(models: list[str], gpu: str, quant: str, accepted: list[str], dry_run: bool) -> str:
    """Fill the Volume, without a GPU; "", or the one line that says why not."""
    cache = Path(deployment.MODEL_FOLDER)
    accepted = [*accepted, *deployment.ACCEPTED_LICENSES]
    try:
        weights.fetch(models, cache, gpu=gpu, quant=quant or None, accepted=accepted, dry_run=dry_run)
    except WeightsError as error:
        return f"{error.code}: {error}"
    finally:
        resources.models.commit()
    return ""


@app.local_entrypoint()  # type: ignore[untyped-decorator]
def remotely(
    models: str, gpu: str = catalog.DEFAULT_GPU, quant: str = "", accept: str = "", dry_run: bool = False
) -> None:
    """Fetch the weights of models, separated by commas, into the Volume that the GPU service reads."""
    names = [name.strip() for name in models.split(",") if name.strip()]
    failure = download.remote(names, gpu, quant, [accept], dry_run)
    if failure:
        raise SystemExit(failure)

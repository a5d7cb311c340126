"""FLUX, SDXL and Stable Diffusion 1.5 on Modal's GPUs."""

from modal_app import deployment, resources
from modal_app.gpu_class import GpuClass

app = resources.app("tenkaigen-diffusion")


@app.cls(**resources.gpu_class(deployment.DIFFUSION))
class DiffusionGenerator(GpuClass):
    """Models of 1 to 12 B parameters, as many of them loaded as fit."""

    settings = deployment.DIFFUSION


CLASSES = {deployment.DIFFUSION.name: DiffusionGenerator}

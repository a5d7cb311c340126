"""The LoRAs of a request, checked by their headers before anything is computed."""

from modal_app.catalog import Model
from modal_app.catalog.loras import InvalidLora, check_family, inspect
from modal_app.contract import ImageRequest
from modal_app.engine import Files
from modal_app.engine.loras.attach import Use
from modal_app.engine.loras.unusable import UnusableLora


def uses_of(model: Model, request: ImageRequest, files: Files) -> list[Use]:
    """What ``attached`` takes; UnusableLora for a broken file, or one made for another model."""
    try:
        for use in request.loras:
            check_family(inspect(files[use.sha256]), model.lora_group or "")
    except InvalidLora as error:
        raise UnusableLora(error.reason, str(error)) from error
    return [(use.sha256, files[use.sha256], use.scale) for use in request.loras]

"""What makes two requests ask for the same pictures, for callers who want those that they have."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gateway.jobs.schemas import JobCreate
from modal_app import catalog

_ASKED = (
    *("prompt_input", "prompt_final", "prompt_negative", "style", "inputs", "width", "height", "num_images"),
    *("params", "visibility"),
)


def key_of(body: JobCreate, columns: Mapping[str, Any]) -> str:
    """Sha256 of all that decides how a job's pictures look; ``columns`` are its recipe.

    Files count by their content and models by their revision, so that another one under the same name is
    another request.  No seed is a wish for any seed.
    """
    model = catalog.find(columns["model"])
    drawn_by = [model.id, model.checkpoint, model.revision, model.quant] if model else []
    asked = {
        **{name: columns[name] for name in _ASKED},
        "model": drawn_by,
        "seed": body.seed,
        "loras": [[use["sha256"], use["scale"]] for use in columns["loras"]],
        "references": [[use["role"], use["sha256"]] for use in columns["references"]],
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

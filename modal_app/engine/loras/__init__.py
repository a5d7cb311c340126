"""LoRAs attached to a loaded pipeline for one run: ``with attached(backend, uses)``.

What a file is stands in ``modal_app.catalog.loras``.
"""

from modal_app.engine.loras.unusable import UnusableLora

__all__ = ["UnusableLora"]

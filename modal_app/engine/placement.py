"""Where a loaded pipeline lives, and in which numbers it computes."""

from typing import Any

import torch
from diffusers import PipelineQuantizationConfig

from modal_app.catalog import Model, Offload, offload


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype(model: Model) -> torch.dtype:
    """float32 on the CPU; on a GPU what the row's weights are in, and bfloat16 where they are quantized."""
    if device().type == "cpu":
        return torch.float32
    return {"fp16": torch.float16, "fp32": torch.float32}.get(model.quant or "", torch.bfloat16)


def quantized_while_loading(model: Model) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for weights that are made into 8-bit integers on their way in."""
    if model.quant != "int8":
        return {}
    config = PipelineQuantizationConfig(
        quant_backend="bitsandbytes_8bit",
        quant_kwargs={"load_in_8bit": True},
        components_to_quantize=["transformer"],
    )
    return {"quantization_config": config}


def store_small(pipeline: Any, model: Model) -> None:
    """Keep fp8 weights in 8 bits, each layer brought to the computing type while it is at work."""
    if model.quant == "fp8":
        pipeline.transformer.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype(model)
        )


def place(pipeline: Any, model: Model) -> Offload:
    """Bring the pipeline to the GPU if there is one, as much of it as its memory holds; says how much."""
    where = device()
    policy = _policy(model) if where.type == "cuda" else "none"
    if policy == "none":
        pipeline.to(where)
    elif policy == "model":
        pipeline.enable_model_cpu_offload()
    else:
        pipeline.enable_sequential_cpu_offload()
    return policy


def _policy(model: Model) -> Offload:
    """By the variant whose weights the row has; a row without variants is small."""
    own = [variant for variant in model.variants if variant.quant == model.quant]
    memory_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
    return offload(model, own[0], memory_gb) if own else "none"

"""The one refusal of a LoRA file."""


class InvalidLora(Exception):
    """A file that is no LoRA the model can take; ``reason`` is stable and for machines.

    The file:        not_safetensors, header_too_large, malformed_header, duplicate_key, too_many_tensors,
                     truncated, offsets_out_of_range, overlapping, trailing_bytes, bad_dtype, bad_shape
    What it holds:   no_lora_keys, unsupported_tensors, dora, lokr, loha, mismatched_pair, rank_too_large,
                     bad_metadata, unknown_architecture, text_encoder_only, wrong_family
    While attaching: wrong_shapes, unknown_modules, not_finite, not_loadable
    """

    code = "invalid_lora"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

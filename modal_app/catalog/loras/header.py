"""The header of a safetensors file: read, bounded and checked against the file, without its tensors.

    8 bytes little-endian: length of the JSON | JSON: name -> dtype, shape, data_offsets | data

The checks are those of the format's own reader (ranges in order, no gap, no byte left over), so that
whatever passes here also loads; and the work is bounded before the JSON parser sees a byte.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from modal_app.catalog.loras.invalid import InvalidLora

MAX_HEADER_BYTES = 16 * 2**20
"""Some 130 bytes a tensor make 1 MB for the largest LoRAs; trainers add up to a few MB of metadata.
The format itself would allow 100 MB, which as Python objects is a gigabyte."""
MAX_TENSORS = 16_384
"""The largest LoRAs known change some 2,000 layers with three tensors each."""
MAX_DIMENSIONS = 5
"""Four of a convolution, and one to spare."""

_MAX_TOKENS = 24 * MAX_TENSORS
"""A tensor is 18 strings, brackets and commas in JSON, or 20 with the shape of a convolution."""
_MAX_DEPTH = 3
_TOKEN = re.compile(rb'"[^"]*"|[\[{,]|[\]}]')
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_ITEM_BYTES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1},
}


@dataclass(frozen=True)
class TensorInfo:
    """One entry; ``begin`` and ``end`` count bytes from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The checked header of a file; InvalidLora when it is not sound safetensors."""
    size = path.stat().st_size
    raw = _raw_header(path, size)
    entries = parse_object(raw, "malformed_header")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidLora("malformed_header", "the metadata of this file is not plain text")
    tensors = {name: _tensor(name, entry) for name, entry in entries.items()}
    _check_ranges(tensors, size - 8 - len(raw))
    return Header(tensors, metadata)


def parse_object(raw: bytes, reason: str) -> dict[str, Any]:
    """A JSON object of bounded size and depth without repeated keys; InvalidLora when it is not one."""
    _check_bounds(raw, reason)
    try:
        parsed = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidLora(reason, "the header of this file is not valid JSON") from error
    if not isinstance(parsed, dict):
        raise InvalidLora(reason, "the header of this file is not a JSON object")
    return parsed


def _raw_header(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        start = file.read(9)
        if start.startswith(_PICKLE_MAGIC):
            raise InvalidLora(
                "not_safetensors",
                "this is a pickle file (.ckpt, .pt, .bin); only safetensors files are taken",
            )
        length = int.from_bytes(start[:8], "little")
        if start[8:] != b"{" or length < 2:
            raise InvalidLora("not_safetensors", "this is not a safetensors file")
        if length > MAX_HEADER_BYTES:
            raise InvalidLora(
                "header_too_large", f"the header claims {length} bytes; {MAX_HEADER_BYTES} are allowed"
            )
        if length > size - 8:
            raise InvalidLora(
                "truncated", "the file ends within its header: the upload may have been cut off"
            )
        return start[8:] + file.read(length - 1)


def _check_bounds(raw: bytes, reason: str) -> None:
    """Count values and depth with a scanner that builds nothing: parsing costs memory, scanning does not."""
    # Backslashes stand only in strings and are consumed in pairs from the left, as replace() does.
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    depth = 0
    for count, token in enumerate(_TOKEN.finditer(plain)):
        start = plain[token.start()]
        depth += (start in b"[{") - (start in b"]}")
        if count > _MAX_TOKENS:
            raise InvalidLora("too_many_tensors", f"the file lists more than {MAX_TENSORS} tensors")
        if depth > _MAX_DEPTH:
            raise InvalidLora(reason, "the header of this file is nested too deeply")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two equal keys they believe."""
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise InvalidLora("duplicate_key", "the header of this file names the same tensor twice")
    return unique


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _tensor(name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise InvalidLora("malformed_header", f"the entry {name[:80]!r} is not that of a tensor")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise InvalidLora("bad_dtype", f"{name[:80]!r} has an unknown number format")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise InvalidLora("bad_shape", f"{name[:80]!r} has an impossible shape")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InvalidLora("offsets_out_of_range", f"{name[:80]!r} lies at an impossible place")
    if math.prod(shape) * _ITEM_BYTES[dtype] != offsets[1] - offsets[0]:
        raise InvalidLora("bad_shape", f"{name[:80]!r} does not have as many bytes as its shape needs")
    return TensorInfo(dtype, tuple(shape), *offsets)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _check_ranges(tensors: dict[str, TensorInfo], data_bytes: int) -> None:
    """Each range begins where the one before ends, and the last ends with the file."""
    at = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin < at:
            raise InvalidLora("overlapping", "two tensors of this file share bytes")
        if tensor.begin > at:
            raise InvalidLora("offsets_out_of_range", "a tensor of this file lies outside its data")
        at = tensor.end
    if at > data_bytes:
        raise InvalidLora(
            "truncated", f"{at - data_bytes} bytes are missing: the upload may have been cut off"
        )
    if at < data_bytes:
        raise InvalidLora("trailing_bytes", f"{data_bytes - at} bytes of this file belong to no tensor")

"""LoRA files told apart by their header alone: hostile ones, other methods, other models."""

import json
import pickle
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from modal_app.catalog.loras import InvalidLora, LoraFile, check_family, inspect
from modal_app.catalog.loras.header import MAX_HEADER_BYTES, MAX_TENSORS

LORAS = Path(__file__).parents[1] / "data" / "loras"
SEPIA = LORAS / "sepia" / "pytorch_lora_weights.safetensors"
Shapes = Mapping[str, tuple[int, ...]]


def entry(shape: tuple[int, ...], begin: int, dtype: str = "F16") -> dict[str, Any]:
    size = 4 if dtype == "F32" else 2
    for length in shape:
        size *= length
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + size]}


def write(path: Path, header: Any, data_bytes: int) -> Path:
    """A file of a header, taken as JSON unless it is bytes, and zeros that take no place on the disk."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + data_bytes)
    return path


def lora(path: Path, shapes: Shapes, metadata: Mapping[str, str] | None = None, dtype: str = "F16") -> Path:
    """A sound file with tensors of these shapes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        header[name] = entry(shape, end, dtype)
        end = header[name]["data_offsets"][1]
    return write(path, header, end)


def pair(stem: str, wide: int = 3072, out: int | None = None, rank: int = 4, style: str = "AB") -> Shapes:
    down, up = {"AB": ("lora_A", "lora_B"), "kohya": ("lora_down", "lora_up")}[style]
    return {f"{stem}.{down}.weight": (rank, wide), f"{stem}.{up}.weight": (out or wide, rank)}


def kohya(stem: str, wide: int, out: int | None = None) -> Shapes:
    return {**pair(stem, wide, out, style="kohya"), f"{stem}.alpha": ()}


def reason(path: Path) -> str:
    with pytest.raises(InvalidLora) as refused:
        inspect(path)
    assert refused.value.code == "invalid_lora"
    assert str(refused.value)
    return refused.value.reason


QWEN = {
    **pair("transformer.transformer_blocks.0.attn.to_q"),
    **pair("transformer.transformer_blocks.59.img_mlp.net.2", 12288, 3072),
}

# ---------------------------------------------------------------- hostile files


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": [0.0] * 1000}))


def torch_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps({}))


def huge_claim(path: Path) -> None:
    path.write_bytes((2 * 2**30).to_bytes(8, "little") + b"{" + b" " * 1000)


def huge_claim_with_the_bytes(path: Path) -> None:
    with path.open("wb") as file:
        file.write((2 * 2**30).to_bytes(8, "little") + b"{")
        file.truncate(2 * 2**30 + 100)


def million_entries(path: Path) -> None:
    entries = (f'"{n:x}":{{"dtype":"F16","shape":[],"data_offsets":[0,0]}}' for n in range(1_000_000))
    write(path, ("{" + ",".join(entries) + "}").encode(), 0)


def million_short_entries(path: Path) -> None:
    write(path, ("{" + ",".join(f'"{n:x}":1' for n in range(1_000_000)) + "}").encode(), 0)


def million_lists(path: Path) -> None:
    write(path, b'{"a":[' + b"[]," * 5_000_000 + b"[]]}", 0)


def million_strings(path: Path) -> None:
    write(path, b'{"a"' + b':"b"' * 4_000_000 + b"}", 0)


def deep(path: Path) -> None:
    write(path, b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", 0)


def deep_behind_quotes(path: Path) -> None:
    write(path, b'{"\\\\":' + b"[" * 1000 + b"]" * 1000 + b',"\\"":1}', 0)


def duplicate(path: Path) -> None:
    one = json.dumps(entry((2, 2), 0)).encode()
    write(path, b'{"a":' + one + b',"a":' + one + b"}", 8)


def duplicate_inside(path: Path) -> None:
    write(path, b'{"a":{"dtype":"F16","shape":[4],"shape":[1],"data_offsets":[0,8]}}', 8)


def overlapping(path: Path) -> None:
    write(path, {"a": entry((4,), 0), "b": entry((4,), 4)}, 12)


def one_tensor(**changes: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write(path, {"a": {**entry((4,), 0), **changes}}, 8)

    return make


def content(all_of_it: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(all_of_it)

    return make


def raw(header: bytes, data_bytes: int = 0) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write(path, header, data_bytes)

    return make


HOSTILE: list[tuple[Callable[[Path], None], str]] = [
    (content(b""), "not_safetensors"),
    (content(b"\0" * 64), "not_safetensors"),
    (content(b"GIF89a" + b"\0" * 64), "not_safetensors"),
    (content(b"\0" * 8 + b"{" * 64), "not_safetensors"),
    (raw(b"[]"), "not_safetensors"),
    (raw(b"{} {}"), "malformed_header"),
    (raw(b'{"a":NaN}'), "malformed_header"),
    (raw(b'{"a":"\xff"}'), "malformed_header"),
    (raw(b'{"a":' + b"9" * 10_000 + b"}"), "malformed_header"),
    (raw(b'{"__metadata__":{"a":1}}'), "malformed_header"),
    (raw(b'{"__metadata__":[]}'), "malformed_header"),
    (raw(b'{"a":{}}'), "malformed_header"),
    (raw(b'{"a":"unclosed'), "malformed_header"),
    (pickled, "not_safetensors"),
    (torch_zip, "not_safetensors"),
    (huge_claim, "header_too_large"),
    (huge_claim_with_the_bytes, "header_too_large"),
    (million_entries, "header_too_large"),
    (million_short_entries, "too_many_tensors"),
    (million_lists, "too_many_tensors"),
    (million_strings, "too_many_tensors"),
    (deep, "malformed_header"),
    (deep_behind_quotes, "malformed_header"),
    (duplicate, "duplicate_key"),
    (duplicate_inside, "duplicate_key"),
    (overlapping, "overlapping"),
    (one_tensor(data_offsets=[-8, 0]), "offsets_out_of_range"),
    (one_tensor(data_offsets=[8, 0]), "offsets_out_of_range"),
    (one_tensor(data_offsets=[2**40, 2**40 + 8]), "offsets_out_of_range"),
    (one_tensor(data_offsets=[0, 8, 16]), "offsets_out_of_range"),
    (one_tensor(data_offsets=[False, 8]), "offsets_out_of_range"),
    (one_tensor(shape=[2**30, 2**30], data_offsets=[0, 2**61]), "offsets_out_of_range"),
    (one_tensor(shape=[2**62, 4]), "bad_shape"),
    (one_tensor(shape=[-4]), "bad_shape"),
    (one_tensor(shape=[4.0]), "bad_shape"),
    (one_tensor(shape=[5]), "bad_shape"),
    (one_tensor(shape=[1] * 6 + [4]), "bad_shape"),
    (one_tensor(dtype="Q4"), "bad_dtype"),
    (one_tensor(dtype=["F16"]), "bad_dtype"),
    (raw(json.dumps({"a": entry((4,), 0)}).encode(), 7), "truncated"),
    (raw(json.dumps({"a": entry((4,), 0)}).encode(), 9), "trailing_bytes"),
]


@pytest.mark.parametrize(("make", "expected"), HOSTILE)
def test_a_hostile_file_is_refused_at_once_with_its_reason(
    make: Callable[[Path], None], expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "lora.safetensors"
    make(path)
    start = time.process_time()
    assert reason(path) == expected
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (huge_claim_with_the_bytes, 10_000),
        (million_entries, 10_000),
        (million_short_entries, 4 * MAX_HEADER_BYTES),
        (million_lists, 4 * MAX_HEADER_BYTES),
        (deep, 4 * MAX_HEADER_BYTES),
    ],
)
def test_a_hostile_file_costs_no_memory(make: Callable[[Path], None], limit: int, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    make(path)
    with pytest.raises(InvalidLora):  # once before, so that caches of the interpreter are filled
        inspect(path)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidLora):
            inspect(path)
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole, path = SEPIA.read_bytes(), tmp_path / "lora.safetensors"
    for length in [*range(0, 9), 5000, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert reason(path) in ("not_safetensors", "truncated")


def test_a_large_but_honest_file_is_read_soon(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(MAX_TENSORS // 2 - 1):
        shapes |= pair(f"diffusion_model.transformer_blocks.{n % 60}.img_mlp.net.2.{n}", 4, 4, 1)
    shapes |= pair("diffusion_model.transformer_blocks.0.img_mlp.net.2", 4, 4, 1)
    notes = {"ss_tag_frequency": json.dumps({"a {b}": {f'tag "{n}" [x], \\': n for n in range(50_000)}})}
    path = lora(tmp_path / "lora.safetensors", shapes, notes)
    start = time.process_time()
    assert reason(path) == "unknown_architecture"  # layers below a layer exist nowhere
    assert time.process_time() - start < 3.0


# ---------------------------------------------------------------- what is no plain LoRA

Q = "transformer.transformer_blocks.0.attn.to_q"

OTHERS: list[tuple[Shapes, str]] = [
    ({}, "no_lora_keys"),
    ({"transformer_blocks.0.attn.to_q.weight": (8, 8)}, "no_lora_keys"),
    ({f"{Q}.alpha": ()}, "no_lora_keys"),
    ({**QWEN, f"{Q}.dora_scale": (3072,)}, "dora"),
    ({**QWEN, f"{Q}.lora_magnitude_vector": (3072,)}, "dora"),
    ({f"{Q}.lokr_w1": (4, 4), f"{Q}.lokr_w2": (768, 768)}, "lokr"),
    ({"lora_unet_transformer_blocks_0_attn_to_q.hada_w1_a": (8, 4)}, "loha"),
    ({**QWEN, f"{Q}.diff": (8, 8)}, "unsupported_tensors"),
    ({**QWEN, f"{Q}.lora_B.bias": (8,)}, "unsupported_tensors"),
    ({**QWEN, f"{Q}.lora_down.weight": (4, 3072)}, "unsupported_tensors"),
    ({**QWEN, "transformer.norm.lora_A.weight": (4, 8)}, "mismatched_pair"),
    ({**QWEN, "transformer.norm.alpha": ()}, "mismatched_pair"),
    ({f"{Q}.lora_A.weight": (4, 3072), f"{Q}.lora_B.weight": (3072, 8)}, "mismatched_pair"),
    ({f"{Q}.lora_A.weight": (0, 3072), f"{Q}.lora_B.weight": (3072, 0)}, "mismatched_pair"),
    ({f"{Q}.lora_A.weight": (4, 3, 3), f"{Q}.lora_B.weight": (8, 4, 1)}, "mismatched_pair"),
    (pair(Q, rank=513), "rank_too_large"),
    ({**QWEN, f"{Q}.alpha": (2,)}, "bad_dtype"),
    (kohya("lora_te_text_model_encoder_layers_0_mlp_fc1", 768), "text_encoder_only"),
    (pair("text_encoder.text_model.encoder.layers.0.mlp.fc1", 768), "text_encoder_only"),
    ({**QWEN, **kohya("lora_unet_transformer_blocks_1_img_mod_1", 3072)}, "unknown_architecture"),
    # Attention of the first blocks alone could be FLUX's or Qwen's.
    (pair(Q), "unknown_architecture"),
    # Widths that disagree, SD3's wider blocks, HunyuanVideo's deeper ones, SD 2's text.
    ({**QWEN, **pair("transformer.transformer_blocks.1.attn.to_k", 128)}, "unknown_architecture"),
    (pair("transformer.transformer_blocks.0.ff.net.0.proj", 1536, 6144), "unknown_architecture"),
    (kohya("lora_unet_double_blocks_19_img_attn_qkv", 3072, 9216), "unknown_architecture"),
    (pair("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 1024, 64), "unknown_architecture"),
    (pair("transformer.blocks.0.attn1.to_q"), "unknown_architecture"),
    ({"transformer.transformer_blocks." + "9" * 5000 + ".lora_A.weight": (1, 1)}, "mismatched_pair"),
]


@pytest.mark.parametrize(("shapes", "expected"), OTHERS)
def test_what_is_no_plain_lora_of_a_known_model_is_refused(
    shapes: Shapes, expected: str, tmp_path: Path
) -> None:
    assert reason(lora(tmp_path / "lora.safetensors", shapes)) == expected


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    header = {f"{Q}.lora_A.weight": entry((4, 3072), 0, "I16"), f"{Q}.lora_B.weight": entry((8, 4), 24576)}
    assert reason(write(tmp_path / "lora.safetensors", header, 24576 + 64)) == "bad_dtype"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("no json", "bad_metadata"),
        ("[1]", "bad_metadata"),
        ('{"transformer.lora_alpha": "8"}', "bad_metadata"),
        ('{"transformer.lora_alpha": Infinity}', "bad_metadata"),
        ('{"transformer.lora_alpha": true}', "bad_metadata"),
        ('{"transformer.alpha_pattern": [1]}', "bad_metadata"),
        ('{"transformer.use_dora": true}', "dora"),
        ('{"transformer.lora_alpha":' + "[" * 1000 + "]" * 1000 + "}", "bad_metadata"),
    ],
)
def test_settings_in_the_metadata_are_checked_as_well(settings: str, expected: str, tmp_path: Path) -> None:
    path = lora(tmp_path / "lora.safetensors", QWEN, {"lora_adapter_metadata": settings})
    assert reason(path) == expected


# ---------------------------------------------------------------- families

GROUPS: list[tuple[Shapes, str, str]] = [
    (QWEN, "Qwen", "diffusers"),
    (pair("transformer_blocks.59.attn.to_q"), "Qwen", "bare"),
    (pair("base_model.model.transformer_blocks.0.txt_mod.1", 3072, 18432), "Qwen", "bare"),
    (kohya("diffusion_model.transformer_blocks.0.txt_mlp.net.0.proj", 3072, 12288), "Qwen", "comfyui"),
    (kohya("lora_unet_transformer_blocks_0_img_mlp_net_2", 12288, 3072), "Qwen", "kohya"),
    (pair("transformer.transformer_blocks.0.attn.to_q", 128), "tiny", "diffusers"),
    (kohya("lora_unet_transformer_blocks_0_attn_add_k_proj", 128), "tiny", "kohya"),
    (pair("transformer.single_transformer_blocks.37.proj_out", 15360, 3072), "Flux.1", "diffusers"),
    (pair("transformer.transformer_blocks.0.ff_context.net.2", 12288, 3072), "Flux.1", "diffusers"),
    (kohya("lora_unet_double_blocks_18_txt_attn_qkv", 3072, 9216), "Flux.1", "kohya"),
    (kohya("lora_transformer_single_transformer_blocks_0_attn_to_q", 3072), "Flux.1", "kohya"),
    (pair("diffusion_model.single_blocks.0.linear1", 3072, 21504), "Flux.1", "comfyui"),
    (
        {
            **kohya("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048, 640),
            **kohya("lora_te1_text_model_encoder_layers_0_mlp_fc1", 768, 3072),
            **kohya("lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280, 5120),
        },
        "SDXL",
        "kohya",
    ),
    (pair("unet.mid_block.attentions.0.transformer_blocks.9.attn1.to_q", 1280), "SDXL", "diffusers"),
    (kohya("lora_unet_output_blocks_0_1_transformer_blocks_0_attn1_to_q", 1280), "SDXL", "kohya"),
    (
        {
            **kohya("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 768, 320),
            **kohya("lora_te_text_model_encoder_layers_0_mlp_fc1", 768, 3072),
        },
        "SD 1.5",
        "kohya",
    ),
    (
        {
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight": (
                4,
                768,
            ),
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.up.weight": (1280, 4),
        },
        "SD 1.5",
        "diffusers",
    ),
    (kohya("lora_unet_down_blocks_0_attentions_0_proj_in", 320), "SD 1.5", "kohya"),
]


@pytest.mark.parametrize(("shapes", "group", "key_format"), GROUPS)
def test_the_family_is_told_from_names_and_shapes(
    shapes: Shapes, group: str, key_format: str, tmp_path: Path
) -> None:
    file = inspect(lora(tmp_path / "lora.safetensors", shapes))
    assert (file.group, file.key_format, file.ranks) == (group, key_format, (4,))
    assert file.has_alpha == any(name.endswith(".alpha") for name in shapes)
    assert file.targets_text_encoder == any(name.startswith("lora_te") for name in shapes)
    assert file.modules == sum(name.endswith(("lora_A.weight", "down.weight")) for name in shapes)
    assert file.tensors == len(shapes)
    for other in {"Qwen", "tiny", "Flux.1", "SDXL", "SD 1.5"} - {group}:
        with pytest.raises(InvalidLora, match=f"made for {group}, the model takes {other}") as refused:
            check_family(file, other)
        assert refused.value.reason == "wrong_family"
    assert check_family(file, group) == "same"


def test_the_bundled_loras_are_what_they_are() -> None:
    assert inspect(SEPIA) == LoraFile(
        group="tiny",
        variant=None,
        key_format="diffusers",
        ranks=(8,),
        has_alpha=False,
        modules=30,
        targets_text_encoder=False,
        tensors=60,
        bytes=368_640,
    )


def test_pony_and_sdxl_share_files_and_the_caller_can_tell(tmp_path: Path) -> None:
    shapes = kohya("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048, 640)
    plain = inspect(lora(tmp_path / "plain.safetensors", shapes))
    notes = {"ss_sd_model_name": "ponyDiffusionV6XL.safetensors"}
    pony = inspect(lora(tmp_path / "pony.safetensors", shapes, notes))
    assert (plain.group, plain.variant, pony.group, pony.variant) == ("SDXL", None, "SDXL", "Pony")
    assert check_family(plain, "SDXL 1.0") == check_family(pony, "Pony") == "same"
    assert check_family(plain, "Pony") == check_family(plain, "Illustrious") == "related"
    assert check_family(pony, "SDXL 1.0") == check_family(pony, "Illustrious") == "related"
    for other in ("Flux.1 D", "Qwen 2.1", "nothing known", ""):
        with pytest.raises(InvalidLora):
            check_family(pony, other)


def test_looking_at_a_file_needs_no_torch() -> None:
    code = (
        "import sys, pathlib, modal_app.catalog.loras as loras;"
        "loras.inspect(pathlib.Path(sys.argv[1]));"
        "assert not {'torch', 'diffusers', 'peft', 'safetensors', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, SEPIA], check=True, cwd=Path(__file__).parents[2])

"""LoRAs on the tiny model, both ways: refusals, then what they do to outputs and pictures."""

import contextlib
import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from diffusers import QwenImagePipeline
from safetensors.torch import load_file, save_file

from modal_app import catalog, engine
from modal_app.catalog.loras import InvalidLora, inspect
from modal_app.engine.loras import UnusableLora
from modal_app.engine.loras.attach import (
    HookBackend,
    LoraBackend,
    PeftBackend,
    StateDicts,
    Use,
    attached,
    backend_for,
    fuse,
)

LORAS = Path(__file__).parents[1] / "data" / "loras"
SEPIA = ("a" * 64, LORAS / "sepia" / "pytorch_lora_weights.safetensors")
FRAME = ("b" * 64, LORAS / "frame" / "pytorch_lora_weights.safetensors")
BACKENDS = [PeftBackend, HookBackend]
PROMPT = "a red round creature with a blue hat, front view, on a beach"
Tensors = dict[str, torch.Tensor]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`"),
    pytest.mark.filterwarnings("ignore:Adapter .* was active which is now deleted"),
]


# ---------------------------------------------------------------- the model


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    model = catalog.find("tiny-qwen")
    assert model
    folder = engine.checkpoint_folder(model)
    loaded = QwenImagePipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    loaded.transformer.requires_grad_(False)
    return loaded


@pytest.fixture(autouse=True)
def unloaded(pipeline: Any) -> Iterator[None]:
    yield
    pipeline.unload_lora_weights()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, pipeline: Any) -> LoraBackend:
    made: LoraBackend = request.param(pipeline)
    return made


def output(pipeline: Any) -> torch.Tensor:
    """One pass of the transformer on fixed noise, (1, 36, 64)."""
    random = torch.Generator().manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(1, 36, 64, generator=random),
        "encoder_hidden_states": torch.randn(1, 10, 128, generator=random),
        "encoder_hidden_states_mask": torch.ones(1, 10, dtype=torch.bool),
        "timestep": torch.tensor([0.5]),
    }
    with torch.no_grad():
        sample: torch.Tensor = pipeline.transformer(**inputs, img_shapes=[[(1, 6, 6)]]).sample
    return sample


@pytest.fixture(scope="module")
def base(pipeline: Any) -> torch.Tensor:
    """What the model answers before any LoRA."""
    return output(pipeline)


@pytest.fixture(scope="module")
def embedded(pipeline: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        embeds, mask = pipeline.encode_prompt(PROMPT)
    return {"prompt_embeds": embeds, "prompt_embeds_mask": mask}


def picture(pipeline: Any, embedded: dict[str, torch.Tensor], **changes: Any) -> np.ndarray:
    """(96, 96, 3), 0..255."""
    options = {"width": 96, "height": 96, "num_inference_steps": 6, "true_cfg_scale": 1.0, **changes}
    generator = torch.Generator().manual_seed(7)
    return np.asarray(pipeline(**embedded, **options, generator=generator).images[0], dtype=int)


def with_loras(backend: LoraBackend, *uses: Use) -> torch.Tensor:
    with attached(backend, uses):
        return output(backend._pipeline)  # type: ignore[attr-defined]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def hooks(pipeline: Any) -> int:
    return sum(len(module._forward_hooks) for module in pipeline.transformer.modules())


# ---------------------------------------------------------------- files of every format

RANK, WIDTH = 4, 128
LAYERS = {
    "transformer_blocks.0.attn.to_q": (WIDTH, WIDTH),
    "transformer_blocks.1.attn.to_out.0": (WIDTH, WIDTH),
    "transformer_blocks.2.attn.add_k_proj": (WIDTH, WIDTH),
    "transformer_blocks.3.img_mlp.net.0.proj": (WIDTH, 4 * WIDTH),
    "transformer_blocks.4.txt_mlp.net.2": (4 * WIDTH, WIDTH),
    "transformer_blocks.1.img_mod.1": (WIDTH, 6 * WIDTH),
    "img_in": (64, WIDTH),
}


def pairs(scale: float = 1.0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module -> down, up of a LoRA that changes outputs visibly."""
    random = torch.Generator().manual_seed(3)
    found = {}
    for name, (wide, out) in LAYERS.items():
        down = torch.randn(RANK, wide, generator=random) / wide**0.5
        found[name] = (down, torch.randn(out, RANK, generator=random) * 0.3 * scale)
    return found


def save(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    return path


def as_diffusers(
    down: str = "lora_A", up: str = "lora_B", prefix: str = "transformer."
) -> Callable[[str], Any]:
    return lambda name: (
        f"{prefix}{name}.{down}.weight",
        f"{prefix}{name}.{up}.weight",
        f"{prefix}{name}.alpha",
    )


def as_kohya(name: str) -> Any:
    stem = "lora_unet_" + name.replace(".", "_")
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"


FORMATS: dict[str, tuple[Callable[[str], Any], str]] = {
    "diffusers": (as_diffusers(), "diffusers"),
    "diffusers, kohya's suffixes": (as_diffusers("lora_down", "lora_up"), "diffusers"),
    "bare, PEFT": (as_diffusers(prefix=""), "bare"),
    "bare, adapter named": (as_diffusers("lora_A.default", "lora_B.default", ""), "bare"),
    "bare, Lightning": (as_diffusers("lora_down", "lora_up", ""), "bare"),
    "saved by PEFT itself": (as_diffusers(prefix="base_model.model."), "bare"),
    "ComfyUI": (as_diffusers("lora_down", "lora_up", "diffusion_model."), "comfyui"),
    "ComfyUI, PEFT": (as_diffusers(prefix="diffusion_model."), "comfyui"),
    "kohya": (as_kohya, "kohya"),
}


def formatted(style: str, alpha: float | None) -> Tensors:
    names, _ = FORMATS[style]
    tensors: Tensors = {}
    for name, (down, up) in pairs().items():
        down_key, up_key, alpha_key = names(name)
        tensors |= {down_key: down, up_key: up}
        if alpha is not None:
            tensors[alpha_key] = torch.tensor(alpha)
    return tensors


@pytest.fixture(scope="module")
def expected(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[float, torch.Tensor]:
    """Strength -> output of the LoRA in diffusers' own format and through diffusers' own loader."""
    outputs = {}
    for scale in (1.0, 0.5):
        tensors: Tensors = {}
        for name, (down, up) in pairs(scale).items():
            tensors |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
        folder = tmp_path_factory.mktemp("expected")
        save(folder / "pytorch_lora_weights.safetensors", tensors)
        pipeline.load_lora_weights(folder)
        outputs[scale] = output(pipeline)
        pipeline.unload_lora_weights()
    return outputs


# ---------------------------------------------------------------- refusals


def other_method(fragment: str) -> Tensors:
    return {f"transformer.transformer_blocks.0.attn.to_q.{fragment}": torch.ones(4, 4)}


def narrow() -> Tensors:
    name = "transformer.transformer_blocks.0.img_mod.1"
    return {f"{name}.lora_A.weight": torch.ones(4, 64), f"{name}.lora_B.weight": torch.ones(384, 4)}


def changed(**changes: torch.Tensor) -> Tensors:
    tensors = formatted("diffusers", 4.0)
    return {**tensors, **{f"transformer.transformer_blocks.0.attn.to_q.{k}": v for k, v in changes.items()}}


KOHYA = ("lora_down.weight", "lora_up.weight")
PEFT = ("lora_A.weight", "lora_B.weight")


def at(stem: str, suffixes: tuple[str, str], wide: int = 3072) -> Tensors:
    return {f"{stem}.{suffixes[0]}": torch.ones(1, wide), f"{stem}.{suffixes[1]}": torch.ones(wide, 1)}


REFUSED: dict[str, tuple[Tensors, str]] = {
    "DoRA": (changed(dora_scale=torch.ones(128)), "dora"),
    "LoKr": (other_method("lokr_w1"), "lokr"),
    "LoHa": (other_method("hada_w1_a"), "loha"),
    "a checkpoint": ({"transformer_blocks.0.attn.to_q.weight": torch.ones(128, 128)}, "no_lora_keys"),
    "narrower layers": (narrow(), "wrong_shapes"),
    "deeper than the model": (at("transformer_blocks.5.attn.to_q", PEFT, 128), "unknown_modules"),
    "real Qwen": (at("transformer_blocks.0.img_mod.1", PEFT), "wrong_shapes"),
    "FLUX": (at("transformer.single_transformer_blocks.0.proj_mlp", PEFT), "unknown_modules"),
    "FLUX by kohya": (at("lora_unet_double_blocks_0_img_attn_qkv", KOHYA), "unknown_modules"),
    "SDXL by kohya": (
        {
            **at("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", KOHYA),
            **at("lora_te1_text_model_encoder_layers_0_mlp_fc1", KOHYA),
            **at("lora_te2_text_model_encoder_layers_0_mlp_fc1", KOHYA),
        },
        "unknown_modules",
    ),
    "SD 1.5": (at("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", PEFT), "unknown_modules"),
    "text encoder": (at("text_encoder.text_model.encoder.layers.0.mlp.fc1", PEFT), "unknown_modules"),
    "ComfyUI's text encoder": (at("text_encoders.clip_l.fc1", PEFT), "unknown_modules"),
    "NaN": (changed(**{"lora_A.weight": torch.full((4, 128), torch.nan)}), "not_finite"),
    "infinite alpha": (changed(alpha=torch.tensor(torch.inf)), "not_finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_does_not_fit_is_refused_and_nothing_changes(
    name: str, backend: LoraBackend, pipeline: Any, base: torch.Tensor, tmp_path: Path
) -> None:
    tensors, reason = REFUSED[name]
    path = save(tmp_path / "lora.safetensors", tensors)
    uses = [(*SEPIA, 1.0), ("f" * 64, path, 1.0)]  # the good one comes first, and must go as well
    with pytest.raises(UnusableLora) as refused, attached(backend, uses):
        pytest.fail("drew with half of its LoRAs")
    assert refused.value.reason == reason
    assert torch.equal(output(pipeline), base)
    assert hooks(pipeline) == 0


def test_a_missing_file_is_refused(backend: LoraBackend, tmp_path: Path) -> None:
    with pytest.raises(UnusableLora) as refused, attached(backend, [("f" * 64, tmp_path / "no", 1.0)]):
        pytest.fail("drew")
    assert refused.value.reason == "not_loadable"


def test_a_lack_of_memory_is_not_called_the_files_fault(
    backend: LoraBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("modal_app.engine.loras.state_dicts.load_file", full)
    with pytest.raises(torch.OutOfMemoryError), attached(backend, [(*SEPIA, 1.0)]):
        pytest.fail("drew")


# ---------------------------------------------------------------- what every way has to do


def test_no_lora_and_scale_zero_are_the_base_bit_for_bit(backend: LoraBackend, base: torch.Tensor) -> None:
    assert torch.equal(with_loras(backend), base)
    assert torch.equal(with_loras(backend, (*SEPIA, 0.0)), base)
    assert torch.equal(with_loras(backend, (*SEPIA, 0.5), (*SEPIA, -0.5)), base)
    assert not torch.equal(with_loras(backend, (*SEPIA, 0.01)), base)
    assert torch.equal(with_loras(backend, (*SEPIA, 0.0)), base)


def test_after_the_run_the_base_is_back_bit_for_bit(
    backend: LoraBackend, pipeline: Any, base: torch.Tensor
) -> None:
    assert difference(with_loras(backend, (*SEPIA, 1.0)), base) > 0.1
    assert torch.equal(output(pipeline), base)
    backend.apply([(*FRAME, 1.0)])
    backend.clear()
    backend.clear()
    assert torch.equal(output(pipeline), base)
    assert hooks(pipeline) == 0


def test_a_lora_acts_as_before_after_another_one(backend: LoraBackend) -> None:
    first = with_loras(backend, (*SEPIA, 1.0))
    between = with_loras(backend, (*FRAME, 1.0))
    assert torch.equal(with_loras(backend, (*SEPIA, 1.0)), first)
    assert not torch.equal(between, first)


def test_applying_replaces_what_was_applied(backend: LoraBackend, pipeline: Any) -> None:
    alone = with_loras(backend, (*SEPIA, 1.0))
    backend.apply([(*FRAME, 1.0), (*SEPIA, 0.3)])
    backend.apply([(*SEPIA, 1.0)])
    assert torch.equal(output(pipeline), alone)
    backend.clear()


def test_a_lora_may_go_by_its_file_name(backend: LoraBackend) -> None:
    named = with_loras(backend, ("a/Lightning-8steps-V1.1.safetensors", SEPIA[1], 1.0))
    assert torch.equal(named, with_loras(backend, (*SEPIA, 1.0)))


def test_two_compose_in_any_order(backend: LoraBackend) -> None:
    both = with_loras(backend, (*SEPIA, 1.0), (*FRAME, 0.5))
    assert torch.equal(with_loras(backend, (*FRAME, 0.5), (*SEPIA, 1.0)), both)
    assert difference(both, with_loras(backend, (*SEPIA, 1.0))) > 0.1
    assert difference(both, with_loras(backend, (*FRAME, 0.5))) > 0.1


def test_the_same_file_twice_adds_up(backend: LoraBackend) -> None:
    twice = with_loras(backend, (*SEPIA, 0.25), (*FRAME, 1.0), (*SEPIA, 0.5))
    assert torch.equal(twice, with_loras(backend, (*SEPIA, 0.75), (*FRAME, 1.0)))


def test_the_two_ways_agree(pipeline: Any) -> None:
    uses: list[Use] = [(*SEPIA, 0.8), (*FRAME, -0.6)]
    assert (
        difference(with_loras(PeftBackend(pipeline), *uses), with_loras(HookBackend(pipeline), *uses)) < 1e-4
    )


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("alpha", [None, RANK / 2])
def test_every_format_is_the_same_lora_and_half_an_alpha_half_of_it(
    style: str,
    alpha: float | None,
    backend: LoraBackend,
    base: torch.Tensor,
    expected: dict[float, torch.Tensor],
    tmp_path: Path,
) -> None:
    path = save(tmp_path / "lora.safetensors", formatted(style, alpha))
    file = inspect(path)
    assert (file.group, file.key_format, file.has_alpha) == ("tiny", FORMATS[style][1], alpha is not None)
    wanted = expected[0.5 if alpha else 1.0]
    assert difference(wanted, base) > 0.05
    assert difference(with_loras(backend, ("f" * 64, path, 1.0)), wanted) < 1e-5


def settings(**values: Any) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in values.items()})}


@pytest.mark.parametrize(
    "metadata",
    [
        settings(r=RANK, lora_alpha=RANK / 2),
        settings(r=RANK, lora_alpha=1, use_rslora=True),
        settings(r=RANK, lora_alpha=9, alpha_pattern=dict.fromkeys(LAYERS, RANK / 2)),
    ],
)
def test_an_alpha_in_the_metadata_counts_as_well(
    metadata: dict[str, str],
    backend: LoraBackend,
    expected: dict[float, torch.Tensor],
    tmp_path: Path,
) -> None:
    path = save(tmp_path / "lora.safetensors", formatted("diffusers", None), metadata)
    assert inspect(path).has_alpha
    assert difference(with_loras(backend, ("f" * 64, path, 1.0)), expected[0.5]) < 1e-5


@pytest.mark.parametrize("alpha", [0.0, -RANK / 2, 1e-3])
def test_any_alpha_is_alpha_over_rank(
    alpha: float, backend: LoraBackend, base: torch.Tensor, tmp_path: Path
) -> None:
    plain = save(tmp_path / "plain.safetensors", formatted("diffusers", None))
    scaled = save(tmp_path / "scaled.safetensors", formatted("kohya", alpha))
    wanted = with_loras(backend, ("e" * 64, plain, alpha / RANK))
    assert difference(with_loras(backend, ("f" * 64, scaled, 1.0)), wanted) < 1e-5


def test_ranks_may_differ_from_layer_to_layer(
    backend: LoraBackend, base: torch.Tensor, tmp_path: Path
) -> None:
    tensors = load_file(SEPIA[1])
    key = "transformer.transformer_blocks.0.attn.to_q.lora_"
    wide = {f"{key}A.weight": tensors[f"{key}A.weight"].repeat(2, 1) / 2}
    wide[f"{key}B.weight"] = tensors[f"{key}B.weight"].repeat(1, 2)
    path = save(tmp_path / "lora.safetensors", {**tensors, **wide})
    assert inspect(path).ranks == (8, 16)
    assert difference(with_loras(backend, ("f" * 64, path, 1.0)), with_loras(backend, (*SEPIA, 1.0))) < 1e-4


# ---------------------------------------------------------------- errors and cancels


class Cancel(BaseException):
    pass


@contextlib.contextmanager
def cancel_at_line(number: int) -> Iterator[list[int]]:
    """Raises at the n-th line that runs while LoRAs are applied; clearing up is let through."""
    count = [0]

    def trace(frame: Any, event: str, _: Any) -> Any:
        code = frame.f_code
        if "/engine/loras/" not in code.co_filename or code.co_name in ("clear", "_unload"):
            return None
        if event == "line" and code.co_name != "attached":
            count[0] += 1
            if count[0] == number:
                raise Cancel
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


def test_a_cancel_at_any_step_leaves_the_base(
    backend: LoraBackend, pipeline: Any, base: torch.Tensor
) -> None:
    uses: list[Use] = [(*SEPIA, 1.0), (*FRAME, 0.5)]
    wanted = with_loras(backend, *uses)
    backend.apply([(*FRAME, 0.1)])  # so that the hook way has branches to build again
    backend.clear()
    with cancel_at_line(0) as count, attached(backend, uses):
        pass
    steps = count[0]
    assert steps > 15
    for number in {*range(1, steps, max(1, steps // 25)), steps}:
        pipeline.unload_lora_weights()
        fresh = type(backend)(pipeline, backend._state_dicts)  # type: ignore[attr-defined,call-arg]
        with pytest.raises(Cancel), cancel_at_line(number), attached(fresh, uses):
            pytest.fail("drew")
        assert torch.equal(output(pipeline), base)
        assert hooks(pipeline) == 0
    assert torch.equal(with_loras(fresh, *uses), wanted)


@pytest.mark.parametrize("error", [Cancel, RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_run_is_told_as_it_is_and_leaves_the_base(
    error: type[BaseException], backend: LoraBackend, pipeline: Any, base: torch.Tensor
) -> None:
    with pytest.raises(error), attached(backend, [(*SEPIA, 1.0)]):
        raise error
    assert torch.equal(output(pipeline), base)


@pytest.mark.parametrize("error", [Cancel, RuntimeError])
@pytest.mark.parametrize("last", [1, 2])
def test_peft_cut_off_in_the_middle_leaves_the_base(
    error: type[BaseException],
    last: int,
    pipeline: Any,
    base: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    load = peft.set_peft_model_state_dict

    def cut_off(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == last:
            raise error
        return load(*args, **kwargs)

    monkeypatch.setattr(peft, "set_peft_model_state_dict", cut_off)
    backend = PeftBackend(pipeline)
    raised = InvalidLora if error is RuntimeError else error
    with pytest.raises(raised), attached(backend, [(*SEPIA, 1.0), (*FRAME, 1.0)]):
        pytest.fail("drew")
    assert torch.equal(output(pipeline), base)
    assert not [m for m in pipeline.transformer.modules() if "peft" in type(m).__module__]
    assert difference(with_loras(backend, (*SEPIA, 1.0)), base) > 0.1


# ---------------------------------------------------------------- layers that PEFT refuses


class Quantised(torch.nn.Module):  # type: ignore[misc]
    """Stands in for a layer with packed weights: features to features, but no ``nn.Linear``."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("packed", layer.weight.detach().clone())
        self.register_buffer("bias", layer.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.packed, self.bias)


@pytest.fixture
def quantised(pipeline: Any) -> Any:
    """The pipeline with the attention of its transformer in another class of layer, and equal outputs."""
    copied = copy.copy(pipeline)
    copied.transformer = copy.deepcopy(pipeline.transformer)
    for name, layer in list(copied.transformer.named_modules()):
        if isinstance(layer, torch.nn.Linear) and ".attn." in name:
            copied.transformer.set_submodule(name, Quantised(layer))
    return copied


def test_peft_is_chosen_where_it_knows_every_layer(pipeline: Any, quantised: Any) -> None:
    assert isinstance(backend_for(pipeline), PeftBackend)
    assert isinstance(backend_for(quantised), HookBackend)
    backend = backend_for(pipeline)
    assert with_loras(backend, (*SEPIA, 1.0)).shape
    assert isinstance(backend_for(pipeline), PeftBackend)  # with PEFT's own layers in place


def test_peft_refuses_the_other_class_and_says_so(quantised: Any, base: torch.Tensor) -> None:
    with pytest.raises(UnusableLora) as refused, attached(PeftBackend(quantised), [(*SEPIA, 1.0)]):
        pytest.fail("drew")
    assert refused.value.reason == "not_loadable"
    assert torch.equal(output(quantised), base)


def test_hooks_act_on_the_other_class_as_on_any(quantised: Any, pipeline: Any, base: torch.Tensor) -> None:
    uses: list[Use] = [(*SEPIA, 0.8), (*FRAME, 0.4)]
    backend = backend_for(quantised)
    with attached(backend, uses):
        assert hooks(quantised) == 30
        found = output(quantised)
    assert difference(found, with_loras(PeftBackend(pipeline), *uses)) < 1e-4
    assert hooks(quantised) == 0
    assert torch.equal(output(quantised), base)


def test_hooks_compute_in_the_type_of_the_input(pipeline: Any, tmp_path: Path) -> None:
    copied = copy.copy(pipeline)
    copied.transformer = copy.deepcopy(pipeline.transformer)
    path = save(tmp_path / "lora.safetensors", {k: v.half() for k, v in load_file(SEPIA[1]).items()})
    backend = HookBackend(copied)
    wide = with_loras(backend, ("f" * 64, path, 1.0))
    layer = copied.transformer.transformer_blocks[0].attn.to_q
    with attached(backend, [("f" * 64, path, 1.0)]), torch.no_grad():
        assert layer.to(torch.bfloat16)(torch.ones(1, 128, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert difference(wide, with_loras(HookBackend(pipeline), (*SEPIA, 1.0))) < 0.05


# ---------------------------------------------------------------- caches


def test_a_file_is_read_once(backend: LoraBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def counted(path: Path) -> Tensors:
        reads.append(path)
        return load_file(path)

    monkeypatch.setattr("modal_app.engine.loras.state_dicts.load_file", counted)
    for scale in (1.0, 0.5, 1.0):
        with_loras(backend, (*SEPIA, scale))
        with_loras(backend, (*FRAME, scale))
    assert reads == [SEPIA[1], FRAME[1]]


def test_state_dicts_keep_to_their_budget_and_drop_the_oldest(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = inspect(SEPIA[1]).bytes
    kept = StateDicts(budget_bytes=2 * one)
    sepia = kept.get(pipeline, *SEPIA)
    kept.get(pipeline, *FRAME)
    assert kept.get(pipeline, *SEPIA) is sepia
    kept.get(pipeline, "c" * 64, FRAME[1])
    assert kept.bytes == 2 * one
    assert kept.get(pipeline, *SEPIA) is sepia  # used later than the frame
    assert StateDicts(budget_bytes=1).get(pipeline, *SEPIA)  # too large to keep is still given


@pytest.mark.parametrize("count", [1, 2])
def test_adapters_on_the_device_are_few_and_the_oldest_goes(
    count: int, pipeline: Any, base: torch.Tensor
) -> None:
    backend = PeftBackend(pipeline, max_adapters=count)
    first = with_loras(backend, (*SEPIA, 1.0))
    for number in range(4):
        with_loras(backend, (f"{number}" * 64, FRAME[1], 1.0))
        assert len(pipeline.get_list_adapters()["transformer"]) <= count
        assert torch.equal(output(pipeline), base)
    assert torch.equal(with_loras(backend, (*SEPIA, 1.0)), first)
    both = with_loras(backend, (*SEPIA, 1.0), (*FRAME, 1.0))  # what a run needs is loaded, however much
    assert difference(both, first) > 0.1


# ---------------------------------------------------------------- pictures


def colourfulness(pixels: np.ndarray) -> float:
    """Mean distance between the colour channels, 0..255: low in shades of brown."""
    red, green, blue = (pixels[..., channel] for channel in range(3))
    return float(np.abs(red - green).mean() + np.clip(blue - green, 0, None).mean())


def test_sepia_takes_the_colour_out_step_by_step(
    backend: LoraBackend, pipeline: Any, embedded: dict[str, torch.Tensor]
) -> None:
    plain = picture(pipeline, embedded)
    found = []
    for scale in (0.0, 0.5, 1.0):
        with attached(backend, [(*SEPIA, scale)]):
            found.append(picture(pipeline, embedded))
    assert (found[0] == plain).all()
    colours = [colourfulness(pixels) for pixels in found]
    assert colours[0] > 1.2 * colours[1] > 1.4 * colours[2]
    assert (picture(pipeline, embedded) == plain).all()


def test_both_looks_are_seen_in_one_picture(
    backend: LoraBackend, pipeline: Any, embedded: dict[str, torch.Tensor]
) -> None:
    plain = picture(pipeline, embedded)
    with attached(backend, [(*SEPIA, 1.0), (*FRAME, 1.0)]):
        found = picture(pipeline, embedded)
    border = np.r_[0:4, 92:96]
    assert colourfulness(found) < 0.7 * colourfulness(plain)
    assert found[border].mean() < 0.7 * plain[border].mean()


def test_both_ways_draw_the_same_picture(pipeline: Any, embedded: dict[str, torch.Tensor]) -> None:
    found = []
    for way in BACKENDS:
        with attached(way(pipeline), [(*SEPIA, 1.0)]):
            found.append(picture(pipeline, embedded))
    assert np.abs(found[0] - found[1]).max() <= 1


# ---------------------------------------------------------------- fused


def test_a_fused_lora_is_the_model_and_others_come_on_top(pipeline: Any) -> None:
    fused = copy.copy(pipeline)
    fused.transformer = copy.deepcopy(pipeline.transformer)
    fuse(fused, SEPIA[1], 0.7)
    own = output(fused)
    assert difference(own, with_loras(PeftBackend(pipeline), (*SEPIA, 0.7))) < 1e-4
    assert not [m for m in fused.transformer.modules() if "peft" in type(m).__module__]
    both = with_loras(backend_for(fused), (*FRAME, 1.0))
    assert difference(both, with_loras(HookBackend(pipeline), (*SEPIA, 0.7), (*FRAME, 1.0))) < 1e-4
    assert torch.equal(output(fused), own)


def test_what_does_not_fit_is_not_fused(pipeline: Any, base: torch.Tensor, tmp_path: Path) -> None:
    path = save(tmp_path / "lora.safetensors", narrow())
    with pytest.raises(InvalidLora):
        fuse(pipeline, path, 1.0)
    assert torch.equal(output(pipeline), base)


# ---------------------------------------------------------------- SDXL, SD 1.5 and FLUX, untrained and small


def layer_files(path: Path, layers: dict[str, tuple[str, int, int]]) -> tuple[Path, Path]:
    """One LoRA in kohya's format, alpha being rank / 2, and in diffusers'; kohya's name -> own, in, out."""
    random = torch.Generator().manual_seed(5)
    flat: Tensors = {}
    own: Tensors = {}
    for kohya, (name, wide, out) in layers.items():
        down, up = torch.randn(4, wide, generator=random) / 4, torch.randn(out, 4, generator=random) / 4
        flat |= {f"{kohya}.lora_down.weight": down, f"{kohya}.lora_up.weight": up}
        flat[f"{kohya}.alpha"] = torch.tensor(2.0)
        own |= {f"{name}.lora_A.weight": down.clone(), f"{name}.lora_B.weight": up / 2}
    return save(path / "kohya.safetensors", flat), save(path / "diffusers.safetensors", own)


def text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    ids = {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return CLIPTextModel(CLIPTextConfig(**sizes, **ids)).eval()


def unet(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    options = {
        "block_out_channels": (32, 64, 64),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 16,
        "use_linear_projection": True,
        "cross_attention_dim": 64,
        "norm_num_groups": 8,
        **changes,
    }
    return UNet2DConditionModel(**options).eval()


TE = "text_model_encoder_layers_0_self_attn_q_proj"
TE_OWN = "text_model.encoder.layers.0.self_attn.q_proj"


def unet_pipeline(kind: str) -> tuple[Any, dict[str, tuple[str, int, int]]]:
    """A pipeline, and layers by the names that kohya's trainer gives them."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    torch.manual_seed(0)
    rest = {"vae": None, "tokenizer": None, "scheduler": None}
    if kind == "SDXL":
        layers = {
            "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k": (
                "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
                64,
                64,
            ),
            "lora_unet_output_blocks_1_1_proj_in": ("unet.up_blocks.0.attentions.1.proj_in", 64, 64),
            f"lora_te1_{TE}": (f"text_encoder.{TE_OWN}", 32, 32),
            f"lora_te2_{TE}": (f"text_encoder_2.{TE_OWN}", 32, 32),
        }
        encoders = {"text_encoder": text_encoder(), "text_encoder_2": text_encoder(), "tokenizer_2": None}
        model = unet(transformer_layers_per_block=2)
        return StableDiffusionXLPipeline(unet=model, **encoders, **rest), layers
    layers = {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
            64,
            64,
        ),
        f"lora_te_{TE}": (f"text_encoder.{TE_OWN}", 32, 32),
    }
    checks = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    encoder = text_encoder()
    return StableDiffusionPipeline(unet=unet(), text_encoder=encoder, **checks, **rest), layers


def outputs(pipeline: Any) -> list[torch.Tensor]:
    """Of the U-Net on fixed noise, and of each text encoder."""
    random = torch.Generator().manual_seed(1)
    latents, text = torch.randn(1, 4, 16, 16, generator=random), torch.randn(1, 5, 64, generator=random)
    encoders = [getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")]
    with torch.no_grad():
        found = [encoder(torch.arange(5)[None]).last_hidden_state for encoder in encoders if encoder]
        return [pipeline.unet(latents, torch.tensor([1.0]), text).sample, *found]


@pytest.mark.parametrize("kind", ["SDXL", "SD 1.5"])
def test_a_unet_and_its_text_encoders_take_both_formats(kind: str, tmp_path: Path) -> None:
    pipeline, layers = unet_pipeline(kind)
    backend = backend_for(pipeline)
    assert isinstance(backend, PeftBackend)
    before, found = outputs(pipeline), []
    for number, path in enumerate(layer_files(tmp_path, layers)):
        with attached(backend, [(f"{number}" * 64, path, 1.0)]):
            found.append(outputs(pipeline))
        assert all(torch.equal(now, then) for now, then in zip(outputs(pipeline), before, strict=True))
    for one, other, base in zip(*found, before, strict=True):
        assert difference(one, base) > 1e-3
        assert difference(one, other) < 1e-5
    name = next(own for own, _, _ in layers.values() if own.startswith("text_encoder."))
    wrong = {f"{name}.lora_A.weight": torch.ones(4, 16), f"{name}.lora_B.weight": torch.ones(32, 4)}
    path = save(tmp_path / "wrong.safetensors", wrong)
    with pytest.raises(InvalidLora, match="maps 16 to 32"), attached(backend, [("f" * 64, path, 1.0)]):
        pytest.fail("drew")
    assert all(torch.equal(now, then) for now, then in zip(outputs(pipeline), before, strict=True))


@pytest.fixture(scope="module")
def flux() -> Any:
    """FLUX.1 of two blocks at its real width, without weights; the text encoder is a small one."""
    from diffusers import FluxPipeline, FluxTransformer2DModel

    with torch.device("meta"):
        transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=1)
    names = ("scheduler", "vae", "tokenizer", "text_encoder_2", "tokenizer_2")
    nothing = dict.fromkeys(names)
    return FluxPipeline(transformer=transformer, text_encoder=text_encoder(), **nothing)


def flux_layers(width: int = 3072) -> dict[str, tuple[int, int]]:
    return {
        "double_blocks.0.img_attn.qkv": (width, 3 * width),
        "double_blocks.0.txt_mlp.2": (4 * width, width),
        "single_blocks.0.linear1": (width, 7 * width),
    }


@pytest.mark.parametrize("prefix", ["lora_unet_", "diffusion_model.", ""])
def test_flux_takes_its_authors_names_in_every_format(prefix: str, flux: Any, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(5)
    tensors: Tensors = {}
    ups = {}
    for name, (wide, out) in flux_layers().items():
        stem = prefix + (name.replace(".", "_") if prefix == "lora_unet_" else name)
        ups[name] = torch.randn(out, 1, generator=random)
        tensors |= {f"{stem}.lora_down.weight": torch.ones(1, wide), f"{stem}.lora_up.weight": ups[name]}
        tensors[f"{stem}.alpha"] = torch.tensor(0.5)
    path = save(tmp_path / "lora.safetensors", tensors)
    assert inspect(path).group == "Flux.1"
    found = StateDicts().get(flux, "f" * 64, path)
    effects = {
        name: found[f"transformer.{name}.lora_B.weight"] * found[f"transformer.{name}.lora_A.weight"][0, 0]
        for name in (key.removeprefix("transformer.").removesuffix(".lora_A.weight") for key in found)
        if f"transformer.{name}.lora_A.weight" in found
    }
    query, key, value = ups["double_blocks.0.img_attn.qkv"].split(3072)
    single = ups["single_blocks.0.linear1"].split([3072, 3072, 3072, 4 * 3072])
    wanted = {
        "transformer_blocks.0.attn.to_q": query,
        "transformer_blocks.0.attn.to_k": key,
        "transformer_blocks.0.attn.to_v": value,
        "transformer_blocks.0.ff_context.net.2": ups["double_blocks.0.txt_mlp.2"],
        "single_transformer_blocks.0.attn.to_q": single[0],
        "single_transformer_blocks.0.attn.to_k": single[1],
        "single_transformer_blocks.0.attn.to_v": single[2],
        "single_transformer_blocks.0.proj_mlp": single[3],
    }
    assert effects.keys() == wanted.keys()
    assert all(torch.allclose(effects[name], wanted[name] / 2) for name in wanted)


def test_hooks_reach_the_text_encoder_as_well(flux: Any, tmp_path: Path) -> None:
    layers = {f"lora_te1_{TE}": (f"text_encoder.{TE_OWN}", 32, 32)}
    encoder = flux.text_encoder

    def encoded() -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = encoder(torch.arange(5)[None]).last_hidden_state
        return found

    before = encoded()
    found = []
    for way in (HookBackend, PeftBackend):
        backend = way(flux)
        for number, path in enumerate(layer_files(tmp_path, layers)):
            with attached(backend, [(f"{number}" * 64, path, 1.0)]):
                found.append(encoded())
            assert torch.equal(encoded(), before)
    assert difference(found[0], before) > 1e-3
    assert all(difference(found[0], other) < 1e-5 for other in found[1:])

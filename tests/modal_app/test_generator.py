"""A GPU container's work: what interrupts it, what breaks it, what it says of its time and its memory."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modal
import pytest

from modal_app import catalog, engine, residence, shelf
from modal_app.calls import Order, Outcome, cancel_key, order
from modal_app.contract import EnhanceRequest, Source, Timing
from modal_app.engine import Canceled, Drawing
from modal_app.engine.instant import InstantEngine
from modal_app.generator import Generator, GpuBroken
from modal_app.residence import Engines
from modal_app.shelf import Shelf
from modal_app.sources import SourceError
from tests.modal_app.conftest import image_request, new_key

LORAS = Path(__file__).parents[1] / "data" / "loras"


class Notes:
    """A board on which nothing fails."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def read(self, key: str) -> Any:
        return self.kept.get(key)

    def write(self, key: str, value: Any) -> None:
        self.kept[key] = value


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def make(tmp_path: Path, notes: Notes) -> Callable[..., Generator]:
    def made(**options: Any) -> Generator:
        (tmp_path / "volume").mkdir(exist_ok=True)
        kept = Shelf(tmp_path / "volume", tmp_path / "copies", lambda: None)
        return Generator(board=notes, shelf=kept, report_seconds=0.005, **options)

    return made


def ordered(**changes: Any) -> Order:
    return order(new_key(), "image", image_request(**{"model": "instant", **changes}))


def outcome(made: Generator, placed: Order, files: dict[str, bytes] | None = None) -> Outcome:
    return Outcome.unpacked(made.generate(placed.text(), files))


def raising(error: BaseException) -> Callable[..., Drawing]:
    def run(*args: object) -> Drawing:
        raise error

    return run


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        type("AcceleratorError", (RuntimeError,), {})("unspecified launch failure"),
    ],
)
def test_a_broken_gpu_takes_no_other_call_and_says_so_without_torch_s_words(
    make: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    stopped = []
    monkeypatch.setattr(InstantEngine, "run", raising(error))
    with pytest.raises(GpuBroken) as raised:
        make(on_broken=lambda: stopped.append(True)).generate(ordered().text())
    assert stopped == [True]
    assert raised.value.__cause__ is None and raised.value.__suppress_context__


def test_a_gpu_that_breaks_while_loading_is_broken_too(
    make: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(model: catalog.Model) -> engine.Engine:
        raise engine.LoadFailed("it does not load") from RuntimeError("CUDA error: out of luck")

    monkeypatch.setattr(engine, "load", load)
    with pytest.raises(GpuBroken):
        make().generate(ordered().text())


@pytest.mark.parametrize("wrapped", [False, True])
def test_memory_that_does_not_suffice_fails_the_call_only(
    make: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    full = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")
    failed = engine.LoadFailed("it does not load")
    failed.__cause__ = full
    monkeypatch.setattr(InstantEngine, "run", raising(failed if wrapped else full))
    call = outcome(make(), ordered()).call
    assert call.error and (call.error.code, call.error.retryable) == ("out_of_memory", False)


@pytest.mark.parametrize("interruption", [modal.exception.InputCancellation(), KeyboardInterrupt()])
def test_what_ends_an_input_or_its_container_is_not_swallowed(
    make: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    made = make()
    with monkeypatch.context() as patch:
        patch.setattr(InstantEngine, "run", raising(interruption))
        with pytest.raises(type(interruption)):
            made.generate(ordered().text())
    assert outcome(made, ordered()).call.status == "succeeded"


def test_an_interrupted_run_leaves_no_lora_behind(
    make: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make()
    plain = ordered(model="tiny-qwen")
    before = outcome(made, plain).pictures
    content = (LORAS / "sepia" / "pytorch_lora_weights.safetensors").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    with_lora = ordered(model="tiny-qwen", loras=[{"url": "sent:", "sha256": sha256, "scale": 1.0}])
    assert outcome(made, with_lora, {sha256: content}).pictures != before

    def interrupted(self: object, step: int, steps: int) -> None:
        raise modal.exception.InputCancellation

    with monkeypatch.context() as patch:
        patch.setattr("modal_app.generator._Run.__call__", interrupted)
        with pytest.raises(modal.exception.InputCancellation):
            made.generate(with_lora.text(), {sha256: content})
    assert outcome(made, plain).pictures == before


def test_a_call_canceled_before_it_came_is_not_drawn(
    make: Callable[..., Generator], notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "5")
    placed = ordered()
    notes.write(cancel_key(placed.call_id), True)
    ended = outcome(make(), placed)
    assert (ended.call.status, ended.call.error, ended.pictures) == ("canceled", None, [])
    assert ended.call.timing.gpu_seconds < 1


def test_the_end_is_told_by_the_outcome_and_by_nothing_else(
    make: Callable[..., Generator], notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "0.1")
    told: list[str] = []
    monkeypatch.setattr(notes, "write", lambda key, value: told.append(value))
    assert outcome(make(), ordered(num_inference_steps=10)).call.status == "succeeded"
    assert told and not any('"status":"succeeded"' in text for text in told)


def test_a_model_of_the_start_that_does_not_load_fails_its_own_calls_only(
    make: Callable[..., Generator],
) -> None:
    made = make(preload=("qwen-image",))
    made.start()
    failed = outcome(made, ordered(model="qwen-image", num_inference_steps=4)).call
    assert failed.error and (failed.error.code, failed.error.retryable) == ("model_load_failed", True)
    assert outcome(made, ordered()).call.status == "succeeded"


def test_a_call_says_where_its_seconds_went(
    make: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "0.1")
    made = make()
    made.start(imports_seconds=3.0)
    with caplog.at_level(logging.INFO, logger="modal_app.generator"):
        call = outcome(made, ordered(num_inference_steps=5)).call
        outcome(made, ordered())
    first, second = [dict(record.args[2]) for record in caplog.records if record.message.startswith("call ")]
    assert call.timing.gpu_seconds == pytest.approx(first["gpu_seconds"], abs=1e-5) and call.gpu == "cpu"
    assert first.keys() >= {"boot_seconds", "load_seconds", "encode_seconds", "denoise_seconds"}
    parts = sum(first[name] for name in ("prompt_seconds", "denoise_seconds", "decode_seconds"))
    assert parts == pytest.approx(first["gpu_seconds"], rel=0.26), "the first of five steps is a guess"
    assert first["boot_seconds"] >= 3 and second["boot_seconds"] == 0, "only the first call waited for it"
    assert Timing.model_validate(first).gpu_seconds == first["gpu_seconds"]


def test_a_language_task_is_done(make: Callable[..., Generator]) -> None:
    request = EnhanceRequest(model="instant", prompt="a fox")
    ended = outcome(make(), order(new_key(), "enhance", request))
    assert ended.call.result and ended.call.result.task == "enhance" and ended.pictures == []


class TestShelf:
    CONTENT = b"a file"
    SOURCE = Source(url="https://example.com/x", sha256=hashlib.sha256(CONTENT).hexdigest())

    def shelf(self, folder: Path, refresh: Callable[[], None] = lambda: None) -> Shelf:
        (folder / "volume").mkdir()
        return Shelf(folder / "volume", folder / "copies", refresh)

    def test_a_file_that_nobody_fetched_may_be_had_later(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError) as raised:
            self.shelf(tmp_path).take([self.SOURCE], {})
        assert (raised.value.code, raised.value.retryable) == ("source_unavailable", True)

    def test_a_file_that_was_altered_is_refused(self, tmp_path: Path) -> None:
        kept = self.shelf(tmp_path)
        (tmp_path / "volume" / self.SOURCE.sha256).write_bytes(b"another")
        for sent in ({}, {self.SOURCE.sha256: b"another"}):
            with pytest.raises(SourceError) as raised:
                kept.take([self.SOURCE], sent)
            assert raised.value.code == "source_mismatch"

    def test_a_file_that_another_container_fetched_is_seen_after_one_look(self, tmp_path: Path) -> None:
        looks = []

        def refresh() -> None:
            looks.append(True)
            (tmp_path / "volume" / self.SOURCE.sha256).write_bytes(self.CONTENT)

        kept = self.shelf(tmp_path, refresh)
        for _ in range(2):
            (path,) = kept.take([self.SOURCE], {}).values()
            assert path.read_bytes() == self.CONTENT and path.parent.name == "copies"
        assert looks == [True]

    def test_copies_used_longest_ago_give_way(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shelf, "COPIES_LIMIT_BYTES", 10)
        kept = self.shelf(tmp_path)
        contents = [b"first file", b"second file"]
        sources = [Source(url="x:", sha256=hashlib.sha256(each).hexdigest()) for each in contents]
        for source, content in zip(sources, contents, strict=True):
            kept.take([source], {source.sha256: content})
        kept.take([self.SOURCE], {self.SOURCE.sha256: self.CONTENT})
        names = {path.name for path in (tmp_path / "copies").iterdir()}
        assert self.SOURCE.sha256 in names and sources[0].sha256 not in names


class Card:
    """Stands for torch on a machine with a GPU."""

    def __init__(self, capability: tuple[int, int], memory_gb: float) -> None:
        self.cuda = self
        self.is_available = lambda: True
        self.get_device_capability = lambda: capability
        self.total_memory = memory_gb * 1e9
        self.get_device_properties = lambda n: self
        self.empty_cache = lambda: None


@pytest.mark.parametrize(
    ("asked", "capability", "memory_gb", "priced"),
    [
        (("L40S", "A100-80GB"), (8, 9), 47.7, "L40S"),
        (("L40S", "A100-80GB"), (8, 0), 85.0, "A100-80GB"),
        (("A10", "L4"), (8, 9), 23.6, "L4"),
        (("H100", "H200"), (9, 0), 150.0, "H200"),
        (("H100",), (9, 0), 150.0, "H100"),  # a better one than asked for, at the price of the one asked for
    ],
)
def test_a_call_is_charged_at_the_gpu_that_was_asked_for_and_given(
    monkeypatch: pytest.MonkeyPatch,
    asked: tuple[str, ...],
    capability: tuple[int, int],
    memory_gb: float,
    priced: str,
) -> None:
    monkeypatch.setattr(residence, "_torch", lambda: Card(capability, memory_gb))
    assert residence.priced_gpu(asked) == priced


def test_without_a_gpu_a_call_is_charged_at_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residence, "_torch", lambda: None)
    assert residence.priced_gpu(("L40S",)) == "cpu"


@pytest.mark.parametrize(
    ("capability", "memory_gb", "stays"),
    [((8, 9), 47.7, ["qwen-image-fast", "qwen-image-edit-fast"]), ((8, 6), 23.9, ["qwen-image-edit-fast"])],
)
def test_models_stay_loaded_as_far_as_the_memory_goes(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], memory_gb: float, stays: list[str]
) -> None:
    loads: list[str] = []

    def load(model: catalog.Model) -> Any:
        loads.append(model.id)
        return object()

    monkeypatch.setattr(residence, "_torch", lambda: Card(capability, memory_gb))
    monkeypatch.setattr(engine, "load", load)
    engines = Engines()
    for model_id in ("qwen-image-fast", "qwen-image-edit-fast", *stays):
        engines.get(model_id)
    assert loads == ["qwen-image-fast", "qwen-image-edit-fast"]


def test_an_engine_that_heard_of_its_cancel_is_an_answer(
    make: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InstantEngine, "run", raising(Canceled("canceled")))
    assert outcome(make(), ordered()).call.status == "canceled"

"""What a job will take and cost: the price table's own numbers, and what is made of measurements."""

import datetime
from decimal import Decimal
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.usage.estimates import (
    RESERVE_FACTOR,
    RESERVE_SECONDS,
    Sample,
    Work,
    parallelism,
    quantile,
    seconds,
)
from gateway.usage.history import Queue
from gateway.usage.prices import usd_micros
from modal_app import catalog
from modal_app.catalog.prices import PRICES, Price, cost_usd_micros

STOP_SHARE = 0.75
"""Of the reserve, what a call may take; see the function ``claim_queued_jobs``."""
TODAY = datetime.date(2026, 11, 21)
QWEN = catalog.find("qwen-image-fast")
EDIT = catalog.find("qwen-image")
assert QWEN and EDIT
SECONDS = st.floats(0.001, 10_000, allow_nan=False).map(lambda value: round(value, 3))


def work(**changes: object) -> Work:
    assert QWEN
    return Work(**{"model": QWEN, "width": 1328, "height": 1328, "steps": 8, **changes})  # type: ignore[arg-type]


def sample(gpu_seconds: float, **changes: object) -> Sample:
    facts = {"task": "image", "gpu": "A10", "num_images": 1, "passes": 8, "pixels": 1328**2, "references": 0}
    return Sample(**{**facts, "gpu_seconds": gpu_seconds, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gpu", "gpu_seconds", "micros"),
    [
        ("A10", 45, 13_750),
        ("A10", 3600, 1_100_000),
        ("T4", 3600, 600_000),
        ("A100", 3600, 4_000_000),
        ("A10", 10, 3_056),  # a Lightning image: about 0.003 $
        ("A10", 0, 0),
    ],
)
def test_seconds_become_micro_dollars(gpu: str, gpu_seconds: float, micros: int) -> None:
    assert cost_usd_micros(gpu, gpu_seconds, TODAY) == micros == usd_micros(gpu, gpu_seconds)


def test_time_on_a_gpu_without_a_price_costs_nothing_and_nothing_breaks() -> None:
    assert usd_micros("abacus", 100) == usd_micros(None, 100) == 0
    with pytest.raises(KeyError):
        catalog.price("abacus", TODAY)


def test_the_price_of_the_day_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    cheaper = Price("A10", 550_000, datetime.date(2027, 1, 1))
    monkeypatch.setattr("modal_app.catalog.prices.PRICES", (*PRICES, cheaper))
    assert cost_usd_micros("A10", 45, datetime.date(2026, 12, 31)) == 13_750
    assert cost_usd_micros("A10", 45, datetime.date(2027, 1, 1)) == 6_875
    with pytest.raises(KeyError):
        catalog.price("A10", datetime.date(2025, 12, 31))


@given(parts=st.lists(SECONDS, min_size=1, max_size=50))
def test_a_call_is_rounded_once_so_a_sum_is_off_by_half_a_micro_dollar_each_at_most(
    parts: list[float],
) -> None:
    exact = sum(Decimal(str(part)) for part in parts) * 1_100_000 / 3600
    charged = sum(cost_usd_micros("A10", part, TODAY) for part in parts)
    assert abs(exact - charged) <= Decimal(len(parts)) / 2


def test_before_anything_is_measured_the_catalogue_speaks() -> None:
    found = seconds(work(), "A10", [])
    assert (found.expected, found.basis, found.samples) == (8.0, "catalogue", 0)
    assert found.low < found.expected < found.high
    assert seconds(work(num_images=4), "A10", []).expected == 32.0
    assert seconds(work(steps=4), "A10", []).expected == 4.0


def test_guidance_takes_two_passes_a_step_and_is_in_the_catalogues_figure_where_it_is_the_default() -> None:
    assert EDIT
    guided = Work(EDIT, 1328, 1328, 1, 50, 4.0)
    assert seconds(guided, "L40S", []).expected == 71.0
    assert seconds(Work(EDIT, 1328, 1328, 1, 50, 1.0), "L40S", []).expected == 35.5


def test_calls_of_the_same_kind_are_believed_once_there_are_enough() -> None:
    calls = [sample(each) for each in (10, 11, 12, 13)]
    assert seconds(work(), "A10", calls).basis == "catalogue"
    calls.append(sample(30))
    found = seconds(work(num_images=2), "A10", calls)
    assert (found.expected, found.basis, found.samples) == (24.0, "measured", 5)
    assert found.low == pytest.approx(20.8)
    assert found.high == pytest.approx(46.4)


def test_other_sizes_and_steps_are_scaled_and_other_gpus_and_tasks_do_not_count() -> None:
    calls = [sample(10.0) for _ in range(5)]
    assert seconds(work(steps=4), "A10", calls).expected == pytest.approx(5.0)
    assert seconds(work(steps=4), "A10", calls).basis == "scaled"
    assert seconds(work(), "L40S", calls).basis == "catalogue"
    upscale = Work(work().model, 2656, 2656, 1, 8, task="upscale")
    assert seconds(upscale, "A10", calls).basis == "catalogue"


def test_a_language_task_before_the_picture_is_added() -> None:
    words = [sample(2.0, task="enhance", passes=1, pixels=1) for _ in range(5)]
    calls = [sample(10.0) for _ in range(5)]
    assert seconds(work(before=("enhance",)), "A10", [*calls, *words]).expected == pytest.approx(12.0)
    assert seconds(work(before=("enhance",), num_images=0), "A10", words).expected == pytest.approx(2.0)


@given(values=st.lists(SECONDS, min_size=5, max_size=60), images=st.integers(1, 10))
def test_a_reserve_is_never_below_what_nine_in_ten_calls_took(values: list[float], images: int) -> None:
    found = seconds(work(num_images=images), "A10", [sample(each) for each in values])
    assert found.low <= found.expected <= found.high
    stopped_at = found.reserve * STOP_SHARE
    assert stopped_at > found.high
    assert found.reserve == pytest.approx(found.high * RESERVE_FACTOR + RESERVE_SECONDS, abs=0.001)


@given(values=st.lists(SECONDS, min_size=1, max_size=40), share=st.floats(0, 1))
def test_a_quantile_lies_between_its_neighbours(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = quantile(ordered, share)
    assert ordered[0] <= found <= ordered[-1]
    assert quantile(ordered, 0) == ordered[0]
    assert quantile(ordered, 1) == ordered[-1]


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([], 1.0),
        ([(0, 10)], 1.0),
        ([(0, 10), (10, 20), (100, 101)], 1.0),
        ([(0, 10), (0, 10), (0, 10)], 3.0),
        ([(0, 10), (5, 15)], 20 / 15),
        ([(5, 5)], 1.0),
    ],
)
def test_how_many_calls_run_at_once_is_told_from_those_that_ended(
    intervals: list[tuple[float, float]], expected: float
) -> None:
    assert parallelism(intervals) == pytest.approx(expected)


def test_everybody_is_served_in_turn_so_a_long_queue_of_others_counts_only_as_far_as_ones_own() -> None:
    me, flood, other = uuid4(), uuid4(), uuid4()
    queue = Queue(waiting={me: 3, flood: 10_000, other: 1}, running=2)
    assert queue.ahead(me, 1) == 0 + 1 + 1 + 2
    assert queue.ahead(me, 3) == 2 + 3 + 1 + 2
    assert queue.ahead(flood, 10_000) == 9_999 + 3 + 1 + 2

"""The simulated pool behaves like the queues that are understood, and its traffic is what was asked for."""

import random
import statistics

import pytest

from scripts.pool import Call, Settings, simulate
from scripts.simulate import DAY, generated, percentile, recommended

EVERY_TEN = [Call(10.0 * n, 4.0) for n in range(5)]


def test_a_cap_of_one_draws_in_order_of_arrival() -> None:
    together = [Call(0.0, 4.0), Call(0.0, 4.0), Call(1.0, 4.0)]
    outcome = simulate(together, Settings(60, 1), cold_start=30)
    assert outcome.waits == [30.0, 34.0, 37.0]
    assert (outcome.starts, outcome.peak) == (1, 1)
    assert (outcome.busy_seconds, outcome.billed_seconds) == (12.0, 30.0 + 12.0 + 60.0)


def test_calls_that_find_nobody_start_containers_up_to_the_cap() -> None:
    outcome = simulate([Call(0.0, 4.0)] * 5, Settings(60, 2), cold_start=30)
    assert outcome.waits == [30.0, 30.0, 34.0, 34.0, 38.0]
    assert outcome.peak == outcome.starts == 2


def test_a_container_waits_for_the_window_and_no_longer() -> None:
    kept = simulate(EVERY_TEN, Settings(7, 4), cold_start=1)
    assert (kept.starts, kept.waits) == (1, [1.0, 0.0, 0.0, 0.0, 0.0])
    gone = simulate(EVERY_TEN, Settings(4, 4), cold_start=1)
    assert (gone.starts, set(gone.waits)) == (5, {1.0})
    assert gone.billed_seconds == 5 * (1 + 4 + 4)


def test_warm_containers_are_there_before_the_first_call_and_never_stop() -> None:
    outcome = simulate([Call(0.0, 4.0), Call(5000.0, 4.0)], Settings(2, 4, 1), cold_start=60)
    assert (outcome.starts, outcome.waits) == (0, [0.0, 0.0])
    assert outcome.billed_seconds == pytest.approx(5004.0, abs=2.0)


def test_one_container_waits_as_long_as_pollaczek_and_khinchine_say() -> None:
    rng, busy, seconds, at = random.Random(1), 0.6, 10.0, 0.0
    calls = [Call(at := at + rng.expovariate(busy / seconds), seconds) for _ in range(40_000)]
    waits = simulate(calls, Settings(60, 1, 1), cold_start=0).waits
    assert statistics.fmean(waits) == pytest.approx(busy * seconds / (2 * (1 - busy)), rel=0.05)


def test_every_call_is_drawn_and_billed_time_holds_all_that_is_drawn() -> None:
    calls = generated(a_day=300, days=2, bursts=3, burst=15, seconds=20, rng=random.Random(3))
    for settings in (Settings(2, 1), Settings(120, 4), Settings(30, 8, 2)):
        outcome = simulate(calls, settings, cold_start=60)
        assert len(outcome.waits) == len(calls)
        assert outcome.busy_seconds == pytest.approx(sum(call.seconds for call in calls))
        assert outcome.billed_seconds >= outcome.busy_seconds + 60 * outcome.starts
        assert outcome.peak <= settings.max_containers


def test_traffic_has_the_asked_number_a_quiet_night_and_bursts() -> None:
    calls = generated(a_day=2000, days=10, bursts=0, burst=0, seconds=8, rng=random.Random(5))
    assert len(calls) == pytest.approx(20_000, rel=0.03)
    assert statistics.median(call.seconds for call in calls) == pytest.approx(8, rel=0.02)
    night = sum(call.at % DAY < DAY / 12 or call.at % DAY > DAY * 11 / 12 for call in calls)
    noon = sum(DAY * 5 / 12 < call.at % DAY < DAY * 7 / 12 for call in calls)
    assert noon > 6 * night
    bursts = generated(a_day=10, days=3, bursts=2, burst=50, seconds=8, rng=random.Random(5))
    assert len(bursts) == pytest.approx(30 + 300, abs=20)


def test_recommended_is_the_cheapest_within_the_goal_else_the_one_that_waits_least() -> None:
    calls = generated(a_day=400, days=2, bursts=2, burst=20, seconds=8, rng=random.Random(7))
    tried = [
        (settings, simulate(calls, settings, 60))
        for settings in (Settings(2, 1), Settings(300, 4), Settings(2, 2, 2))
    ]
    costs = [outcome.billed_seconds for _, outcome in tried]
    assert costs == sorted(costs)
    waits = [percentile(outcome.waits, 0.95) for _, outcome in tried]
    assert recommended(tried, waits[1])[0] == Settings(300, 4)
    assert recommended(tried, -1)[0] == Settings(2, 2, 2)


def test_a_percentile_is_a_value_that_was_there() -> None:
    assert percentile([3.0, 1.0, 2.0, 4.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0, 4.0], 0.95) == 4.0
    assert percentile([], 0.95) == 0.0

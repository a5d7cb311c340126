"""What comes out means what went in: the table of docs/engine.md, and its floor."""

import pytest

from scripts.evaluate_engine import EVALUATIONS, Studio, open_studio

CASES = 64
FLOOR = 0.95


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.mark.parametrize("what", EVALUATIONS)
def test_at_least_95_of_100_are_right(studio: Studio, what: str) -> None:
    shares = EVALUATIONS[what](studio, CASES)
    assert {name: share for name, share in shares.items() if share < FLOOR} == {}

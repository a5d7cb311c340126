"""The benchmarks run where there is no GPU, as far as they can."""

import re
import subprocess
import sys
from pathlib import Path

from modal_app.catalog import CATALOG

ROOT = Path(__file__).parents[2]
THRESHOLD = next(row.consistency_threshold for row in CATALOG if row.id == "tiny-qwen-edit")


def ran(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_gpu_bench_has_a_line_for_every_quality() -> None:
    done = ran("scripts.bench_gpu", "--smoke")
    assert done.returncode == 0, done.stderr
    rows = re.findall(
        r"^\| (diffusers|ours)[^|]*\| \d+\.\d+ \| \d+\.\d+ \| \d+\.\d \| \d+% \|", done.stdout, re.M
    )
    assert rows == ["diffusers", "ours", "ours", "ours"]


def test_the_bench_of_the_engine_compares_four_things() -> None:
    done = ran("scripts.bench_engine", "--rounds", "2")
    assert done.returncode == 0, done.stderr
    ratios = [float(line.split()[-1]) for line in done.stdout.splitlines()[1:]]
    assert len(ratios) == 4
    assert ratios[3] < 0.5, "a LoRA that stays loaded is switched, not loaded"


def test_polls_are_measured_beside_a_bare_app() -> None:
    done = ran("scripts.bench_http", "--only", "polls", "--turns", "1", "--seconds", "0.3")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ +(gateway|bare FastAPI \+ psycopg) +(\d+) .+ ms +\d+\.\d\d ms$", done.stdout, re.M)
    assert [name for name, _ in rows] == ["gateway", "bare FastAPI + psycopg"]
    assert all(int(rate) > 0 for _, rate in rows)


def test_no_event_is_lost_on_open_streams() -> None:
    done = ran("scripts.bench_http", "--only", "streams", "--streams", "40", "--seconds", "0.4")
    assert done.returncode == 0, done.stderr
    assert "100 of 100 events received" in done.stdout


def test_a_chapter_shows_recognisable_characters_within_the_cap_and_tells_them_from_others() -> None:
    done = ran("scripts.bench_consistency", "--panels", "3", "--attempts", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = re.findall(r"^\| \d \| ([\w ]+) \| [^|]+ \| ([^|]+) \| [^|]+ \| \d+ \|$", done.stdout, re.M)
    assert [who for who, _ in lines] == ["Mila", "Rex", "Mila and Rex"]
    judged = [float(shown) for _, shown in lines if shown != "not judged"]
    assert judged and min(judged) >= THRESHOLD
    means = re.findall(r"^\| (without|with) repairs \| ([\d.]+) \|", done.stdout, re.M)
    assert [name for name, _ in means] == ["without", "with"]
    assert float(means[1][1]) >= float(means[0][1])
    (auc,) = re.findall(r"AUC on swapped characters: ([\d.]+)", done.stdout)
    (used,) = re.findall(r"the most that one used of it: (\d+)%", done.stdout)
    assert float(auc) >= 0.95 and int(used) <= 100

"""The benchmarks run where there is no GPU, as far as they can."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def ran(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
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

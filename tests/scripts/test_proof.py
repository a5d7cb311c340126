"""The commands that prove what docs/reliability.md says, as small as they go."""

import re
import xml.etree.ElementTree as ET

from scripts.faults import outcome_of
from scripts.soak import slope
from tests.scripts.test_benches import ran


def test_a_scenario_that_breaks_a_promise_has_failed() -> None:
    case = ET.fromstring(  # noqa: S314 - ours
        '<testcase classname="tests.gateway.test_faults" name="test_a_b" time="1.5"><failure/></testcase>'
    )
    outcome = outcome_of(case)
    assert (outcome.scenario, outcome.file, outcome.result) == ("a b", "test_faults", "failed")


def test_faults_are_a_line_each() -> None:
    done = ran("scripts.faults", "--scale", "1", "--only", "bucket_that_refuses")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^a bucket that refuses for a while .+ 1 x jobs +held +\d+\.\d$", done.stdout, re.M)


def test_a_soak_of_seconds_kills_a_gateway_and_loses_no_job() -> None:
    done = ran("scripts.soak", "--minutes", "0.1", "--rate", "3", "--kill-every", "3")
    assert "a job:" not in done.stdout
    assert re.search(r"^18 jobs, \d+ requests repeated$", done.stdout, re.M), done.stdout + done.stderr
    assert re.search(r"^public.generation_jobs +\d", done.stdout, re.M), done.stdout


def test_what_grows_by_the_minute_has_a_slope() -> None:
    assert slope([0.0, 1.0, 2.0], [100.0, 103.0, 106.0]) == 3.0

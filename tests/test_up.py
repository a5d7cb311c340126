"""The command that a newcomer types first, and its neighbours on the command line."""

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.judge import judge
from tests.support.stack import free_port

TENKAIGEN = [str(Path(sys.executable).with_name("tenkaigen"))]
Folder = Callable[[], Path]


class Up:
    """``tenkaigen up`` in a process of its own, and what it has printed."""

    def __init__(self, data: Path, port: int, **environment: str) -> None:
        self.data, self.port, self.url = data, port, f"http://127.0.0.1:{port}"
        self.log = data.with_name(f"{data.name}.up.log")
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            command = [*TENKAIGEN, "up", "--data", str(data), "--port", str(port)]
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **environment}
            )

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def ready(self, within: float = 180) -> None:
        """Wait for the welcome."""
        while "Ctrl-C stops everything" not in self.printed:
            assert self.process.poll() is None, self.printed
            assert time.monotonic() - self.started < within, self.printed
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)

    @property
    def key(self) -> str:
        return (self.data / "dev-key").read_text().strip()


@pytest.fixture(scope="module")
def up(new_folder: Folder) -> Iterator[Up]:
    running = Up(new_folder() / "data", free_port())
    running.ready()
    yield running
    if running.process.poll() is None:
        running.stop(signal.SIGKILL)


def run(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DATA": str(data)}
    return subprocess.run(
        [*TENKAIGEN, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def processes_of(data: Path) -> list[str]:
    """Command lines of everything that was started for a data folder and still runs."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            command = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = process.joinpath("environ").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"{data}" in command or f"DATA={data} " in environment:
            found.append(command)
    return found


def wait_until(holds: Callable[[], bool], within: float) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_refused(process: subprocess.CompletedProcess[str], words: str) -> None:
    """One clear line and exit status 1, and no stack trace."""
    assert process.returncode == 1
    assert words in process.stderr
    assert process.stderr.startswith("tenkaigen: ")
    assert "Traceback" not in process.stderr


def test_a_taken_port_is_said_before_anything_is_started(up: Up, new_folder: Folder) -> None:
    data = new_folder() / "data"
    assert_refused(
        run("up", "--port", str(up.port), data=data), f"port {up.port} is taken. Choose another with PORT=."
    )
    assert not (data / "postgres").exists()


def test_a_second_run_on_the_same_folder_is_refused(up: Up) -> None:
    assert_refused(run("up", "--port", str(free_port()), data=up.data), "another `tenkaigen up` runs on")
    assert up.process.poll() is None


def test_a_folder_that_cannot_be_written_to_is_named(new_folder: Folder) -> None:
    file = new_folder() / "file"
    file.touch()
    assert_refused(run("up", data=file / "data"), "cannot be written to")
    assert_refused(run("up", data=Path("/proc/tenkaigen")), "cannot be written to")


def test_commands_that_need_a_gateway_say_so_when_there_is_none(new_folder: Folder) -> None:
    data = new_folder()
    assert_refused(run("generate", "a red creature", data=data), "Run `make up`")
    (data / "dev-key").write_text("tk_nothing\n")
    refused = run("generate", "a red creature", "--port", str(free_port()), data=data)
    assert_refused(refused, "no gateway answers")


def test_a_refused_picture_ends_with_its_reason(up: Up, tmp_path: Path) -> None:
    port, out = str(up.port), tmp_path / "out.png"
    refused = run("generate", "x", "--model", "nothing", "--port", port, "-o", str(out), data=up.data)
    assert_refused(refused, "(unknown_model)")
    assert not out.exists()


def test_it_draws_a_first_picture_and_says_where_everything_is(up: Up) -> None:
    picture = Path(re.search(r"picture  (\S+)", up.printed)[1])  # type: ignore[index]
    seen = judge(Image.open(picture).convert("RGB"))
    assert (seen["body"], seen["color"], seen["hat"], seen["scene"]) == ("round", "red", "blue", "beach")
    assert f"page     {up.url}/\n" in up.printed
    assert f"API key  {up.key}" in up.printed
    assert up.key.startswith("tk_")
    assert stat.S_IMODE((up.data / "dev-key").stat().st_mode) == 0o600
    assert stat.S_IMODE((up.data / "secrets.json").stat().st_mode) == 0o600


def test_the_curl_line_works_as_printed(up: Up) -> None:
    line = up.printed[up.printed.index("  curl ") : up.printed.index("Ctrl-C")].replace("\\\n", " ")
    answer = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True, timeout=60)
    job = json.loads(answer.stdout)
    assert job["status"] == "completed"
    assert httpx.get(job["images"][0]["url"]).headers["content-type"] == "image/png"


def test_the_page_is_served_without_a_key_and_calls_nobody_else(up: Up) -> None:
    page = httpx.get(f"{up.url}/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    needed = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert {path.rpartition("/")[2] for path in needed} >= {"app.js", "style.css"}
    sources = [httpx.get(up.url + path) for path in needed]
    assert {source.status_code for source in sources} == {200}
    strange = re.compile(r"https?://(?!www\.w3\.org|127\.0\.0\.1)")
    assert not [source.url for source in sources if strange.search(source.text)]


def test_a_browser_on_this_machine_is_signed_in_and_draws(up: Up) -> None:
    with httpx.Client(base_url=up.url) as browser:
        assert "Signing in" in browser.get("/", follow_redirects=True).text
        assert browser.post("/v1/session", json={}).status_code == 200
        page = browser.get("/", follow_redirects=True)
        assert page.url.path == "/generate"
        assert "first" not in page.url.query.decode()
        assert 'data-page="generate"' in page.text


def test_generate_writes_the_picture_and_prints_seconds_and_cost(up: Up, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    words = "a yellow pointy creature, front view, at night"
    drawn = run("generate", words, "--seed", "3", "--port", str(up.port), "-o", str(out), data=up.data)
    assert drawn.returncode == 0, drawn.stderr
    assert re.search(r"tiny-qwen, seed 3, \d+\.\d\d s, \$0\.\d{6}", drawn.stdout)
    seen = judge(Image.open(out).convert("RGB"))
    assert (seen["body"], seen["color"], seen["scene"]) == ("pointy", "yellow", "night")


def test_keys_are_made_while_the_gateway_runs_and_belong_to_their_user(up: Up) -> None:
    made = run("keys", "create", "--user", "other@example.com", data=up.data)
    key = made.stdout.strip()
    assert re.fullmatch(r"tk_[\w-]{40,}", key), made.stderr
    jobs = httpx.get(f"{up.url}/v1/jobs", headers={"Authorization": f"Bearer {key}"})
    assert jobs.status_code == 200
    assert jobs.json()["data"] == []


def test_the_doctor_finds_all_well_where_it_runs(up: Up) -> None:
    told = run("doctor", "--data", str(up.data), data=up.data)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "the smoke job's end was told by its webhook" in told.stdout
    assert "All is well." in told.stdout


def test_keys_are_listed_and_revoked_while_the_gateway_runs(up: Up) -> None:
    assert_refused(
        run("keys", "create", "--user", "a@example.com", "--scope", "root", data=up.data), "not a scope"
    )
    made = run("keys", "create", "--user", "a@example.com", "--name", "nightly", data=up.data)
    found = run("keys", "list", "--user", "a@example.com", data=up.data)
    listed = found.stdout
    assert len(listed.splitlines()) == 1, listed + found.stderr
    key_id = listed.split()[0]
    assert "nightly" in listed
    assert made.stdout.strip() not in listed
    assert run("keys", "revoke", key_id, data=up.data).stdout == "Revoked.\n"
    jobs = httpx.get(f"{up.url}/v1/jobs", headers={"Authorization": f"Bearer {made.stdout.strip()}"})
    assert jobs.status_code == 401
    assert_refused(run("keys", "revoke", key_id, data=up.data), "no such key")


def test_whoever_sits_at_the_machine_is_signed_in_as_the_owner_of_the_first_key(up: Up) -> None:
    with httpx.Client(base_url=up.url) as browser:
        assert browser.get("/v1/session/methods").json() == {"mode": "local", "methods": ["local"]}
        assert browser.post("/v1/session").json()["email"] == "you@localhost"
        seen = {job["id"] for job in browser.get("/v1/jobs").json()["data"]}
    owner = {"Authorization": f"Bearer {up.key}"}
    assert seen == {job["id"] for job in httpx.get(f"{up.url}/v1/jobs", headers=owner).json()["data"]}
    assert seen


def test_migrating_an_up_to_date_database_changes_nothing(up: Up) -> None:
    assert run("migrate", data=up.data).stdout.startswith("Nothing to do")


def test_costs_are_told_by_day(up: Up) -> None:
    told = run("costs", data=up.data)
    assert re.search(r"\d{4}-\d\d-\d\d │ \d+ +│ \d+\.\d +│ 0\.\d{6}", told.stdout), told.stdout + told.stderr
    assert_refused(run("costs", "--from", "yesterday", data=up.data), "write it as YYYY-MM-DD")


def test_a_killed_child_is_started_again(up: Up) -> None:
    gateway = next(p for p in Path("/proc").glob("[0-9]*") if _is_gateway_of(p, up.data))
    os.kill(int(gateway.name), signal.SIGKILL)
    wait_until(lambda: _answers(up.url), within=120)
    assert up.process.poll() is None


def test_after_a_kill_the_next_start_finds_everything_and_an_interrupt_leaves_nothing(up: Up) -> None:
    key = up.key
    up.stop(signal.SIGKILL)
    wait_until(lambda: not _is_taken(up.port), within=60)  # its children end when they hear of it
    again = Up(up.data, up.port)
    again.ready()
    assert again.key == key
    jobs = httpx.get(f"{again.url}/v1/jobs", headers={"Authorization": f"Bearer {key}"}).json()["data"]
    assert len(jobs) >= 2
    assert again.stop(signal.SIGINT) == 0
    assert "Stopped." in again.printed
    assert "Traceback" not in again.printed
    assert processes_of(up.data) == []


def test_the_doctor_says_what_to_start_where_nothing_runs(up: Up, new_folder: Folder) -> None:
    told = run("doctor", "--data", str(up.data), data=up.data)
    assert told.returncode == 1
    assert re.search(rf"gateway +│ failed +│ nothing runs on {up.data}", told.stdout), told.stdout
    assert f"`make up DATA={up.data}` starts everything" in told.stdout
    assert "none to apply" in told.stdout  # it looks at what the folder holds all the same
    assert processes_of(up.data) == []
    empty = new_folder()
    assert "nothing runs on" in run("doctor", "--data", str(empty), data=empty).stdout
    assert not list(empty.iterdir())


def test_keys_are_made_while_nothing_runs(up: Up) -> None:
    assert run("keys", "create", "--user", "third@example.com", data=up.data).stdout.startswith("tk_")
    assert processes_of(up.data) == []


def _is_gateway_of(process: Path, data: Path) -> bool:
    try:
        command = process.joinpath("cmdline").read_bytes()
        environment = process.joinpath("environ").read_bytes()
    except OSError:
        return False
    return command.endswith(b"-m\0gateway\0") and f"DATA={data}\0".encode() in environment


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False

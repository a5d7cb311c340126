"""What one gateway serves over HTTP: ``make bench``; ``--only polls`` runs one section by itself.

polls    status polls with an API key, beside bare FastAPI and psycopg reading the same row; by turns
pictures jobs from request to picture (``Prefer: wait``) by turns with LitServe and BentoML's tasks, which
         have the same engine
creates  jobs made, by several users; the gateway's worker is off, so nothing is drawn
streams  event streams that are open at once, one job each: memory, and from an event's commit to its receipt

Gateway, bare app and Postgres are processes of their own; the client shares their cores.  CPU is that of the
one server, per request: it says what a request costs where other work slows the clock.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any

import httpx
import psycopg
import uvloop

from gateway.embedded import EmbeddedPostgres, add_key
from scripts import bench_streams
from scripts.load_client import Exchange, Load, MakeExchange, load, request, single
from scripts.process_figures import cpu_seconds, family, machine
from tests.support.stack import Process, free_port, gateway_process, gpu_process

BODY = {"prompt": "a phoenix rising", "model": "instant", "size": "256x256"}
CONNECTIONS = 32
USERS = 20
ASK_AGAIN_SECONDS = 0.01
"""Between two looks at a task: the shorter, the sooner its end is known and the more is asked."""
POLLS_GOAL, SHARE_GOAL, CREATES_GOAL = 1500, 0.8, 500


PEERS = Path(os.environ.get("BENCH_PEERS", f"{sys.prefix}/peers"))
"""Where ``make bench`` puts servers of others (``scripts/peers.txt``); without it they are left out."""


@dataclass(frozen=True)
class Product:
    gateway: Process
    admin_url: str
    folder: Path
    keys: list[str]


@dataclass(frozen=True)
class Measured:
    load: Load
    cpu_ms: float
    """Of the server's process, per request."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=SECTIONS, help="one section by itself")
    parser.add_argument("--turns", type=int, default=5, help="of each server, in polls and creates")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="a turn; events are told for five times as long"
    )
    parser.add_argument("--streams", type=int, default=2000, help="event streams that are open at once")
    options = parser.parse_args()
    print(machine())
    for name in [options.only] if options.only else SECTIONS:
        SECTIONS[name](options)


def polls(options: argparse.Namespace) -> None:
    """Status polls of a job that has ended, beside the bare app."""
    with product() as ours, bare_app(ours) as bare:
        job = _draw_one(ours)
        asked = {
            "gateway": (ours.gateway, _poll(ours.gateway.url + f"/v1/jobs/{job}", ours.keys[0])),
            "bare FastAPI + psycopg": (bare, _poll(f"{bare.url}/jobs/{job}", ours.keys[0])),
        }
        taken = by_turns(asked, options.turns, options.seconds)
    print(f"\nstatus polls, {CONNECTIONS} connections, medians of {options.turns} turns")
    rates = table(taken)
    share = rates["gateway"] / rates["bare FastAPI + psycopg"]
    print(f"gateway / bare: {share:.2f}, goal {SHARE_GOAL}: {verdict(share, SHARE_GOAL)}")
    print(f"goal {POLLS_GOAL} a second: {verdict(rates['gateway'], POLLS_GOAL)}")


def pictures(options: argparse.Namespace) -> None:
    """From request to picture, beside LitServe, which keeps nothing, and BentoML, which keeps tasks."""
    if not (PEERS / "bentoml").is_dir():
        print(
            f"\nno servers of others in {PEERS}, so nothing is measured beside them: make bench fetches them"
        )
        return
    with product() as ours, peer(ours, "litserve") as litserve, peer(ours, "bento") as bento:
        numbers, keys = count(), cycle(ours.keys)
        plain = {"prompt": BODY["prompt"], "width": 256, "height": 256, "num_inference_steps": 4}

        def job() -> Exchange:
            headers = {**_bearer(next(keys)), "prefer": "wait=60"}
            body = json.dumps({**BODY, "seed": next(numbers)}).encode()
            return single(request("POST", f"{ours.gateway.url}/v1/jobs", headers, body))

        def wanted() -> dict[str, Any]:
            return {**plain, "model": "instant", "seed": next(numbers)}

        def call() -> Exchange:
            return single(request("POST", f"{litserve.url}/predict", {}, json.dumps(wanted()).encode()))

        def task() -> Exchange:
            body = json.dumps({"request": wanted()}).encode()
            place = json.loads((yield request("POST", f"{bento.url}/draw/submit", {}, body)))["task_id"]
            status = "in_progress"
            while status == "in_progress":
                yield ASK_AGAIN_SECONDS
                answer = yield request("GET", f"{bento.url}/draw/status?task_id={place}", {})
                status = json.loads(answer)["status"]
            yield request("GET", f"{bento.url}/draw/get?task_id={place}", {})

        asked: dict[str, tuple[Process, MakeExchange]] = {
            "gateway": (ours.gateway, job),
            "LitServe": (litserve, call),
            "BentoML's tasks": (bento, task),
        }
        taken = by_turns(asked, options.turns, options.seconds)
    print(f"\npictures, {CONNECTIONS} connections, medians of {options.turns} turns")
    rates = table(taken)
    for name in list(asked)[1:]:
        print(f"gateway / {name}: {rates['gateway'] / rates[name]:.2f}")


def creates(options: argparse.Namespace) -> None:
    """Plain jobs of twenty users, one after another on each connection."""
    with product(WORKER="false") as ours:
        numbers, keys = count(), cycle(ours.keys)

        def make() -> Exchange:
            body = json.dumps({**BODY, "seed": next(numbers)}).encode()
            return single(request("POST", f"{ours.gateway.url}/v1/jobs", _bearer(next(keys)), body))

        taken = by_turns({"gateway": (ours.gateway, make)}, options.turns, options.seconds)
        made = _count_jobs(ours)
    print(f"\ncreates, {CONNECTIONS} connections, {USERS} users, medians of {options.turns} turns")
    rates = table(taken)
    print(f"{made} jobs made; goal {CREATES_GOAL} a second: {verdict(rates['gateway'], CREATES_GOAL)}")


def streams(options: argparse.Namespace) -> None:
    """Event streams, and the events they are told."""
    bench_streams.need_descriptors(options.streams)
    with product(WORKER="false") as ours:
        print()
        uvloop.run(
            bench_streams.run(ours.gateway, ours.admin_url, ours.keys, options.streams, 5 * options.seconds)
        )


SECTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "polls": polls,
    "pictures": pictures,
    "creates": creates,
    "streams": streams,
}


def by_turns(
    asked: dict[str, tuple[Process, MakeExchange]], turns: int, seconds: float
) -> dict[str, list[Measured]]:
    """Loads of each server, which take turns, so that a busy moment meets them all; the first warm up."""
    taken: dict[str, list[Measured]] = {name: [] for name in asked}
    for turn in range(turns + 1):
        for name, (server, make) in asked.items():
            measured = _measure(server, make, seconds)
            if turn:
                taken[name].append(measured)
    return taken


def table(taken: dict[str, list[Measured]]) -> dict[str, float]:
    """Print a line for each server; returns their rates."""
    print(f"{'':>24} {'per second':>10} {'p50':>9} {'p99':>9} {'CPU per request':>16}")
    rates = {}
    for name, turns in taken.items():
        rates[name] = statistics.median(turn.load.per_second for turn in turns)
        p50, p99 = (statistics.median(getattr(turn.load, p) for turn in turns) for p in ("p50_ms", "p99_ms"))
        cpu = statistics.median(turn.cpu_ms for turn in turns)
        print(f"{name:>24} {rates[name]:>10.0f} {p50:>6.1f} ms {p99:>6.1f} ms {cpu:>13.2f} ms")
    return rates


def verdict(found: float, wanted: float) -> str:
    return "reached" if found >= wanted else "missed"


@contextmanager
def product(**environment: str) -> Iterator[Product]:
    """Gateway, database and GPU service, with the keys of twenty users; no limits of rates."""
    port, gpu_port = free_port(), free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tenkaigen-bench-")))
        postgres = stack.enter_context(EmbeddedPostgres(folder))
        hook, gpu_url = f"http://127.0.0.1:{port}/v1/callbacks/gpu", f"http://127.0.0.1:{gpu_port}"
        gpu = gpu_process(folder, gpu_port, hook, GPU_MODELS="instant")
        settings = {"DEFAULT_MODEL": "instant", **environment}
        gateway = gateway_process(folder, port, postgres.admin_url, gpu_url, **settings)
        for process in (gpu, gateway):
            stack.callback(process.stop)
            process.start()
        users = [f"bench-{n}@example.com" for n in range(USERS)]
        keys = [add_key(postgres.admin_url, user, ["generate", "read"])[1] for user in users]
        yield Product(gateway, postgres.admin_url, folder, keys)


@contextmanager
def bare_app(ours: Product) -> Iterator[Process]:
    port = free_port()
    settings = {"DATABASE_URL": ours.admin_url, "PORT": str(port)}
    bare = Process("scripts.bare_app", settings, ours.folder / "bare.log", f"http://127.0.0.1:{port}/healthz")
    try:
        bare.start()
        yield bare
    finally:
        bare.stop()


@contextmanager
def peer(ours: Product, name: str) -> Iterator[Process]:
    """A server of others, started by ``scripts/<name>_app.py``."""
    port = free_port()
    settings = {
        "PORT": str(port),
        "PYTHONPATH": str(PEERS),
        "BENTOML_HOME": str(ours.folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    server = Process(
        f"scripts.{name}_app", settings, ours.folder / f"{name}.log", f"http://127.0.0.1:{port}/healthz"
    )
    try:
        server.start()
        yield server
    finally:
        assert server.process is not None
        for pid in family(server.process.pid):  # workers outlive it
            os.kill(pid, signal.SIGKILL)
        server.process.wait()


def _measure(server: Process, make: MakeExchange, seconds: float) -> Measured:
    assert server.process is not None
    before = cpu_seconds(server.process.pid)
    taken = uvloop.run(load(server.url, make, CONNECTIONS, seconds))
    refused = {status for status in taken.statuses if status not in (200, 202)}
    assert not refused, f"answers other than the one asked for: {taken.statuses}"
    cpu = cpu_seconds(server.process.pid) - before
    return Measured(taken, 1000 * cpu / len(taken.seconds))


def _draw_one(ours: Product) -> str:
    """The id of a job that has been drawn."""
    headers = {**_bearer(ours.keys[0]), "prefer": "wait=30"}
    job = httpx.post(f"{ours.gateway.url}/v1/jobs", json=BODY, headers=headers, timeout=60).json()
    assert job["status"] == "completed", job
    return str(job["id"])


def _poll(url: str, key: str) -> MakeExchange:
    wire = request("GET", url, _bearer(key))
    return lambda: single(wire)


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _count_jobs(ours: Product) -> int:
    with psycopg.connect(ours.admin_url) as connection:
        row = connection.execute("select count(*) from public.generation_jobs").fetchone()
    return row[0] if row else 0


if __name__ == "__main__":
    main()

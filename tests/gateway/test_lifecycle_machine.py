"""The life of jobs as a state machine: Hypothesis looks for an order of events that breaks a promise.

Two workers, each in several steps at once, one question to the outside at a time; webhooks that come twice,
late, overtaking or never; questions that fail or whose answer is lost; calls that end, break or are
forgotten; users who cancel; workers that die; a clock that jumps.  Rows, statements, steps, webhook handler
and deletions are the gateway's, on a real Postgres; GPU service and bucket are in memory
(``tests/support/interleaving.py``).

What holds after every event stands in ``promises``; what holds once everything has come to rest, without
one more webhook, in ``rest``.  ``make lifecycle`` runs 10,000 of them.
"""

import asyncio
import datetime
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from standardwebhooks.webhooks import Webhook

from gateway import logs
from gateway.auth import Principal
from gateway.config import Settings
from gateway.db import Database
from gateway.jobs.lifecycle import EXPIRED, TERMINAL
from gateway.jobs.repository import Jobs
from gateway.services import keepers
from gateway.storage import DESIGNS
from gateway.storage.sweep import Sweep
from modal_app.contract import ENDED
from tests.support import triptych
from tests.support.interleaving import MemoryBucket, MemoryGpu, Outcome, Run, Workplace
from tests.support.stack import WEBHOOK_SECRET, gateway_settings

RUNS = int(os.environ.get("LIFECYCLE_RUNS", "0"))
"""0: a few, the same ones every time."""
FEW = 25
EVENTS = 30
"""Of a run, at most; then it is brought to rest."""
ROUNDS = 120
"""Of claiming, asking and tidying until everything has come to rest; 20 seconds each."""

T = TypeVar("T")
Which = st.integers(0, 2**16)
"""One of those that are there, counted round; nothing happens where none is."""
Worker = st.integers(0, 1)
KINDS = ("picture", "enhanced", "judged", "triptych")
INPUTS: dict[str, dict[str, Any]] = {
    "picture": {},
    "enhanced": {"enhance": {}},
    "judged": {"enhance": {}, "judge": {"attributes": ["red"]}},
}

CREATE = """
insert into public.generation_jobs (
  user_id, plan, prompt_input, prompt_final, model, width, height, seed, params, inputs, steps,
  reserved_usd_micros, expires_at)
values (%s, %s, 'a fox', 'a fox', 'instant', 16, 16, 7, '{"num_inference_steps": 2}', %s, 2, 5000,
  now() + make_interval(secs => %s))
returning id
"""

STATE = """
select j.id, j.parent_id, j.slot, j.plan, j.status::text, j.stage, j.version, j.seq, j.attempt,
  j.wake_at is null as resting, j.prompt_enhanced, j.error_code, j.num_images, j.cost_usd_micros, j.call_id,
  (select array_agg(o.kind) from private.outbox o where o.job_id = j.id) as told,
  (select array_agg(e.event) from private.job_events e
   where e.user_id = j.user_id and e.job_id = j.id
     and e.event in ('completed', 'failed', 'canceled')) as ends,
  (select array_agg(a.key) from public.generated_assets a where a.job_id = j.id) as pictures,
  (select max(n) from (
     select count(*) filter (where status = 'succeeded') as n
     from private.generation_calls c where c.job_id = j.id group by c.seq) of_seq) as successes
from public.generation_jobs j where j.user_id = %s
"""

REST = """
select j.id, j.cost_usd_micros,
  (select coalesce(sum(usd_micros), 0)::bigint from private.generation_calls c
   where c.job_id = j.id and c.status <> 'lost') as charged,
  (select max(n) from (
     select count(*) filter (where status <> 'lost') as n
     from private.generation_calls c where c.job_id = j.id group by c.seq) of_seq) as paid_attempts,
  (select array_agg(kind order by kind) from private.ledger l where l.job_id = j.id) as booked,
  (select sum(usd_micros)::bigint from private.ledger l where l.job_id = j.id) as balance,
  (select array_agg(e.status::text order by e.id) from private.job_events e
   where e.user_id = j.user_id and e.job_id = j.id) as history,
  (select array_agg(status) from private.endings e where e.job_id = j.id) as endings
from public.generation_jobs j where j.user_id = %s
"""

UNREST = """
select from public.generation_jobs j
where j.user_id = %(user)s and (j.wake_at is not null or j.state ? 'candidates')
union all
select from private.generation_calls c
where c.user_id = %(user)s and c.status in ('pending', 'queued', 'running')
union all
select from private.deletions where key like %(user)s || '/%%'
"""

LATER = """
with jobs as (
  update public.generation_jobs
  set wake_at = wake_at - %(by)s, expires_at = expires_at - %(by)s, created_at = created_at - %(by)s,
      finished_at = finished_at - %(by)s
  where user_id = %(user)s
),
calls as (
  update private.generation_calls set created_at = created_at - %(by)s
  where user_id = %(user)s and status in ('pending', 'queued', 'running')
)
update private.deletions set wake_at = wake_at - %(by)s where key like %(user)s || '/%%'
"""
"""The clock is Postgres's, and no one's to set; so everything that it is compared with moves back."""

ALLOWED = {
    "queued": {"queued", "processing", "canceled", "failed"},
    "processing": {"processing", "queued", "completed", "failed", "canceled"},
}


class Lifecycle(RuleBasedStateMachine):
    """One run.  What all runs share is set by ``prepared``."""

    loop: ClassVar[asyncio.Runner]
    db: ClassVar[Database]
    owner: ClassVar[psycopg.Connection[dict[str, Any]]]
    settings: ClassVar[Settings]
    seen: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        row = self.owner.execute("insert into auth.users (email) values (gen_random_uuid()) returning id")
        self.user = UUID(str((row.fetchone() or {})["id"]))
        self.plans = triptych.plans()
        self.jobs = Jobs(self.db, self.plans)
        self.gpu, self.bucket = MemoryGpu(), MemoryBucket()
        self.workers = [self._worker(), self._worker()]
        self.before: dict[Any, dict[str, Any]] = {}
        self.seen["runs"] += 1

    # Events

    @initialize(kind=st.sampled_from(KINDS), short=st.booleans())
    def begin(self, kind: str, short: bool) -> None:
        self.create(kind, short)

    @rule(kind=st.sampled_from(KINDS), short=st.booleans())
    def create(self, kind: str, short: bool) -> None:
        """``short``: it expires within a minute."""
        if len(self.before) >= 6:
            return
        inputs = INPUTS[kind] if kind != "triptych" else {"views": {"front": VIEW, "back": VIEW}}
        plan = "triptych" if kind == "triptych" else None
        self.owner.execute(CREATE.encode(), (self.user, plan, Jsonb(inputs), 60 if short else 3600))
        self._count(f"create {kind}")

    @rule(worker=Worker)
    def claim(self, worker: int) -> None:
        """Beside what it has in its hands."""
        if len(self.workers[worker].hands) < 4:
            self._do(self.workers[worker].claim())
            self._count("claim")

    @rule(worker=Worker, which=Which, steps=st.integers(1, 9))
    def work(self, worker: int, which: int, steps: int) -> None:
        """Some questions are asked and answered."""
        place = self.workers[worker]
        self._occupy(worker)
        for _ in range(steps):
            if place.hands:
                self._do(place.go_on(place.hands[which % len(place.hands)]))
                self._count("question")

    @rule(worker=Worker, which=Which, how=st.sampled_from(["refused", "unheard", "garbled"]))
    def disturb(self, worker: int, which: int, how: Outcome) -> None:
        """A question is not asked, its answer is lost, or is none."""
        place = self.workers[worker]
        self._occupy(worker)
        if place.hands:
            self._do(place.go_on(place.hands[which % len(place.hands)], how))
            self._count(f"question {how}")

    @rule(worker=Worker, which=Which)
    def kill(self, worker: int, which: int) -> None:
        if not self.workers[worker].hands:
            self.work(worker, which, which % 3)
        self._count("kill" if self.workers[worker].hands else "kill idle")
        self._do(self.workers[worker].die())
        self.workers[worker] = self._worker()

    @rule(which=Which)
    def draw_a_step(self, which: int) -> None:
        self._with_run(which, self.gpu.begin, "step")

    @rule(which=Which, score=st.sampled_from([10.0, 90.0]))
    def succeed(self, which: int, score: float) -> None:
        self._with_run(which, lambda run: self.gpu.succeed(run, score), "success")

    @rule(which=Which, code=st.sampled_from(["out_of_memory", "gpu_lost"]))
    def fail_call(self, which: int, code: str) -> None:
        self._with_run(which, lambda run: self.gpu.fail(run, code), "failure")

    @rule(which=Which)
    def forget(self, which: int) -> None:
        self._with_run(which, self.gpu.forget, "forgotten call")

    @rule(worker=Worker, which=Which, copies=st.integers(1, 2))
    def webhook(self, worker: int, which: int, copies: int) -> None:
        """Any event that was ever posted, the newest most likely."""
        if events := self.gpu.events:
            event = events[-1] if which % 2 else events[which % len(events)]
            for _ in range(copies):
                taken = self._do(self.workers[worker].receive(event, _signed))
                self._count("webhook" if taken else "webhook that changes nothing")
        else:
            self.work(worker, which, 4)

    @rule(which=Which)
    def cancel(self, which: int) -> None:
        if self.before and which % 3 == 0:
            job = sorted(self.before)[which % len(self.before)]
            row = self._do(self.jobs.cancel(Principal(self.user, "test", frozenset()), job))
            assert row is None or row["status"] == "canceled"
            assert row is None or self.before[job]["stage"] != "storing", "its objects are orphans"
            self._count("cancel" if row else "cancel too late")

    @rule(seconds=st.sampled_from([1, 6, 20, 70]))
    def tick(self, seconds: int) -> None:
        self._later(seconds)
        self._count("tick")

    @rule(worker=Worker)
    def tidy(self, worker: int) -> None:
        self._do(self.workers[worker].sweep(EXPIRED))
        self._do(self.workers[worker].delete())
        self._count("tidy")

    # Promises

    @invariant()
    def promises(self) -> None:
        for row in self._rows(STATE):
            before = self.before.get(row["id"])
            if before:
                _check_moved(before, row)
            _check_standing(row)
            assert set(row["pictures"] or ()) <= self.bucket.objects.keys(), "a picture without its bytes"
            self.before[row["id"]] = row

    def teardown(self) -> None:
        """Everything comes to rest, by workers that ask; nobody hears of a webhook any more."""
        try:
            self._come_to_rest()
            self.promises()
            self.rest()
            self._count("rest")
        finally:
            for worker in self.workers:
                self._do(worker.die())
            self.owner.execute("delete from private.deletions where key like %s", (f"{self.user}/%",))
            self.owner.execute(
                "update public.generation_jobs set wake_at = null where user_id = %s and wake_at is not null",
                (self.user,),
            )

    def rest(self) -> None:
        rows = {row["id"]: row | self.before[row["id"]] for row in self._rows(REST)}
        for row in rows.values():
            for one, following in itertools.pairwise(row["history"]):
                assert following in ALLOWED[one], row["history"]
                self.seen[f"{one} to {following}"] += one != following
            assert row["cost_usd_micros"] == row["charged"], row
            assert (row["paid_attempts"] or 0) <= 1, "one call was charged twice"
            assert row["booked"] == ["release", "reserve", "settle"], row
            assert row["balance"] == row["charged"], "the ledger does not sum up"
            if row["plan"] == "triptych":
                assert row["endings"] == [row["status"]]
                children = [each["slot"] for each in rows.values() if each["parent_id"] == row["id"]]
                assert len(children) == len(set(children)) <= 4
        made = {
            row["key"] for row in self._rows("select key from private.generation_calls where user_id = %s")
        }
        assert self.gpu.requests.keys() <= made, "a call that no row knows"
        kept = [key for row in rows.values() for key in row["pictures"] or ()]
        assert sorted(self.bucket.objects) == sorted(kept), "an object that no row names"

    # Behind the scenes

    def _come_to_rest(self) -> None:
        self.gpu.by_itself = True
        for worker in self.workers:
            self._do(worker.finish())
        for turn in range(ROUNDS):
            if not self.owner.execute(UNREST.encode(), {"user": str(self.user)}).fetchall():
                break
            self._later(20)
            worker = self.workers[turn % 2]
            for chore in (worker.claim(), worker.sweep(EXPIRED), worker.delete()):
                self._do(chore)
                self._do(worker.finish())
        else:
            raise AssertionError(f"no rest: {self._rows(STATE)}")
        self._later(70)
        self._do(self.jobs.settle_forgotten())
        self._sweep_bucket()

    def _sweep_bucket(self) -> None:
        """What a worker has put that was thought dead: found by the rare look at the whole bucket."""
        sweep = Sweep(self.db, {DESIGNS: self.bucket}, keepers(self.db))
        ((found,), worker) = self._do(sweep.run(force=True)), self.workers[0]
        self.seen["orphans of frozen workers"] += len(found.orphans)
        self._do(worker.delete())
        self._do(worker.finish())

    def _worker(self) -> Workplace:
        name = f"worker {self.seen['workers']}"
        self.seen["workers"] += 1
        return Workplace(name, self.db, self.gpu, self.bucket, self.settings, self.plans)

    def _occupy(self, worker: int) -> None:
        """Something to do for a worker that has nothing: what is due, or what is soon, or a new job."""
        if not self.workers[worker].hands:
            self.claim(worker)
        if not self.workers[worker].hands:
            self.tick(6)
            self.claim(worker)
        if not self.workers[worker].hands:
            self.create(KINDS[len(self.before) % len(KINDS)], short=False)

    def _with_run(self, which: int, change: Callable[[Run], None], name: str) -> None:
        """Where the service has nothing to do, workers go on instead."""
        runs = [
            run for run in self.gpu.runs.values() if run.call.status not in ENDED or name == "forgotten call"
        ]
        if not runs:
            self.work(which % 2, which, 4)
        else:
            change(runs[which % len(runs)])
            self._count(name)

    def _later(self, seconds: int) -> None:
        values = {"by": datetime.timedelta(seconds=seconds), "user": str(self.user)}
        self.owner.execute(LATER.encode(), values)

    def _rows(self, statement: str) -> list[dict[str, Any]]:
        return self.owner.execute(statement.encode(), (self.user,)).fetchall()

    def _count(self, what: str) -> None:
        self.seen[what] += 1

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)


VIEW = {
    **{"task": "image", "priority": "normal", "prompt_input": "a view", "prompt_final": "a view"},
    **{"enhance_status": "off", "model": "instant", "width": 16, "height": 16, "num_images": 1, "seed": 7},
    **{"params": {"num_inference_steps": 2}, "loras": [], "references": [], "visibility": "private"},
    **{"metadata": {}, "estimated_usd_micros": 0, "reserved_usd_micros": 100, "reserved_gpu_seconds": 0},
    **{"steps": 2, "inputs": {}, "image_kind": "generation"},
}


def _check_moved(before: dict[str, Any], row: dict[str, Any]) -> None:
    if before["status"] in TERMINAL:
        final = ("status", "version", "told", "ends", "pictures", "error_code", "prompt_enhanced")
        assert {name: before[name] for name in final} == {name: row[name] for name in final}
    assert row["version"] >= before["version"]
    assert (row["seq"], row["attempt"]) >= (before["seq"], before["attempt"])
    assert before["prompt_enhanced"] in (None, row["prompt_enhanced"]), "enhanced twice"


def _check_standing(row: dict[str, Any]) -> None:
    ended = row["status"] in TERMINAL
    assert row["resting"] == ended
    assert row["told"] == ([f"job.{row['status']}"] if ended else None)
    assert row["ends"] == ([row["status"]] if ended else None)
    drawn = row["status"] == "completed" and row["plan"] != "triptych"
    assert len(row["pictures"] or ()) == (row["num_images"] if drawn else 0)
    assert (row["successes"] or 0) <= 1, "two attempts at one call have succeeded"
    assert row["error_code"] != "internal_error", "a step broke"


def _signed(body: bytes, name: str) -> dict[str, str]:
    at = datetime.datetime.now(datetime.UTC)
    signature = Webhook(WEBHOOK_SECRET).sign(name, at, body.decode())
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }


@pytest.fixture
def prepared(admin_url: str, tmp_path: Path) -> Iterator[type[Lifecycle]]:
    """A database for all runs, on which nothing waits for the disk."""
    logs.configure("error")
    chosen = gateway_settings(admin_url, tmp_path, 1, "http://gpu.test", worker=False)
    with asyncio.Runner() as loop, psycopg.connect(admin_url, autocommit=True, row_factory=dict_row) as owner:
        owner.execute(triptych.ENDINGS.encode())
        name = owner.execute("select current_database() as name").fetchone()
        owner.execute(f'alter database "{(name or {})["name"]}" set synchronous_commit = off'.encode())
        Lifecycle.loop, Lifecycle.owner, Lifecycle.settings = loop, owner, chosen
        Lifecycle.db = loop.run(Database(chosen).__aenter__())
        Lifecycle.seen = Counter()
        yield Lifecycle
        loop.run(Lifecycle.db.__aexit__())


def test_no_order_of_events_breaks_a_promise(prepared: type[Lifecycle]) -> None:
    run_state_machine_as_test(
        prepared,
        settings=settings(
            max_examples=RUNS or FEW,
            derandomize=not RUNS,
            stateful_step_count=EVENTS,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    happened = prepared.seen
    sys.stdout.write("".join(f"{count:>9,}  {what}\n" for what, count in sorted(happened.items())))
    assert happened["rest"] == happened["runs"] >= (RUNS or FEW)
    for needed in ("kill", "cancel", "webhook", "processing to completed", "question unheard"):
        assert happened[needed], f"no run has met: {needed}"

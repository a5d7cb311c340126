"""A panel that is judged and repaired, and a worker that dies on the way: it comes out the same, paid once.

``PANEL_KILLS=50`` dies at every await of the steps, and has a whole gateway killed 50 times.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.jobs import image_plan
from tests.gateway.conftest import DRAWN_BY
from tests.gateway.test_comics import begun
from tests.gateway.test_crash_points import AT_ONCE, NO_WAITING, Fuse, Hands, die_everywhere
from tests.gateway.test_panels import hired
from tests.support.faults import FAST, Killable, all_ended, eventually, restart
from tests.support.stack import Stack, free_port, gateway_process
from tests.support.talking import NO_PROCESS, Speech, talking_gpu, talking_stack

KILLS = int(os.environ.get("PANEL_KILLS", "2"))
EVERY = 1 if KILLS >= 50 else 11
"""Of the awaits at which a worker may die, each so many."""
BODY = {"prompt": "she waits by the mill", "seed": 7, "max_attempts": 3}
MILA = {"name": "Mila", "source": "description", "description": "a small red fox"}
SCORES = (20.0, 90.0)

FACTS = """
select j.status::text, j.prompt_enhanced, j.prompt_final, j.seed, j.references -> 0 ->> 'sha256' as reference,
  p.status as panel, p.job_id = j.id as of_its_job, p.enhanced_prompt, p.consistency, p.attempts,
  array(select a.sha256 from public.generated_assets a where a.job_id = j.id and a.id = p.image_id) as shown,
  (select count(*) from public.generated_assets a where a.job_id = j.id) as pictures,
  array(select kind from private.outbox where job_id = j.id order by 1) as told,
  array(select kind from private.ledger where job_id = j.id order by id) as booked,
  (select count(*) from private.job_events e where e.job_id = j.id and e.event = j.status::text) as ends,
  array(select task || ' ' || status from private.generation_calls where job_id = j.id
        order by seq, attempt) as calls,
  j.cost_usd_micros as cost,
  (select sum(usd_micros) from private.generation_calls where job_id = j.id) as of_calls,
  (select sum(usd_micros) from private.ledger where job_id = j.id) as charged
from public.generation_jobs j join public.comic_panels p on p.id = (j.inputs ->> 'panel_id')::uuid
where j.id = %s
"""


@pytest.fixture(autouse=True)
def dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take long enough to cost something; questions say nothing about the time."""
    monkeypatch.setenv("INSTANT_SECONDS", "0.02")
    monkeypatch.setattr(image_plan, "LANGUAGE_POLLS", 10_000)


def outcome(product: Stack, job_id: str) -> dict[str, Any]:
    """All that has come of a panel, but what it has cost, which is a matter of milliseconds."""
    (row,) = product.rows(FACTS, job_id)
    cost = row.pop("cost")
    assert cost > 0
    assert (row.pop("of_calls"), row.pop("charged")) == (cost, cost)
    return dict(row)


def is_tidy(product: Stack) -> bool:
    """The bucket holds the pictures that are shown, and no other."""
    keys = {each["key"] for each in product.rows("select key from public.generated_assets")}
    return set(product.objects()) == keys


def assert_as_it_should_be(found: dict[str, Any]) -> None:
    assert (found["status"], found["panel"], found["of_its_job"]) == ("completed", "ready", True)
    assert (found["pictures"], len(found["shown"]), found["ends"]) == (1, 1, 1)
    assert (found["consistency"]["score"], found["attempts"]) == (SCORES[-1], len(SCORES))
    assert found["told"] == ["job.completed", "panel.ready"]
    assert found["booked"] == ["reserve", "release", "settle"]
    assert found["calls"] == [f"{task} succeeded" for task in ("enhance", "image", "judge", "image", "judge")]


def assert_asked_once(speech: Speech) -> None:
    """The GPU was asked for each answer once, whoever asked."""
    names = [each.__class__.__name__ for each in speech.asked]
    assert names == ["EnhanceRequest", "JudgeRequest", "JudgeRequest"]


async def begin(product: Stack, speech: Speech, chapter_id: str, character_id: str) -> str:
    """A panel's job.  The first picture does not pass, the second does."""
    speech.asked.clear()
    speech.scores = list(SCORES)
    place = f"/v1/comics/chapters/{chapter_id}/panels"
    answer = await product.user.http.post(place, json={**BODY, "character_ids": [character_id]})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


async def test_a_panel_is_the_same_wherever_its_worker_dies(
    admin_url: str, new_folder: Callable[[], Path]
) -> None:
    speech = Speech()
    settings = {**NO_WAITING, **DRAWN_BY}
    async with talking_stack(
        admin_url, new_folder(), speech, webhook=False, gpu="A10", **settings
    ) as product:
        mila = (await product.user.http.post("/v1/characters", json=MILA)).json()
        (row,) = product.rows("select job_id::text from public.characters where id = %s", mila["id"])
        await Hands(product, Fuse(-1)).work(row["job_id"])
        chapter_id = (await begun(product.user))["chapters"][0]["id"]
        seen: list[dict[str, Any]] = []

        def check(job_id: str) -> None:
            seen.append(outcome(product, job_id))
            assert_as_it_should_be(seen[-1])
            assert seen[-1] == seen[0] | {"shown": seen[-1]["shown"]}
            assert_asked_once(speech)
            assert is_tidy(product)

        awaits = await die_everywhere(
            product, lambda: begin(product, speech, chapter_id, mila["id"]), check, EVERY
        )
        assert awaits > 40


@asynccontextmanager
async def gateway_beside(admin_url: str, folder: Path, speech: Speech) -> AsyncIterator[Killable]:
    """A gateway in a process of its own, and a GPU service here that speaks."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with talking_gpu(folder, speech, url, webhook=True, gpu="A10") as gpu_url:
        settings = {name.upper(): str(value) for name, value in {**FAST, **DRAWN_BY}.items()}
        gateway = gateway_process(folder, port, admin_url, gpu_url, **settings)
        try:
            await asyncio.to_thread(gateway.start)
            product = Killable(admin_url, folder, NO_PROCESS, url)
            product.gateway = gateway
            yield product
        finally:
            await asyncio.to_thread(gateway.stop)


async def test_a_panel_is_the_same_however_often_the_gateway_is_killed(
    admin_url: str, new_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "0.1")
    dice, speech, cut = random.Random(11), Speech(seconds=0.05), 0
    async with gateway_beside(admin_url, new_folder(), speech) as product:
        mila = await hired(product.user)
        chapter_id = (await begun(product.user))["chapters"][0]["id"]
        undisturbed = await begin(product, speech, chapter_id, mila["id"])
        await all_ended(product, [undisturbed])
        wanted = outcome(product, undisturbed)
        assert_as_it_should_be(wanted)
        for _ in range(KILLS):
            job_id = await begin(product, speech, chapter_id, mila["id"])
            await asyncio.sleep(dice.uniform(0.0, 0.5))
            product.gateway.kill()
            cut += bool(
                product.rows(
                    "select from public.generation_jobs where id = %s and wake_at is not null", job_id
                )
            )
            await restart(product.gateway)
            await all_ended(product, [job_id])
            found = outcome(product, job_id)
            assert_as_it_should_be(found)
            assert found | {"shown": wanted["shown"]} == wanted
            assert_asked_once(speech)
        assert cut > 0, "every kill came after the end"

        async def tidied() -> bool:
            product.rows(f"{AT_ONCE} returning key")
            return is_tidy(product)

        await eventually(tidied, within=60)

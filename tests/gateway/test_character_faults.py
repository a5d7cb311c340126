"""A gateway that dies while characters are drawn: none is lost, and no view is drawn twice.

``CHARACTER_KILLS=50`` kills as often as a long night would.
"""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.support.faults import Killable, all_ended, eventually, killable

UNHURRIED = {"GPU_MODELS": "instant", "INSTANT_SECONDS": "0.5"}
"""Three views take longer than a kill is late."""
KILLS = int(os.environ.get("CHARACTER_KILLS", "3"))
VIEWS = "select from public.generation_jobs where inputs ->> 'character_id' = %s and image_kind = 'view'"
BODY = {"name": "Mila", "source": "description", "description": "a small red fox"}


async def begin(product: Killable) -> str:
    """A character whose views have been asked for."""
    answer = await product.user.http.post("/v1/characters", json=BODY)
    assert answer.status_code == 202, answer.text
    character_id = str(answer.json()["id"])

    async def fanned_out() -> bool:
        return bool(product.rows(f"{VIEWS} limit 1", character_id))

    await eventually(fanned_out, within=30)
    return character_id


def views_on_the_way(product: Killable, character_id: str) -> bool:
    return bool(product.rows(f"{VIEWS} and wake_at is not null", character_id))


async def test_characters_have_three_views_each_however_often_the_gateway_is_killed(
    admin_url: str, new_folder: Callable[[], Path]
) -> None:
    dice, made, cut = random.Random(5), [], 0
    async with killable(admin_url, new_folder(), gpu=UNHURRIED, DEFAULT_EDIT_MODEL="instant") as product:
        for _ in range(KILLS):
            made.append(await begin(product))
            await asyncio.sleep(dice.uniform(0.0, 0.6))
            product.gateway.kill()
            cut += views_on_the_way(product, made[-1])
            await asyncio.to_thread(product.gateway.start)
        jobs = product.rows("select id::text from public.generation_jobs")
        await all_ended(product, [row["id"] for row in jobs], within=60)
        await all_ended(
            product, [row["id"] for row in product.rows("select id::text from public.generation_jobs")]
        )
        rows = product.rows(
            """select c.id::text, c.status, c.error_code, array(
                 select coalesce(i.view, i.kind) from public.character_images i
                 where i.character_id = c.id order by 1) as pictures
               from public.characters c"""
        )
        assert {row["id"] for row in rows} == set(made)
        for row in rows:
            assert (row["status"], row["error_code"]) == ("ready", None)
            assert row["pictures"] == ["back", "front", "reference", "side"]
        keys = {row["key"] for row in product.rows("select key from public.generated_assets")}
        assert set(product.objects()) == keys
        assert cut > 0, "no kill came between the first view and the last"
        told = product.rows(
            "select kind, count(*) from private.outbox where kind like 'character%%' group by 1"
        )
        assert {row["kind"]: row["count"] for row in told} == {
            "character/created": KILLS,
            "character.ready": KILLS,
        }

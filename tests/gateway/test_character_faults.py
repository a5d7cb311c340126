"""A gateway that dies while characters are drawn: none is lost, and no view is drawn twice.

``CHARACTER_KILLS=50`` kills as often as a long night would.
"""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.support.faults import all_ended, killable, restart

KILLS = int(os.environ.get("CHARACTER_KILLS", "5"))
BODY = {"name": "Mila", "source": "description", "description": "a small red fox"}


async def test_characters_have_three_views_each_however_often_the_gateway_is_killed(
    admin_url: str, new_folder: Callable[[], Path]
) -> None:
    dice = random.Random(5)
    made: list[str] = []
    async with killable(admin_url, new_folder(), DEFAULT_EDIT_MODEL="instant") as product:
        for _ in range(KILLS):
            answer = await product.user.http.post("/v1/characters", json=BODY)
            assert answer.status_code == 202, answer.text
            made.append(answer.json()["id"])
            await asyncio.sleep(dice.uniform(0.0, 1.0))
            await restart(product.gateway)
        jobs = product.rows("select id::text from public.generation_jobs")
        await all_ended(product, [row["id"] for row in jobs], within=60)
        await all_ended(
            product, [row["id"] for row in product.rows("select id::text from public.generation_jobs")]
        )
        rows = product.rows(
            """select c.id::text, c.status, array(
                 select coalesce(i.view, i.kind) from public.character_images i
                 where i.character_id = c.id order by 1) as pictures
               from public.characters c"""
        )
        assert {row["id"] for row in rows} == set(made)
        for row in rows:
            assert (row["status"], row["pictures"]) == ("ready", ["back", "front", "reference", "side"])
        keys = {row["key"] for row in product.rows("select key from public.generated_assets")}
        assert set(product.objects()) == keys
        told = product.rows(
            "select kind, count(*) from private.outbox where kind like 'character%' group by 1"
        )
        assert {row["kind"]: row["count"] for row in told} == {
            "character/created": KILLS,
            "character.ready": KILLS,
        }

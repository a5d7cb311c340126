"""FastAPI and psycopg with nothing around them: what the gateway's status polls are measured beside.

``DATABASE_URL=... PORT=... python -m scripts.bare_app``.  The same server settings and the same pool as the
gateway's; one route, which reads the same row by its primary key and answers a few of its columns.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import uvicorn
from fastapi import FastAPI, HTTPException
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

FIND = """
select id, status, stage, step, steps, model, prompt_final, width, height, seed, created_at, finished_at
from public.generation_jobs where id = %s
"""


class Job(BaseModel):
    id: UUID
    status: str
    stage: str | None
    step: int
    steps: int
    model: str
    prompt_final: str | None
    width: int
    height: int
    seed: int
    created_at: datetime
    finished_at: datetime | None


pool: AsyncConnectionPool[psycopg.AsyncConnection[DictRow]] = AsyncConnectionPool(
    os.environ.get("DATABASE_URL", ""),
    connection_class=psycopg.AsyncConnection[DictRow],
    min_size=2,
    max_size=8,
    open=False,
    kwargs={"autocommit": True, "prepare_threshold": None, "row_factory": dict_row},
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with pool:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/jobs/{job_id}", response_model=Job)
async def get_job(job_id: UUID) -> Any:
    async with pool.connection() as connection:
        row = await (await connection.execute(FIND, (job_id,))).fetchone()
    if row is None:
        raise HTTPException(404)
    return row


@app.get("/healthz")
async def health() -> dict[str, str]:
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_config=None, access_log=False)

"""Running products for the tests that only talk to them."""

import datetime
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.project import Project, project_of
from tests.support.stack import Stack, stack

INSTANT = {"GPU_MODELS": "instant"}
DRAWN_BY = {"default_model": "instant", "default_edit_model": "instant"}
NewProject = Callable[..., AbstractAsyncContextManager[Project]]
LONGEST_SECONDS = 180
"""Of a test that counts by the day."""


@pytest.fixture
def same_day() -> None:
    """For what is counted by the day: a test that might not end before midnight (UTC) begins after it."""
    now = datetime.datetime.now(datetime.UTC)
    midnight = datetime.datetime.combine(
        now.date() + datetime.timedelta(days=1), datetime.time(), datetime.UTC
    )
    left = (midnight - now).total_seconds()
    if left < LONGEST_SECONDS:
        time.sleep(left)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def product(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """Gateway and GPU service with the instant model."""
    async with stack(new_database(), new_folder(), gpu=INSTANT, **DRAWN_BY) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def project(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Project]:
    """A gateway beside a Supabase project."""
    async with project_of(new_database(), new_folder()) as running:
        yield running


@pytest.fixture
def new_project(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> NewProject:
    """One for a test that breaks it."""
    return lambda **overrides: project_of(new_database(), new_folder(), **overrides)

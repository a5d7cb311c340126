"""Fixtures of the whole suite: one embedded Postgres, a fresh database for whoever asks."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes of many threads on few cores crawl

from gateway.embedded import EmbeddedPostgres
from tests.support.stack import create_database

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # how long an example takes says what else the machine does, and nothing more


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A migrated server; its own database is the template of all others."""
    folder = Path(tempfile.mkdtemp(prefix="tenkaigen-tests-"))
    with EmbeddedPostgres(folder) as server:
        yield server
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_database(postgres: EmbeddedPostgres) -> Callable[[], str]:
    """Makes fresh databases, which go with their server; returns the owner's URL."""
    numbers = itertools.count()
    server = postgres.admin_url.replace("/postgres?", "/template1?")
    return lambda: create_database(server, "postgres", f"test_{next(numbers)}")


@pytest.fixture
def admin_url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture(scope="session")
def new_folder() -> Iterator[Callable[[], Path]]:
    """Makes empty folders."""
    root = Path(tempfile.mkdtemp(prefix="tenkaigen-data-"))
    numbers = itertools.count()

    def make() -> Path:
        folder = root / str(next(numbers))
        folder.mkdir()
        return folder

    yield make
    shutil.rmtree(root, ignore_errors=True)

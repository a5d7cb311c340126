"""What a job does, one GPU call after another.

A plan is pure: a claimed row, and how its call has ended, give the next move.  What it decides is written
with the move in one fenced statement, so a kill anywhere comes back to the first call that has not ended.

    next ──CallSpec──▶ the call of ``seq`` runs ──▶ settle │ give_up ──Next──▶ next, with ``seq`` + 1
      │                                                    └─Complete, Fail
      └──FanOut──▶ children run ──WaitForChildren, Complete, Fail, FanOut, Next──▶

The worker is given its plans by name (see ``gateway.services``); a job without ``plan`` has that of its task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from gateway.jobs.lifecycle import ClaimedJob, Fail
from modal_app.contract import ImageResult, LanguageResult, Task

Row = Mapping[str, Any]
Picture = dict[str, Any]
"""A stored picture: the manifest's line, with the ``id`` and ``key`` that it was given here."""

POLL_AFTER_MS = 2000
"""How often a frontend should ask after a design."""


@dataclass(frozen=True)
class CallSpec:
    """A call to make.  Its request names files as ``bucket/key`` and sha256; they are signed when sent."""

    task: Task
    request: dict[str, Any]
    polls: int | None = None
    """How often a call that does not end is asked after before it is given up; None: to the deadline."""


@dataclass(frozen=True)
class Changes:
    """What a move leaves in the row: ``state`` is merged, of the others None keeps what is there."""

    state: dict[str, Any] = field(default_factory=dict)
    prompt_enhanced: str | None = None
    prompt_final: str | None = None
    enhance_status: str | None = None
    seed: int | None = None
    references: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Child:
    """A job to be made once for this parent: ``columns`` as ``JobService.recipe`` gives them.

    A slot is used once; to run one again is a child in another slot.
    """

    slot: str
    columns: dict[str, Any]


@dataclass(frozen=True)
class Next:
    """Another call follows, of number ``seq`` + 1; what this one has left behind is kept before."""

    changes: Changes = Changes()


@dataclass(frozen=True)
class Complete:
    """The job is done.  Of the pictures that it stored, those not named here are deleted."""

    pictures: Sequence[Picture] = ()
    changes: Changes = Changes()


@dataclass(frozen=True)
class FanOut:
    """Make these children, unless they are there, and wait for them."""

    children: Sequence[Child]
    changes: Changes = Changes()


@dataclass(frozen=True)
class WaitForChildren:
    """Look again when the next child has ended."""


Outcome = Next | Complete | FanOut | WaitForChildren | Fail


class Statement(NamedTuple):
    """SQL of another slice, for the login ``gateway_service``."""

    sql: str
    parameters: dict[str, Any]


class Plan:
    """The default of each answer; a plan of its own overrides ``next`` and ``settle`` at least."""

    poll_after_ms = POLL_AFTER_MS

    def next(self, job: ClaimedJob, children: Sequence[Row]) -> CallSpec | Outcome:
        """The call of ``job.seq``; or what else comes next.  Only a parent has children to look at."""
        raise NotImplementedError

    def settle(
        self, job: ClaimedJob, result: ImageResult | LanguageResult, pictures: Sequence[Picture]
    ) -> Outcome:
        """The call has succeeded, and its pictures are stored."""
        raise NotImplementedError

    def give_up(self, job: ClaimedJob, why: Fail) -> Outcome:
        """The call came to nothing, after the tries that it has for free."""
        return why

    def ended(self, job: Row, pictures: Sequence[Picture]) -> Sequence[Statement]:
        """Rows that another slice keeps of an end: completed, failed or canceled, by whomever.

        The statements run in the transaction that ends the job.  A list of ends to be worked through
        afterwards would lose nothing either, but would show a finished job beside an unfinished character.
        """
        return ()

    @property
    def keeps_rows(self) -> bool:
        return type(self).ended is not Plan.ended


Plans = Mapping[str, Plan]


def child_id(parent_id: UUID, slot: str) -> UUID:
    """Derived, so that fanning out twice makes the same children."""
    return uuid5(parent_id, slot)


def stored(job: ClaimedJob) -> list[Picture]:
    """Pictures of the calls before this one, none of which is accepted yet."""
    return list(job.row["state"].get("candidates", []))

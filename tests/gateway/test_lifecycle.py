"""The state machine's pure half: rows and answers in, moves out."""

from dataclasses import replace
from uuid import UUID

import pytest

from gateway.jobs import lifecycle
from gateway.jobs.lifecycle import ClaimedJob, Fail, Requeue, Settle, Step, Wait
from modal_app.contract import Call, CallError, CallStatus, PictureInfo

JOB = ClaimedJob(
    id=UUID(int=1),
    user_id=UUID(int=2),
    plan="image",
    task="image",
    model="instant",
    stage="loading",
    version=3,
    seq=1,
    attempt=1,
    tries=0,
    step=0,
    call_id=None,
    call=None,
    waiting=False,
    visibility="public",
    expired=False,
    row={},
)


def call(status: CallStatus, error: CallError | None = None) -> Call:
    return Call(call_id="c", key=JOB.key, task="image", status=status, error=error)


def test_a_job_past_its_deadline_is_given_up() -> None:
    assert lifecycle.next_step(replace(JOB, expired=True)) is Step.EXPIRE


def test_pictures_that_were_paid_for_are_stored_even_past_the_deadline() -> None:
    ended = replace(JOB, stage="storing", call=call("succeeded"), expired=True)
    assert lifecycle.next_step(ended) is Step.SETTLE


def test_a_claimed_job_without_a_call_is_dispatched_and_one_with_a_call_asked_after() -> None:
    assert lifecycle.next_step(JOB) is Step.DISPATCH
    assert lifecycle.next_step(replace(JOB, call_id="c")) is Step.ASK


def test_a_refused_call_fails_at_once() -> None:
    move = lifecycle.after_refusal("no such model")
    assert isinstance(move, Fail)
    assert (move.code, move.retryable) == ("submit_failed", False)


def test_an_unreachable_service_is_tried_again_ever_slower_and_then_given_up() -> None:
    moves = [
        lifecycle.after_failed_submit(replace(JOB, tries=n)) for n in range(len(lifecycle.SUBMIT_BACKOFF) + 1)
    ]
    delays = [move.seconds for move in moves[:-1] if isinstance(move, Requeue)]
    assert delays == sorted(delays)
    assert len(delays) == len(lifecycle.SUBMIT_BACKOFF)
    assert isinstance(moves[-1], Fail)
    assert moves[-1].code == "submit_failed"


def test_a_lost_webhook_is_noticed_within_fifteen_seconds_of_the_pictures() -> None:
    for tries in range(10):
        move = lifecycle.after_answer(replace(JOB, tries=tries), call("running"), patience=5.0)
        assert isinstance(move, Wait)
        assert move.seconds <= 15.0


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled"])
def test_a_call_that_has_ended_is_settled(status: CallStatus) -> None:
    assert lifecycle.after_answer(JOB, call(status), 5.0) == Settle(call(status))


def test_only_a_call_lost_before_its_first_step_is_run_again() -> None:
    assert lifecycle.after_loss(JOB) == Requeue(0.0, lost=True)
    assert lifecycle.after_loss(replace(JOB, step=1)) == lifecycle.LOST
    assert lifecycle.after_loss(replace(JOB, attempt=lifecycle.LOST_LIMIT)) == lifecycle.LOST


def test_an_error_of_the_model_is_not_tried_again() -> None:
    error = CallError(code="out_of_memory", message="too large", retryable=False)
    assert lifecycle.after_failed_call(JOB, call("failed", error)) == Fail(
        "out_of_memory", "too large", False
    )


def test_a_machine_that_was_lost_before_its_first_step_is_replaced_a_few_times() -> None:
    lost = call("failed", CallError(code="gpu_lost", message="gone", retryable=True))
    assert lifecycle.after_failed_call(JOB, lost) == Requeue(0.0, lost=True)
    drawing = lost.model_copy(update={"step": 1})
    for job, ended in ((JOB, drawing), (replace(JOB, attempt=lifecycle.LOST_LIMIT), lost)):
        assert lifecycle.after_failed_call(job, ended) == Fail("gpu_lost", "gone", True)


def test_a_call_whose_files_could_not_be_fetched_is_made_again() -> None:
    unread = call("failed", CallError(code="source_unavailable", message="503", retryable=True))
    assert lifecycle.after_failed_call(JOB, unread) == Requeue(0.0, lost=True)
    last = replace(JOB, attempt=lifecycle.LOST_LIMIT)
    assert lifecycle.after_failed_call(last, unread) == Fail("source_unavailable", "503", True)


def test_a_call_canceled_over_there_is_a_failure_here() -> None:
    assert lifecycle.after_failed_call(JOB, call("canceled")) == Fail(
        "call_canceled", "The call was canceled on the GPU service.", True
    )


def test_a_bucket_that_stays_broken_ends_in_a_clear_error() -> None:
    moves = [lifecycle.after_failed_store(replace(JOB, tries=n), "disk full") for n in range(9)]
    assert all(isinstance(move, Wait) for move in moves[:-1])
    assert isinstance(moves[-1], Fail)
    assert (moves[-1].code, "disk full" in moves[-1].message) == ("storage_failed", True)


def test_names_are_derived_so_that_a_step_done_twice_writes_the_same() -> None:
    picture = PictureInfo(n=0, sha256="0" * 64, bytes=1, content_type="image/jpeg", width=1, height=1, seed=1)
    key = lifecycle.object_key(JOB, picture)
    assert key == f"{JOB.user_id}/{JOB.id}/1-1-0.jpg"
    character = UUID(int=3)
    of_character = replace(JOB, row={"inputs": {"character_id": str(character)}})
    image = lifecycle.image_id(of_character, 0)
    stands_at = lifecycle.object_key(of_character, picture)
    assert stands_at == f"{JOB.user_id}/characters/{character}/{image}.jpg"
    of_panel = replace(JOB, row={"inputs": {"character_id": str(character), "panel_id": str(UUID(int=4))}})
    assert lifecycle.object_key(of_panel, picture) == key
    assert lifecycle.image_id(JOB, 0) == lifecycle.image_id(JOB, 0)
    assert lifecycle.image_id(JOB, 0) != lifecycle.image_id(replace(JOB, attempt=2), 0)

"""Tests of proxy/core/retries.py: what is sent again, where, when, and how often at most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.contract import Failure, FailureKind
from proxy.core.retries import Itinerary, RetryBudget, RetryPolicy, cannot_have_run, may_work_elsewhere

POLICY = RetryPolicy(attempts=6, rounds=3, first_wait=1, longest_wait=4)


def reported(kind: FailureKind = FailureKind.PROVIDER, retry_after: float | None = None) -> Failure:
    return Failure(kind, "", 500, retry_after)


def way(
    targets: int, *failures: Failure, was_reached: bool = True, has_other_key: bool = False
) -> list[tuple[int, float, bool]]:
    """Fail with these, one by one and the last one for ever, at second 0; return the steps that are taken."""
    itinerary, left, steps = Itinerary(targets, POLICY), list(failures), []
    while step := itinerary.next():
        steps.append((step.position, step.not_before, step.is_retry))
        failure = left.pop(0) if len(left) > 1 else left[0]
        itinerary.failed(
            step, failure, was_reached=was_reached, has_other_key=has_other_key, moment=(0.0, 1.0)
        )
    return steps


def test_targets_come_first_and_then_retries() -> None:
    """Each target is tried at once after the one before, and again in turn after waits that double."""
    assert way(2, reported()) == [
        (0, 0, False),
        (1, 0, False),
        (0, 1, True),
        (1, 1, True),
        (0, 2, True),
        (1, 2, True),
    ]
    assert way(1, reported()) == [(0, 0, False), (0, 1, True), (0, 2, True)]


def test_the_number_is_bounded() -> None:
    """However many targets and keys there are, a call is sent so often and no more."""
    assert len(way(50, reported())) == 6
    assert len(way(1, reported(FailureKind.CREDENTIALS), has_other_key=True)) == 6


UNKNOWN = [Failure(FailureKind.TIMEOUT, ""), Failure(FailureKind.PROVIDER, "reset")]


@pytest.mark.parametrize("failure", UNKNOWN)
def test_what_may_have_run_is_not_sent_again(failure: Failure) -> None:
    """A reset and our own timeout after the request was sent end the call; before that they do not."""
    assert way(3, failure) == [(0, 0, False)]
    assert len(way(3, failure, was_reached=False)) == 6
    assert not cannot_have_run(failure, was_reached=True)


@pytest.mark.parametrize("kind", FailureKind)
def test_every_kind_has_its_way(kind: FailureKind) -> None:
    """A fault of the request ends the call, one of the account goes elsewhere once, one that may pass goes on."""
    expected = {
        FailureKind.INVALID_REQUEST: [0],
        FailureKind.TOO_LARGE: [0],
        FailureKind.MODERATION: [0],
        FailureKind.CREDENTIALS: [0, 1],
        FailureKind.CREDITS: [0, 1],
        FailureKind.FORBIDDEN: [0, 1],
        FailureKind.NOT_FOUND: [0, 1],
    }
    assert [position for position, _, _ in way(2, reported(kind))] == expected.get(kind, [0, 1, 0, 1, 0, 1])
    assert may_work_elsewhere(reported(kind)) is (len(expected.get(kind, [0, 1])) > 1)


def test_another_key_is_tried_at_once() -> None:
    """A refused key makes room for the next one, without a wait, a round, or a piece of the retry budget."""
    refused = reported(FailureKind.CREDENTIALS)
    assert way(2, refused, reported(), has_other_key=True)[:3] == [
        (0, 0, False),
        (0, 0, False),
        (1, 0, False),
    ]


def test_retry_after_is_obeyed_within_a_bound() -> None:
    """A stated wait is kept, and a little more; one that is too long is not waited."""
    assert way(1, reported(FailureKind.RATE_LIMIT, 3.0))[1] == (0, 4.0, True)
    assert way(1, reported(FailureKind.RATE_LIMIT, 4.5)) == [(0, 0, False)]
    # The one that is ready first goes first.
    assert [step[0] for step in way(2, reported(retry_after=3.5), reported())][:3] == [0, 1, 1]


@given(
    st.integers(1, 8),
    st.lists(
        st.tuples(st.sampled_from(FailureKind), st.booleans(), st.booleans(), st.none() | st.floats(0, 100)),
        min_size=1,
    ),
    st.floats(0, 1),
)
def test_whatever_fails(
    targets: int, failures: list[tuple[FailureKind, bool, bool, float | None]], chance: float
) -> None:
    """Bounded in number and in time, in order at first, never after something that may have run."""
    itinerary, seen, now = Itinerary(targets, POLICY), [], 0.0
    for number in range(1000):
        step = itinerary.next()
        if step is None:
            break
        wait = step.not_before - now
        assert wait <= POLICY.longest_wait * 2
        now = max(now, step.not_before)
        seen.append(step.position)
        kind, is_known, has_other_key, retry_after = failures[number % len(failures)]
        failure = Failure(kind, "", 500 if is_known else None, retry_after)
        itinerary.failed(step, failure, was_reached=True, has_other_key=has_other_key, moment=(now, chance))
        if not is_known or not may_work_elsewhere(failure):
            assert itinerary.next() is None
    assert 1 <= len(seen) <= POLICY.attempts
    firsts = list(dict.fromkeys(seen))
    assert firsts == sorted(firsts)


@given(st.lists(st.booleans()), st.floats(0, 1), st.integers(0, 20))
def test_retries_are_a_share(are_retries: list[bool], share: float, burst: int) -> None:
    """However requests and retries mix, the retries are at most the share of the requests and a burst."""
    budget, requests, retries = RetryBudget(share, burst), 0, 0
    for is_retry in are_retries:
        if is_retry:
            retries += budget.withdraw()
        else:
            budget.deposit()
            requests += 1
        assert retries <= burst + share * requests + 1e-9

"""Tests of proxy/core/breaker.py: its steps, and what no order of events can bring about."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.breaker import Breaker, BreakerPolicy, State

POLICY = BreakerPolicy(failure_rate=0.5, least_requests=4, window=10, pause=2, longest_pause=8)


def state_of(breaker: Breaker) -> State:
    return breaker.state


def fail(breaker: Breaker, times: int, now: float) -> None:
    for _ in range(times):
        ticket = breaker.admit(now)
        assert ticket is not None
        breaker.failed(ticket, now)


def opened() -> Breaker:
    breaker = Breaker(POLICY)
    fail(breaker, 4, 0)
    assert state_of(breaker) is State.OPEN
    return breaker


def test_it_opens_on_a_rate() -> None:
    """Half of at least four requests opens it; three failures, or one in three, do not."""
    breaker = Breaker(POLICY)
    fail(breaker, 3, 0)
    assert state_of(breaker) is State.CLOSED
    breaker = Breaker(POLICY)
    for number in range(30):
        ticket = breaker.admit(0)
        assert ticket is not None
        (breaker.failed if number % 3 == 2 else breaker.succeeded)(ticket, 0)
    assert state_of(breaker) is State.CLOSED
    opened()


def test_it_opens_on_a_row() -> None:
    """Four failures in a row open it, however many successes the window holds."""
    breaker = Breaker(POLICY)
    for _ in range(1_000):
        breaker.succeeded(breaker.admit(0) or 0, 0)
    fail(breaker, 3, 0)
    assert state_of(breaker) is State.CLOSED
    fail(breaker, 1, 0)
    assert state_of(breaker) is State.OPEN


def test_old_failures_do_not_count() -> None:
    """What is older than the window is forgotten."""
    breaker = Breaker(POLICY)
    fail(breaker, 3, 0)
    breaker.succeeded(breaker.admit(11) or 0, 11)
    fail(breaker, 1, 11)
    breaker.succeeded(breaker.admit(11) or 0, 11)
    assert state_of(breaker) is State.CLOSED
    fail(breaker, 1, 12)
    assert state_of(breaker) is State.OPEN


def test_one_probe_at_a_time() -> None:
    """After its pause one request goes, and nobody else until that has ended; its success closes the breaker."""
    breaker = opened()
    assert breaker.admit(1.9) is None
    assert breaker.wait(1.5) == 0.5
    probe = breaker.admit(2)
    assert probe is not None
    assert state_of(breaker) is State.HALF_OPEN
    assert [breaker.admit(now) for now in (2, 5, 9)] == [None] * 3
    breaker.succeeded(probe, 3)
    assert state_of(breaker) is State.CLOSED
    assert breaker.admit(3) is not None
    fail(breaker, 3, 3)
    assert state_of(breaker) is State.CLOSED, "the failures of before are forgotten"


def test_a_failed_probe_doubles_the_pause() -> None:
    """Pauses are 2, 4, 8 and again 8 seconds, and 2 again after a success."""
    breaker, now = opened(), 2.0
    for pause in (4, 8, 8):
        probe = breaker.admit(now)
        assert probe is not None
        breaker.failed(probe, now)
        assert breaker.wait(now) == pause
        now += pause
    probe = breaker.admit(now)
    assert probe is not None
    breaker.succeeded(probe, now)
    fail(breaker, 4, now)
    assert breaker.wait(now) == 2


def test_a_probe_without_a_verdict_lets_the_next_one_go() -> None:
    """A probe whose client has left says nothing, and blocks nobody."""
    breaker = opened()
    probe = breaker.admit(2)
    assert probe is not None
    breaker.released(probe, 2)
    assert state_of(breaker) is State.OPEN
    assert breaker.admit(2) is not None


def test_a_probe_without_end_blocks_nobody() -> None:
    """When a probe takes longer than the longest pause, another one goes, and the first has no voice any more."""
    breaker = opened()
    first = breaker.admit(2)
    assert first is not None
    assert breaker.wait(3) == 7
    second = breaker.admit(10)
    assert second is not None
    breaker.failed(first, 10)
    assert state_of(breaker) is State.HALF_OPEN
    breaker.succeeded(second, 10)
    assert state_of(breaker) is State.CLOSED


def test_stragglers_change_nothing() -> None:
    """What was admitted before the breaker opened has no voice in whether it closes."""
    breaker = Breaker(POLICY)
    straggler = breaker.admit(0)
    assert straggler is not None
    fail(breaker, 4, 0)
    breaker.succeeded(straggler, 1)
    assert state_of(breaker) is State.OPEN
    assert breaker.admit(2) is not None
    for late in (breaker.succeeded, breaker.failed, breaker.released):
        late(straggler, 2)
        assert state_of(breaker) is State.HALF_OPEN


SECONDS = st.integers(0, 80).map(lambda sixteenths: sixteenths / 16)
"""Have sums and differences that are exact."""


@given(
    st.lists(
        st.tuples(st.sampled_from(["admit", "succeeded", "failed", "released"]), SECONDS, st.integers(0, 50))
    )
)
def test_in_any_order(events: list[tuple[str, float, int]]) -> None:
    """Whatever happens, at most one probe runs, nobody passes an open breaker, and no pause lasts for ever."""
    breaker, now, began, tickets = Breaker(POLICY), 0.0, 0.0, []
    probes: set[int] = set()
    for what, passed, choice in events:
        now += passed
        before = breaker.state
        if what == "admit":
            wait = breaker.wait(now)
            ticket = breaker.admit(now)
            if ticket is None:
                assert before is not State.CLOSED
                assert wait > 0
                continue
            tickets.append(ticket)
            if breaker.state is State.HALF_OPEN:
                assert wait == 0
                assert not probes or now - began >= POLICY.longest_pause
                began = now
                probes = {ticket}
        elif tickets:
            ticket = tickets.pop(choice % len(tickets))
            getattr(breaker, what)(ticket, now)
            probes.discard(ticket)
        assert breaker.wait(now) <= POLICY.longest_pause
        assert bool(probes) == (breaker.state is State.HALF_OPEN)

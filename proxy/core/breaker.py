"""A circuit breaker: whom to spare a request, because most of the last ones failed.

    closed --the failure rate of a window reaches the limit, or all of the last requests failed--> open
    open --its pause is over, a request comes--> half-open: that request alone is a probe
    half-open --the probe succeeds--> closed
    half-open --the probe fails--> open, for twice as long
    half-open --the probe ends without a verdict--> open, its pause over
    half-open --the probe takes longer than the longest pause--> half-open, with another probe

Every admission is a ticket. A ticket from before the last change of state changes nothing any more, so that the
stragglers of an outage neither close nor open anything. Time is an argument, in seconds of any clock that does not
step.
"""

from __future__ import annotations

from enum import StrEnum

from plugins.values import Value


class State(StrEnum):
    """What a breaker does with requests."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


# Asked for by the class, a member takes ten times as long as by a name.
_CLOSED, _HALF_OPEN = State.CLOSED, State.HALF_OPEN


class BreakerPolicy(Value, frozen=True):
    """When a breaker opens, and for how long.

    It takes `least_requests` to judge a rate; so many failures in a row open it whatever was before them.
    """

    failure_rate: float = 0.5
    least_requests: int = 10
    window: float = 30.0
    pause: float = 5.0
    longest_pause: float = 60.0


class Breaker:
    """The breaker of one target."""

    def __init__(self, policy: BreakerPolicy) -> None:
        """Begin closed."""
        self._policy = policy
        self._ticket = 0
        self._pause = policy.pause
        self._until = 0.0
        # Two half windows, so that what counts is between a half and a whole window old, without a list of times.
        self._half_began = 0.0
        self._now = [0, 0]
        self._before = [0, 0]
        self._in_a_row = 0
        self.state = State.CLOSED

    def admit(self, now: float) -> int | None:
        """Return the ticket of a request that may go, or `None` for one that may not."""
        if self.state is _CLOSED:
            return self._ticket
        if now < self._until:
            return None
        self._until = now + self._policy.longest_pause
        self._change(State.HALF_OPEN)
        return self._ticket

    def wait(self, now: float) -> float:
        """Return the seconds until a request may go, as far as anybody knows."""
        return 0.0 if self.state is _CLOSED else max(0.0, self._until - now)

    def succeeded(self, ticket: int, now: float) -> None:
        """Take note that an admitted request was served."""
        if ticket != self._ticket:
            return
        if self.state is _HALF_OPEN:
            self._pause = self._policy.pause
            self._half_began, self._now, self._before, self._in_a_row = now, [0, 0], [0, 0], 0
            self._change(State.CLOSED)
        else:
            self._count(now, failed=False)

    def failed(self, ticket: int, now: float) -> None:
        """Take note that an admitted request failed for want of the target's health."""
        if ticket != self._ticket:
            return
        if self.state is _HALF_OPEN:
            self._pause = min(self._policy.longest_pause, self._pause * 2)
            self._open(now)
            return
        self._count(now, failed=True)
        requests, failures = (sum(pair) for pair in zip(self._now, self._before, strict=True))
        least = self._policy.least_requests
        if self._in_a_row >= least or (
            requests >= least and failures >= self._policy.failure_rate * requests
        ):
            self._open(now)

    def released(self, ticket: int, now: float) -> None:
        """Take note that an admitted request ended without telling anything of the target's health."""
        if ticket == self._ticket and self.state is _HALF_OPEN:
            self._until = now
            self._change(State.OPEN)

    def _open(self, now: float) -> None:
        self._until = now + self._pause
        self._change(State.OPEN)

    def _change(self, state: State) -> None:
        self.state = state
        self._ticket += 1

    def _count(self, now: float, *, failed: bool) -> None:
        half = self._policy.window / 2
        age = now - self._half_began
        if age >= half:
            self._before = self._now if age < 2 * half else [0, 0]
            self._half_began, self._now = now, [0, 0]
        self._now[0] += 1
        self._now[1] += failed
        self._in_a_row = self._in_a_row + 1 if failed else 0

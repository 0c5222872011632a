"""Whether, where and when a request is sent again after a failure.

Law: a request is sent again only where it cannot have been served: it never arrived, or the provider reported that
it failed. A connection that broke, an answer that makes no sense and our own loss of patience leave open whether
it ran and is billed, so they end the call, at this target and at every other.

The targets are tried in order, each at once after the one before. After that those whose trouble may pass are
tried again, after a wait that doubles, with jitter, and that is never shorter than the provider's `Retry-After`;
a wait that is too long for a caller is not waited. Time and randomness are arguments.
"""

from __future__ import annotations

from functools import lru_cache

from plugins.contract import Failure, FailureKind
from plugins.values import Value

_OF_THE_REQUEST = frozenset({FailureKind.INVALID_REQUEST, FailureKind.TOO_LARGE, FailureKind.MODERATION})
_OF_THE_KEY = frozenset({FailureKind.CREDENTIALS, FailureKind.CREDITS, FailureKind.RATE_LIMIT})
_MAY_PASS = frozenset(
    {
        FailureKind.IN_FLIGHT_BUDGET,
        FailureKind.PROVIDER,
        FailureKind.RATE_LIMIT,
        FailureKind.TIMEOUT,
        FailureKind.UNREACHABLE,
    }
)


class RetryPolicy(Value, frozen=True):
    """How often and how long a call is tried; seconds, and numbers of requests to providers."""

    attempts: int = 6
    rounds: int = 3
    first_wait: float = 0.25
    longest_wait: float = 5.0


class Step(Value, frozen=True):
    """Which target is next, from when on, and whether that costs a piece of the retry budget."""

    position: int
    not_before: float
    is_retry: bool


def cannot_have_run(failure: Failure, *, was_reached: bool) -> bool:
    """Say whether a request that failed so may be sent again without being served twice."""
    return not was_reached or failure.status is not None


def is_of_the_key(failure: Failure) -> bool:
    """Say whether another API key of the same provider may be served where this one was not."""
    return failure.kind in _OF_THE_KEY


def may_work_elsewhere(failure: Failure) -> bool:
    """Say whether another target could serve what this one refused."""
    return failure.kind not in _OF_THE_REQUEST


class Itinerary:
    """The way of one call through its targets."""

    def __init__(self, targets: int, policy: RetryPolicy) -> None:
        """Begin before the first of so many targets."""
        self._policy = policy
        self._next = list(_first_steps(targets))
        self._rounds = [0] * targets
        self._sent = 0

    def next(self) -> Step | None:
        """Take the next step, or `None` when the call has failed."""
        if self._sent >= self._policy.attempts or not self._next:
            return None
        return self._next.pop(0)

    def failed(
        self,
        step: Step,
        failure: Failure,
        *,
        was_reached: bool,
        has_other_key: bool,
        moment: tuple[float, float],
    ) -> None:
        """Plan what follows a failed attempt; `moment` is now, and a random number between 0 and 1."""
        self._sent += 1
        now, chance = moment
        if not cannot_have_run(failure, was_reached=was_reached) or not may_work_elsewhere(failure):
            self._next.clear()
            return
        if is_of_the_key(failure) and has_other_key:
            self._next.insert(0, Step(step.position, now, is_retry=False))
            return
        self._rounds[step.position] += 1
        wait = self._wait(self._rounds[step.position], failure.retry_after, chance)
        if (
            failure.kind in _MAY_PASS
            and self._rounds[step.position] < self._policy.rounds
            and wait is not None
        ):
            self._add(Step(step.position, now + wait, is_retry=True))

    def _wait(self, rounds: int, retry_after: float | None, chance: float) -> float | None:
        longest = min(self._policy.longest_wait, self._policy.first_wait * 2.0 ** (rounds - 1))
        if retry_after is None:
            return longest * (0.5 + chance / 2)
        # All who were told the same time must not come back at the same time.
        wait = retry_after + longest * chance
        return wait if retry_after <= self._policy.longest_wait else None

    def _add(self, step: Step) -> None:
        """Put a retry behind what is not yet tried, and behind earlier retries."""
        place = next((at for at, other in enumerate(self._next) if other.not_before > step.not_before), None)
        if place is None:
            self._next.append(step)
        else:
            self._next.insert(place, step)


@lru_cache(maxsize=64)
def _first_steps(targets: int) -> tuple[Step, ...]:
    return tuple(Step(position, 0.0, is_retry=False) for position in range(targets))


class RetryBudget:
    """What bounds the retries of all calls to one provider: a share of the requests, and a burst.

    A provider that fails every request gets `1 + share` times the load, and not `rounds` times.
    """

    def __init__(self, share: float, burst: int) -> None:
        """Begin with a whole burst."""
        self._share = share
        self._burst = float(burst)
        self._left = float(burst)

    def deposit(self) -> None:
        """Take note of a request that is no retry."""
        self._left = min(self._burst, self._left + self._share)

    def withdraw(self) -> bool:
        """Take a retry out, if there is one."""
        if self._left < 1:
            return False
        self._left -= 1
        return True

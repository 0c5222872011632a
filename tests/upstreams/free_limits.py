"""Free models allow so many requests a minute and a UTC day for the whole account, failed ones counted too."""

from dataclasses import dataclass, field

from tests.upstreams.failure import Failure

MINUTE = 60
DAY = 86400


@dataclass(slots=True)
class FreeLimits:
    """The two counters; windows are part of the key, so nothing is ever reset by time."""

    per_minute: int = 20
    per_day: int = 50
    used: dict[tuple[int, int], int] = field(default_factory=dict)

    def refuse(self, now: float) -> Failure | None:
        """Count one request, or say which limit stops it."""
        for seconds, limit, name in ((DAY, self.per_day, "per-day"), (MINUTE, self.per_minute, "per-min")):
            if self.in_window(seconds, now) >= limit:
                return _refusal(name, limit, (int(now) // seconds + 1) * seconds * 1000)
        for seconds in (DAY, MINUTE):
            key = (seconds, int(now) // seconds)
            self.used[key] = self.used.get(key, 0) + 1
        return None

    def in_window(self, seconds: int, now: float) -> int:
        return self.used.get((seconds, int(now) // seconds), 0)

    def reset(self) -> None:
        self.used.clear()


def _refusal(name: str, limit: int, reset_at_ms: int) -> Failure:
    limits = {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(reset_at_ms),
    }
    advice = ". Add 10 credits to unlock 1000 free model requests per day" if name == "per-day" else ". "
    error = {
        "message": f"Rate limit exceeded: free-models-{name}{advice}",
        "code": 429,
        "metadata": {"headers": limits},
    }
    return Failure(429, {"error": error}, name=f"429_free_{name}").with_headers(limits)

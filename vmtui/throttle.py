"""When may the next picture be drawn? At most so many a second, the first ones at once."""


class Throttle:
    """A bucket of `rate` tokens that fills again within a second. Times are handed in."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._at = 0.0

    def delay(self, now: float) -> float:
        """Seconds until the next one may be drawn; 0 = at once, and it counts as drawn."""
        self._tokens = min(self._tokens + (now - self._at) * self._rate, self._rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate

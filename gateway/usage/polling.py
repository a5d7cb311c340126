"""How often clients ask for the status of jobs, at this gateway."""

import time
from collections import deque

from gateway.metrics.process import STATUS_POLLS

WINDOW_SECONDS = 300.0
REMEMBERED = 100_000


class Polling:
    """Counts the requests of the last minutes."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=REMEMBERED)

    def note(self) -> None:
        STATUS_POLLS.inc()
        self._times.append(time.monotonic())

    @property
    def per_minute(self) -> float:
        """On average over the window."""
        start = time.monotonic() - WINDOW_SECONDS
        while self._times and self._times[0] < start:
            self._times.popleft()
        return round(len(self._times) * 60 / WINDOW_SECONDS, 2)

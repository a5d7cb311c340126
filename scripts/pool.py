"""A pool of GPU containers that comes and goes with the work, as an event simulation in seconds.

One call a container at a time, oldest first.  A call that finds no container free starts one, up to the cap;
a container costs from the moment it starts until it has been idle for the scale-down window.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Call:
    at: float
    """Second of arrival."""
    seconds: float
    """Of GPU."""


@dataclass(frozen=True)
class Settings:
    scaledown_window: float
    max_containers: int
    min_containers: int = 0
    """These never stop, and have started before the first call."""


@dataclass
class Outcome:
    waits: list[float] = field(default_factory=list)
    """From arrival to the start of the run, for each call in order of its start."""
    starts: int = 0
    peak: int = 0
    busy_seconds: float = 0.0
    billed_seconds: float = 0.0
    """Starting, busy and idle."""

    @property
    def idle_share(self) -> float:
        """Of what is billed, the part in which nothing is drawn."""
        return 1 - self.busy_seconds / self.billed_seconds if self.billed_seconds else 0.0


FREE, ARRIVAL, STOP = range(3)
"""In this order where they fall on one instant."""


def simulate(calls: Sequence[Call], settings: Settings, cold_start: float) -> Outcome:
    """What ``calls``, in order of arrival, meet in such a pool."""
    return _Pool(settings, cold_start).run(calls)


class _Pool:
    def __init__(self, settings: Settings, cold_start: float) -> None:
        self._settings, self._cold_start = settings, cold_start
        self._outcome = Outcome()
        self._waiting: deque[Call] = deque()
        self._events: list[tuple[float, int, int, int, Call | None]] = []
        self._order = itertools.count()
        self._since: dict[int, float] = {}
        """Second in which each living container began to cost."""
        self._idle: dict[int, float] = {}
        """When it will have waited long enough; the one that was busy last is at the end."""
        self._booting = 0
        self._made = 0

    def run(self, calls: Sequence[Call]) -> Outcome:
        for call in calls:
            self._add(call.at, ARRIVAL, 0, call)
        begin = calls[0].at if calls else 0.0
        for _ in range(self._settings.min_containers):
            self._become_free(self._new(begin), begin, started=False)
        end = begin
        while self._events:
            now, kind, _, container, subject = heapq.heappop(self._events)
            if kind == ARRIVAL and subject is not None:
                self._arrive(subject, now)
            elif kind == FREE:
                self._become_free(container, now, started=subject is None)
            elif self._idle.get(container) == now:
                self._stop(container, now)
            end = max(end, now)
        self._outcome.billed_seconds += sum(end - since for since in self._since.values())
        return self._outcome

    def _arrive(self, call: Call, now: float) -> None:
        if self._idle:
            container, _ = self._idle.popitem()
            self._draw(call, container, now)
            return
        self._waiting.append(call)
        if len(self._waiting) > self._booting and len(self._since) < self._settings.max_containers:
            self._booting += 1
            self._outcome.starts += 1
            self._add(now + self._cold_start, FREE, self._new(now), None)

    def _become_free(self, container: int, now: float, started: bool) -> None:
        self._booting -= started
        if self._waiting:
            self._draw(self._waiting.popleft(), container, now)
            return
        self._idle[container] = now + self._settings.scaledown_window
        self._add(self._idle[container], STOP, container, None)

    def _draw(self, call: Call, container: int, now: float) -> None:
        self._outcome.waits.append(now - call.at)
        self._outcome.busy_seconds += call.seconds
        self._add(now + call.seconds, FREE, container, call)

    def _new(self, now: float) -> int:
        self._made += 1
        self._since[self._made] = now
        self._outcome.peak = max(self._outcome.peak, len(self._since))
        return self._made

    def _stop(self, container: int, now: float) -> None:
        if len(self._since) > self._settings.min_containers:
            del self._idle[container]
            self._outcome.billed_seconds += now - self._since.pop(container)

    def _add(self, at: float, kind: int, container: int, call: Call | None) -> None:
        heapq.heappush(self._events, (at, kind, next(self._order), container, call))

"""Progress out of a GPU container, and the wish to cancel into it, beside the thread that draws."""

import logging
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from modal_app.calls import cancel_key, progress_key
from modal_app.contract import Call

log = logging.getLogger(__name__)

_News = tuple[Call, threading.Event] | None
"""How a call stands, and what to set when nobody wants it any more; None between two calls."""


class Board(Protocol):
    """Where containers leave notes for each other; may fail, may be slow."""

    def read(self, key: str) -> Any:
        """What stands there, or None."""
        ...

    def write(self, key: str, value: Any) -> None: ...


class Reporter:
    """A thread that writes the newest state of the running call and looks whether it was canceled.

    What draws never waits for the network, and a board that fails costs progress only.  The drawing thread
    may be interrupted at any bytecode, so it takes no lock here: it only puts into a queue written in C.
    """

    def __init__(self, board: Board, seconds: float) -> None:
        """``seconds`` lie between two reports of a call; the first is made at once."""
        self._board = board
        self._seconds = seconds
        self._told: Call | None = None
        self._cancelled = threading.Event()
        self._news: SimpleQueue[_News] = SimpleQueue()
        threading.Thread(target=self._report, name="reporter", daemon=True).start()

    def watch(self, call: Call) -> None:
        """From now on it is this call."""
        self._cancelled = threading.Event()
        self.tell(call)

    def tell(self, call: Call) -> None:
        self._news.put((call, self._cancelled))

    def rest(self) -> None:
        """The call has ended; how, its outcome tells."""
        self._news.put(None)

    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def _report(self) -> None:
        news: _News = None
        while True:
            if news is None:
                news = self._news.get()
                continue
            try:
                self._exchange(*news)
            except Exception as error:
                log.warning("no report of call %s: %s", news[0].call_id, type(error).__name__)
            news = self._newest(*news)

    def _exchange(self, call: Call, cancelled: threading.Event) -> None:
        if self._board.read(cancel_key(call.call_id)):
            cancelled.set()
        if call is not self._told:
            self._board.write(progress_key(call.call_id), call.model_dump_json(by_alias=True))
            self._told = call

    def _newest(self, call: Call, cancelled: threading.Event) -> _News:
        """What there is to tell after a while, or at once when another call has begun or none runs."""
        end = time.monotonic() + self._seconds
        while (left := end - time.monotonic()) > 0:
            try:
                news = self._news.get(timeout=left)
            except Empty:
                break
            if news is None or news[0].call_id != call.call_id:
                return news
            call, cancelled = news
        return call, cancelled

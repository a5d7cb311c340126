"""A client that asks more than a Python server can answer: keep-alive connections, each with one request out.

It reads of an answer what it needs to know where the next begins: the status and the length.
"""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

Exchange = Generator[bytes | float, bytes, None]
"""One thing that is asked for: requests, each sent the body of its answer, and pauses in seconds."""
MakeExchange = Callable[[], Exchange]


@dataclass(frozen=True)
class Load:
    """What came of it."""

    per_second: float
    seconds: list[float]
    """Of each exchange, from its first request to its last answer."""
    statuses: Counter[int]

    @property
    def p50_ms(self) -> float:
        return 1000 * statistics.median(self.seconds)

    @property
    def p99_ms(self) -> float:
        return 1000 * statistics.quantiles(self.seconds, n=100)[-1]


def request(method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """A request as it goes over the wire."""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    lines = [f"{method} {path} HTTP/1.1", f"host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def single(wire: bytes) -> Exchange:
    """A request whose answer is all that was asked for."""
    yield wire


async def load(url: str, make: MakeExchange, connections: int, seconds: float) -> Load:
    """Exchanges one after another on each of ``connections``, until the seconds are over."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    loop = asyncio.get_running_loop()
    until = time.perf_counter() + seconds
    clients = [_Client(make, until) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, parts.hostname, parts.port)  # type: ignore[misc]
    started = time.perf_counter()
    await asyncio.gather(*(client.done for client in clients))
    took = time.perf_counter() - started
    times = [each for client in clients for each in client.seconds]
    statuses = sum((client.statuses for client in clients), Counter[int]())
    return Load(len(times) / took, times, statuses)


class _Client(asyncio.Protocol):
    def __init__(self, make: MakeExchange, until: float) -> None:
        self._make = make
        self._until = until
        self._read = bytearray()
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        self._read += data
        end = self._read.find(b"\r\n\r\n")
        if end < 0 or len(self._read) < end + 4 + _length(bytes(self._read[:end])):
            return
        self.statuses[int(self._read[9:12])] += 1
        body = bytes(self._read[end + 4 :])
        self._read.clear()
        self._go_on(body)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server has closed the connection"))

    def _begin(self) -> None:
        self._begun = time.perf_counter()
        if self._begun > self._until:
            self.done.set_result(None)
            self._transport.close()
            return
        self._exchange = self._make()
        self._go_on(None)

    def _go_on(self, answer: bytes | None) -> None:
        try:
            following = next(self._exchange) if answer is None else self._exchange.send(answer)
        except StopIteration:
            self.seconds.append(time.perf_counter() - self._begun)
            self._begin()
            return
        if isinstance(following, float):
            asyncio.get_running_loop().call_later(following, self._go_on, None)
        else:
            self._transport.write(following)


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0

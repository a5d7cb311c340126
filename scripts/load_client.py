"""A client that asks more than a Python server can answer: keep-alive connections, each with one request out.

It reads of an answer what it needs to know where the next begins: the status and the length.
"""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

MakeRequest = Callable[[], bytes]


@dataclass(frozen=True)
class Load:
    """What came of it."""

    per_second: float
    seconds: list[float]
    """Of each request, from sent to answered."""
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
    lines = [f"{method} {parts.path} HTTP/1.1", f"host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def load(url: str, make: MakeRequest, connections: int, seconds: float) -> Load:
    """Requests one after another on each of ``connections``, until the seconds are over."""
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
    def __init__(self, make: MakeRequest, until: float) -> None:
        self._make = make
        self._until = until
        self._read = bytearray()
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._read += data
        end = self._read.find(b"\r\n\r\n")
        if end < 0 or len(self._read) < end + 4 + _length(bytes(self._read[:end])):
            return
        self.seconds.append(time.perf_counter() - self._sent)
        self.statuses[int(self._read[9:12])] += 1
        self._read.clear()
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server has closed the connection"))

    def _send(self) -> None:
        self._sent = time.perf_counter()
        if self._sent > self._until:
            self.done.set_result(None)
            self._transport.close()
            return
        self._transport.write(self._make())


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0

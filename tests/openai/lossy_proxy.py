"""A proxy between client and gateway that loses what a bad network loses, seeded."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class LossyProxy:
    """Drops ``requests`` of the requests unseen, and ``answers`` of the rest's answers.

    A third of the lost answers never begins, a third is cut in the middle, and for a third the connection
    ends while the gateway is at work.
    """

    def __init__(self, target: str, *, requests: float, answers: float, seed: int = 1) -> None:
        self._host, self._port = urlsplit(target).hostname, urlsplit(target).port
        self._requests, self._answers = requests, answers
        self._random = random.Random(seed)
        self.lost_requests = self.lost_answers = self.passed = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Its own address, while it stands."""
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._pass_on(await _message(reader), writer):
                pass
        writer.close()

    async def _pass_on(self, request: bytes, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        if self._random.random() < self._requests:
            self.lost_requests += 1
            return False
        if self._random.random() >= self._answers:
            writer.write(await self._answer(request))
            await writer.drain()
            self.passed += 1
            return True
        self.lost_answers += 1
        match self._random.choice(["never begun", "cut", "unheard"]):
            case "never begun":
                await self._answer(request)
            case "cut":
                answer = await self._answer(request)
                writer.write(answer[: len(answer) // 2])
                await writer.drain()
            case _:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._answer(request), self._random.uniform(0.001, 0.02))
        return False

    async def _answer(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(request)
        try:
            return await _message(reader)
        finally:
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One request or answer, headers and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)

"""Addresses that users give: what is not public, small, quick and plain is refused, whatever it pretends."""

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from gateway.outside import REDIRECTS, Fetched, Outside, OutsideError

PUBLIC = "93.184.216.34"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Speaks HTTP by hand, so that it can lie; counts who has connected."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: list[bytes] = []
        self.port = 0
        self.sent = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            await self._answer(writer)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Server]:
    server = Server(answer)
    listener = await asyncio.start_server(server, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


def saying(content: bytes, **headers: str) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        writer.write(b"HTTP/1.1 200 OK\r\n" + lines.encode() + b"\r\n" + content)

    return answer


async def refusal(outside: Outside, url: str, limit_bytes: int = 1000, seconds: float = 5) -> str:
    with pytest.raises(OutsideError) as refused:
        await outside.fetch(url, limit_bytes, seconds)
    return refused.value.code


def resolver(*answers: list[str]) -> tuple[Callable[[str, int], Awaitable[list[str]]], list[str]]:
    """Gives the answers one after another, and the list of what it was asked."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolve, asked


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0x7f000001", "2130706433", "127.1"),
        *("[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "100.64.0.1", "0.0.0.0", "10.0.0.1", "[fd00::1]"),
        *("172.16.0.1", "192.168.1.1", "[::]", "[::127.0.0.1]", "[2002:7f00:1::]", "[fe80::1]", "[fec0::1]"),
        *("[64:ff9b:1::1]", "[2001::1]", "[ff02::1]", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("198.18.0.1", "017700000001", "①27.0.0.1", "[::ffff:a00:1]", "127。0。0。1", "0"),
    ],
)
async def test_an_address_that_is_not_public_is_refused(host: str) -> None:
    assert await refusal(Outside(), f"http://{host}/picture.png") == "url_refused"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "file:///etc/passwd",
            "ftp://example.com/a.png",
            "http://a\ud800.com",
            "gopher://a",
            "data:image/png;base64,AA",
        ),
        *(
            "https://user:secret@example.com/",
            "https://token@example.com/",
            "http://",
            "//example.com/a",
            "a b",
        ),
        *("https://example.com:22/", "http://example.com:8080/", "https://example.com:5432/", "https:"),
        *("http://127.0.0.1\\@example.com/", "http://example.com/\r\nHost: a", "https://example.com:0/"),
    ],
)
async def test_an_odd_address_is_refused_before_its_name_is_looked_up(url: str) -> None:
    resolve, asked = resolver([PUBLIC])
    assert await refusal(Outside(resolve=resolve), url) == "url_refused"
    assert not asked


async def test_a_name_with_one_private_address_among_public_ones_is_refused() -> None:
    resolve, _ = resolver([PUBLIC, "10.0.0.1"])
    assert await refusal(Outside(resolve=resolve), "https://example.com/") == "url_refused"


async def test_a_name_that_does_not_exist_is_unreachable() -> None:
    resolve, _ = resolver([])
    assert await refusal(Outside(resolve=resolve), "https://example.com/") == "url_unreachable"
    assert await refusal(Outside(), f"https://{'a' * 64}.example.com/") == "url_unreachable"


async def test_a_name_is_looked_up_once_and_the_address_that_was_checked_is_the_one_connected_to() -> None:
    """The resolver turns to 127.0.0.1 the moment the check is over."""
    resolve, asked = resolver([PUBLIC], ["127.0.0.1"])
    connected: list[tuple[str, int]] = []

    async def trace(event: str, facts: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.started":
            connected.append((facts["host"], facts["port"]))

    outside = Outside(resolve=resolve)
    async with outside.client() as http:
        request = http.build_request("GET", "https://example.com/a", timeout=0.2, extensions={"trace": trace})
        with contextlib.suppress(httpx.HTTPError):  # nobody answers there, as far as the tests can reach
            await http.send(request)
        assert (asked, connected) == (["example.com"], [(PUBLIC, 443)])
        assert request.headers["host"] == request.extensions["sni_hostname"] == "example.com"
        with pytest.raises(OutsideError, match="not a public one"):
            await http.get("https://example.com/a")
    assert await refusal(outside, "https://example.com/a") == "url_refused"


async def test_the_second_guard_judges_the_number_itself() -> None:
    """Even a gateway that forgot to look would not get through."""
    outside = Outside()
    async with outside.client() as http:
        http.event_hooks = {"request": []}
        with pytest.raises(httpx.RequestError, match="not globally reachable"):
            await http.get("http://127.0.0.1/")
        with pytest.raises(httpx.RequestError, match="custom validation"):
            await http.get("http://224.0.0.1/")


def leading_to(location: str) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".encode())

    return answer


class Guarded(Outside):
    """The real rules, but for a test's own server, which stands for a public one."""

    def __init__(self, port: int) -> None:
        super().__init__(allow_private=True)
        self._public_port = port

    async def _address(self, url: httpx.URL) -> str:
        self._allow_private = url.port == self._public_port
        return await super()._address(url)


@pytest.mark.parametrize(
    "location",
    [
        *(
            "http://127.0.0.1/latest/meta-data",
            "http://169.254.169.254/",
            "http://[::1]/",
            "http://localhost/",
        ),
        *(
            "file:///etc/passwd",
            "https://10.0.0.1/",
            "//192.168.0.1/",
            "http://u:p@example.com/",
            "gopher://a/",
        ),
    ],
)
async def test_a_redirect_is_judged_like_the_first_address(location: str) -> None:
    async with serving(leading_to(location)) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert await refusal(Guarded(server.port), url) == "url_refused"
    assert len(server.requests) == 1


async def test_redirects_end() -> None:
    async with serving(leading_to("/again")) as server:
        outside = Outside(allow_private=True)
        assert await refusal(outside, f"http://127.0.0.1:{server.port}/") == "url_refused"
    assert len(server.requests) == REDIRECTS + 1


async def test_a_slow_drip_is_cut_off_in_time() -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def drip_headers(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not writer.is_closing():
            writer.write(b"X-A: b\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    for answer in (drip, drip_headers):
        async with serving(answer) as server:
            began = time.monotonic()
            url = f"http://127.0.0.1:{server.port}/"
            assert await refusal(Outside(allow_private=True), url, 200_000, seconds=0.5) == "url_timeout"
            assert time.monotonic() - began < 20  # the whole would take ten minutes and more


async def test_a_slow_name_server_counts_too() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    assert await refusal(Outside(resolve=resolve), "https://example.com/", seconds=0.2) == "url_timeout"


@pytest.mark.parametrize("headers", [{}, {"Content_Length": str(10**10)}, {"Transfer_Encoding": "chunked"}])
async def test_ten_gigabytes_are_not_read(headers: dict[str, str]) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await saying(b"", **headers)(writer)
        piece = b"10000\r\n" + b"x" * 2**16 + b"\r\n" if "Transfer_Encoding" in headers else b"x" * 2**16
        while not writer.is_closing() and sent < 10**10:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with serving(endless) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert await refusal(Outside(allow_private=True), url, limit_bytes=10**6) == "url_too_large"
    assert sent < 10**8  # what fits into the system's buffers, beyond what was read


async def test_a_body_longer_than_it_says_ends_where_it_said() -> None:
    async with serving(saying(b"x" * 10_000, Content_Length="10")) as server:
        got = await Outside(allow_private=True).fetch(f"http://127.0.0.1:{server.port}/", 1000)
    assert got == Fetched(b"x" * 10, "")


async def test_a_body_shorter_than_it_says_is_not_a_file() -> None:
    async with serving(saying(b"x" * 10, Content_Length="100")) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert await refusal(Outside(allow_private=True), url) == "url_unreachable"


async def test_nothing_is_unpacked() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    async with serving(saying(bomb, Content_Encoding="gzip")) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert await refusal(Outside(allow_private=True), url, limit_bytes=10**6) == "url_refused"
    assert b"Accept-Encoding: identity" in server.requests[0]


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 404 Not Found\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b""],
)
async def test_what_is_not_a_file_over_http_is_unreachable(answer: bytes) -> None:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with serving(say) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert await refusal(Outside(allow_private=True), url) == "url_unreachable"


async def test_no_proxy_no_cookie_and_no_credential_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with serving(saying(b"x", Set_Cookie="id=1; Path=/", Content_Type="Image/PNG; a=b")) as server:
        outside = Outside(allow_private=True)
        async with outside.client() as http:
            for _ in range(2):
                await http.get(f"http://localhost:{server.port}/")
        got = await outside.fetch(f"http://localhost:{server.port}/", 10)
    assert got == Fetched(b"x", "image/png")
    assert f"Host: localhost:{server.port}".encode() in server.requests[0]
    assert not [request for request in server.requests if b"cookie" in request.lower()]


async def test_an_address_can_be_checked_without_a_request() -> None:
    with pytest.raises(OutsideError, match="not a public one"):
        await Outside().check("http://169.254.169.254/")
    resolve, asked = resolver([PUBLIC])
    await Outside(resolve=resolve).check("https://example.com/hook")
    assert asked == ["example.com"]

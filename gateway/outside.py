"""Addresses that users give: reached without a way into our own network.

A host is looked up once.  If any of its addresses is not public the request is refused before a packet is
sent; otherwise the request goes to the very address that was checked, with the name kept in ``Host`` and in
TLS.  A resolver that changes its answer is therefore never asked again, and ``httpx-secure`` judges the
number once more on connecting.
"""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path

import httpx
from httpx_secure import SSRFProtectionError, httpx_ssrf_protection

from gateway.errors import BadRequest

SECONDS = 10.0
"""For the whole of a fetch: names, redirects, body."""
REDIRECTS = 3
PORTS = {"http": 80, "https": 443}
REDIRECT_STATUSES = (301, 302, 303, 307, 308)

GLOBAL_UNICAST = IPv6Network("2000::/3")
SIX_TO_FOUR = IPv6Network("2002::/16")
TRANSLATED = IPv6Network("64:ff9b::/96")
"""How a network without IPv4 writes IPv4 addresses (NAT64, RFC 6052)."""

Gate = Callable[[httpx.URL], Mapping[str, str]]
"""Asked before every request, those of redirects too: the headers to send there, or OutsideError."""

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Name and port to addresses; OSError when there are none."""


class OutsideError(BadRequest):
    """Its code is ``url_refused``, ``url_unreachable``, ``url_too_large`` or ``url_timeout``."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail, code=code, param="url")
        self.retryable = code in ("url_unreachable", "url_timeout")


@dataclass(frozen=True)
class Fetched:
    content: bytes
    content_type: str
    """As the server calls it, in lower case and without parameters: not to be believed."""


@dataclass(frozen=True)
class Downloaded:
    sha256: str
    bytes: int


class Outside:
    """``allow_private`` lifts the rules on addresses and ports, for development."""

    def __init__(self, *, allow_private: bool = False, resolve: Resolve | None = None) -> None:
        self._allow_private = allow_private
        self._resolve = resolve or _SystemResolver()
        self._tls = httpx.create_ssl_context(trust_env=False)

    async def fetch(
        self, url: str, limit_bytes: int, seconds: float = SECONDS, gate: Gate | None = None
    ) -> Fetched:
        """What stands at ``url``; OutsideError when it is not fit, or more than allowed."""
        content = bytearray()
        async with self._answer(url, seconds, gate) as answer:
            async for part in _body(answer, limit_bytes):
                content += part
            content_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        return Fetched(bytes(content), content_type)

    async def download(
        self, url: str, path: Path, limit_bytes: int, seconds: float, gate: Gate | None = None
    ) -> Downloaded:
        """The same into a new file, for what may be too large for memory."""
        digest, size = hashlib.sha256(), 0
        async with self._answer(url, seconds, gate) as answer:
            with path.open("xb") as file:
                async for part in _body(answer, limit_bytes):
                    size += len(part)
                    digest.update(part)
                    await asyncio.to_thread(file.write, part)
        return Downloaded(digest.hexdigest(), size)

    async def check(self, url: str) -> None:
        """OutsideError unless ``client()`` would send a request to ``url`` now."""
        await self._address(self._parsed(url))

    def client(self) -> httpx.AsyncClient:
        """A client under the same rules, for those who send: ``async with outside.client() as http: ...``

        Its requests raise OutsideError, or httpx's own errors.  Connections are not kept: they are opened to
        numbers, and two names may share one.
        """
        client = httpx.AsyncClient(
            verify=self._tls,
            trust_env=False,
            follow_redirects=False,
            timeout=SECONDS,
            headers={"User-Agent": "Tenkaigen", "Accept-Encoding": "identity"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=0),
            event_hooks={"request": [self._pin]},
        )
        if self._allow_private:
            return client
        return httpx_ssrf_protection(
            client, custom_validator=lambda _host, address, _port: is_public(address)
        )

    @asynccontextmanager
    async def _answer(self, url: str, seconds: float, gate: Gate | None) -> AsyncIterator[httpx.Response]:
        """The answer that ``url`` leads to, its body not yet read; all within ``seconds``."""
        with _errors(seconds):
            async with (
                asyncio.timeout(seconds),
                self.client() as http,
                self._followed(http, url, gate or (lambda _: {})) as answer,
            ):
                yield answer

    @asynccontextmanager
    async def _followed(self, http: httpx.AsyncClient, url: str, gate: Gate) -> AsyncIterator[httpx.Response]:
        here = self._parsed(url)
        for _ in range(REDIRECTS + 1):
            async with http.stream("GET", here, headers=gate(here)) as answer:
                if answer.status_code not in REDIRECT_STATUSES:
                    yield answer
                    return
                there = self._parsed(str(here.join(answer.headers.get("location", ""))))
            if (here.scheme, there.scheme) == ("https", "http"):
                raise OutsideError("url_refused", "The address leads from https to http.")
            here = there
        raise OutsideError("url_refused", f"The address leads on more than {REDIRECTS} times.")

    async def _pin(self, request: httpx.Request) -> None:
        """Send to the address that was checked, under the name that was given."""
        url = self._parsed(str(request.url))
        address = await self._address(url)
        request.extensions = {**request.extensions, "sni_hostname": url.raw_host.decode()}
        request.url = url.copy_with(host=address)

    def _parsed(self, url: str) -> httpx.URL:
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            raise OutsideError("url_refused", "This is not an address.") from None
        if parsed.scheme not in PORTS or not parsed.host:
            raise OutsideError("url_refused", "The address must start with https:// or http://.")
        if parsed.userinfo:
            raise OutsideError("url_refused", "The address must not contain a user name or password.")
        if parsed.port not in (None, *PORTS.values()) and not self._allow_private:
            raise OutsideError("url_refused", "The address must use port 80 or 443.")
        return parsed

    async def _address(self, url: httpx.URL) -> str:
        """The first address of the host; OutsideError if any is not public."""
        try:
            found = await self._resolve(url.raw_host.decode(), url.port or PORTS[url.scheme])
            addresses = [ip_address(text) for text in found]
        except (OSError, ValueError):
            raise OutsideError("url_unreachable", "There is no host of this name.") from None
        if not addresses:
            raise OutsideError("url_unreachable", "There is no host of this name.")
        if not self._allow_private and not all(map(is_public, addresses)):
            raise _not_public()
        return str(addresses[0])


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether anybody may reach it. Stricter than ``is_global``, which lets multicast and 6to4 pass."""
    if isinstance(address, IPv6Address):
        if address in TRANSLATED:
            return is_public(IPv4Address(address.packed[-4:]))
        if address not in GLOBAL_UNICAST or address in SIX_TO_FOUR:
            return False
    return address.is_global and not address.is_multicast


async def _body(answer: httpx.Response, limit_bytes: int) -> AsyncIterator[bytes]:
    """The body as it is sent: never unpacked, and never more of it than allowed."""
    if answer.status_code != 200:
        raise OutsideError("url_unreachable", f"The address answers with status {answer.status_code}.")
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise OutsideError("url_refused", "The address answers with a compressed body, unasked.")
    too_large = OutsideError("url_too_large", f"The address holds more than {limit_bytes} bytes.")
    declared = answer.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise too_large
    size = 0
    async for part in answer.aiter_raw():
        size += len(part)
        if size > limit_bytes:
            raise too_large
        yield part


@contextmanager
def _errors(seconds: float) -> Iterator[None]:
    """What can go wrong on the way, in the words of a user."""
    try:
        yield
    except (TimeoutError, httpx.TimeoutException):
        raise OutsideError("url_timeout", f"The address took longer than {seconds:g} s.") from None
    except SSRFProtectionError:
        raise _not_public() from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        raise OutsideError("url_unreachable", "The address does not answer as it should.") from None


def _not_public() -> OutsideError:
    return OutsideError("url_refused", "The address is not a public one.")


class _SystemResolver:
    """The operating system's, on threads of its own: a slow name server must not hold up file access."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="names")

    async def __call__(self, host: str, port: int) -> list[str]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(address[0]) for *_, address in found]

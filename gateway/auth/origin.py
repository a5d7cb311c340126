"""Whose page sent this request: a cookie goes along with any, so it counts for our own pages only."""

from urllib.parse import SplitResult, urlsplit

from fastapi import Request

from gateway.config import Settings, is_loopback
from gateway.errors import Forbidden

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def refuse_cross_site(request: Request, settings: Settings) -> None:
    """Forbidden when another site's page sends what may change something.

    Browsers say so in ``Sec-Fetch-Site``, older ones and those on plain http in ``Origin``.  A request with
    neither comes from a program, which no page can steer.
    """
    if request.method in SAFE_METHODS:
        return
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin is not None and origin == _origin(settings.public_url):
        return
    if site is not None:
        ours = site in ("same-origin", "none")
    else:
        ours = origin is None or _parts(origin).netloc == request.headers.get("host", "")
    if not ours:
        raise Forbidden("This request comes from another site's page.", code="cross_site_request")


def is_local(request: Request, settings: Settings) -> bool:
    """Whether this request was surely made on the gateway's own machine, under the machine's own name.

    The name matters: a page anywhere can have its own name lead to 127.0.0.1 (DNS rebinding).  A gateway that
    others reach, by listening to them or through a proxy, takes nobody for local.
    """
    client = request.client.host if request.client else ""
    return (
        is_loopback(settings.host)
        and is_loopback(_parts(settings.public_url).hostname or "")
        and is_loopback(client)
        and is_loopback(_parts(f"//{request.headers.get('host', '')}").hostname or "")
        and not any(name in request.headers for name in PROXY_HEADERS)
    )


def _origin(url: str) -> str:
    parts = _parts(url)
    return f"{parts.scheme}://{parts.netloc}"


def _parts(url: str) -> SplitResult:
    """The parts of an address; of one that is none, no parts."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")

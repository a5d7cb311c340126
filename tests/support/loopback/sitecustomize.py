"""No way out: every Python process with this folder on its path reaches its own machine and nothing else.

Python's audit events tell of each name that is looked up and each connection that is opened.  One that
leads away is written to ``ESCAPES`` and fails as without a network.  uvloop's sockets are not Python's, so it
is not there; the ordinary loop takes its place.
"""

import errno
import ipaddress
import os
import sys
from pathlib import Path
from typing import Any


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if not _is_here(host):
        with Path(os.environ["ESCAPES"]).open("a") as escapes:
            escapes.write(f"{event} {host!s} by {' '.join(sys.argv)}\n")
        raise OSError(errno.ENETUNREACH, f"a test keeps {event} from {host!s}")


def _is_here(host: str | bytes | None) -> bool:
    name = host.decode() if isinstance(host, bytes) else host or "localhost"
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return name == "localhost"
    return address.is_loopback or address.is_unspecified


sys.modules["uvloop"] = None  # type: ignore[assignment]
sys.addaudithook(_watch)

"""Templates into answers."""

import gzip
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from fastapi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gateway.config import Settings
from gateway.studio import assets, recall, words

HERE = Path(__file__).parent
ICONS: dict[str, str] = tomllib.loads((HERE / "icons.toml").read_text())
THEMES = ("dark", "light")
THEME_COOKIE = "tenkaigen_theme"


def icon(name: str) -> Markup:
    """An icon of ours as SVG; decoration, so a button needs words beside it or a label."""
    path = Markup('<path d="{}"/>').format(ICONS[name])
    return Markup('<svg class="icon" viewBox="0 0 24 24" aria-hidden="true">{}</svg>').format(path)


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {
        "icon": icon,
        "asset": assets.address,
        "status_words": words.status,
        "ENDED": words.ENDED,
    }
    for name in ("money", "dollars", "seconds", "milliseconds", "ago", "day", "clock"):
        made.filters[name] = getattr(words, name)
    made.filters |= {"query": _query, "request_of": recall.request_of, "before_of": recall.before_of}
    return made


def _query(values: Mapping[str, Any]) -> str:
    return urlencode({name: value for name, value in values.items() if value not in (None, "")})


ENVIRONMENT = _environment()


def render(request: Request, template: str, context: Mapping[str, Any], status: int = 200) -> Response:
    """A page or a part of one, compressed where the browser takes it so."""
    settings: Settings = request.app.state.settings
    theme = request.cookies.get(THEME_COOKIE)
    shown = {
        "path": request.url.path,
        "theme": theme if theme in THEMES else "",
        "public_url": settings.public_url,
        "here": lambda url: here(url, settings),
        **context,
    }
    body = ENVIRONMENT.get_template(template).render(shown).encode()
    headers = security_headers(settings) | {"Vary": "Accept-Encoding, Cookie"}
    if assets.accepts_gzip(request):
        body, headers["Content-Encoding"] = gzip.compress(body, 5), "gzip"
    return Response(body, status, headers, "text/html")


def here(url: str | None, settings: Settings) -> str | None:
    """An address of this gateway without its host: the page may have been opened under another name of it."""
    return url.removeprefix(settings.public_url) if url else url


def security_headers(settings: Settings) -> dict[str, str]:
    """Nothing but our own files runs or is asked; pictures and uploads may live in the project's storage."""
    storage = _origin(settings.supabase_url)
    policy = [
        "default-src 'self'",
        f"img-src 'self' blob: data: {storage}".strip(),
        f"connect-src 'self' {storage}".strip(),
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
    ]
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""

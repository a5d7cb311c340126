"""Where LoRAs may come from: references as users write them, and what is sent to whom on the way there.

hf:<owner>/<repository>[@<revision>]/<file>    a file on Hugging Face
civitai:<versionId>                            a model version on Civitai
https://…                                      a file on one of ``LORA_HOSTS``
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlsplit, urlunsplit

import httpx

from gateway.config import Settings
from gateway.errors import BadRequest
from gateway.outside import OutsideError

Source = Literal["url", "huggingface", "civitai"]

NAME_LIMIT = 100
_HUGGING_FACE = re.compile(
    r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?/(?P<file>[^?#\\]+)", re.ASCII
)
_CIVITAI = re.compile(r"civitai:(?P<version>[0-9]{1,18})")
_SCHEMES = ("hf:", "civitai:", "https://", "http://")


@dataclass(frozen=True)
class Place:
    reference: str
    source: Source
    url: str
    facts_url: str | None = None
    """Where trained words and base model are told, as Civitai does."""

    @property
    def name(self) -> str:
        """For a LoRA that was registered by its reference alone: without a query, which may hold secrets."""
        parts = urlsplit(self.reference)
        plain = urlunsplit(parts._replace(query="", fragment="")) if self.source == "url" else self.reference
        if plain == self.reference and len(plain) <= NAME_LIMIT:
            return plain
        return f"{plain[: NAME_LIMIT - 10]} {hashlib.sha256(self.reference.encode()).hexdigest()[:8]}"


def is_reference(text: str) -> bool:
    """Whether it says where a LoRA is, rather than what it is called."""
    return text.startswith(_SCHEMES)


class Places:
    """Knows the hosts that are allowed, and the tokens of two of them."""

    def __init__(self, settings: Settings) -> None:
        self._hugging_face = settings.hf_endpoint.rstrip("/")
        self._civitai = settings.civitai_endpoint.rstrip("/")
        self._hosts = [host.strip().lower() for host in settings.lora_hosts.split(",") if host.strip()]
        self._allow_http = settings.allow_private_urls
        tokens = {self._hugging_face: settings.hf_token, self._civitai: settings.civitai_token}
        self._tokens = {
            _origin(httpx.URL(endpoint)): token.get_secret_value()
            for endpoint, token in tokens.items()
            if token.get_secret_value()
        }

    def find(self, reference: str) -> Place:
        """BadRequest when it leads nowhere, or to a host that is not allowed."""
        place = self._place(reference)
        self.gate(_parsed(place.url))
        return place

    def gate(self, url: httpx.URL) -> Mapping[str, str]:
        """See ``outside.Gate``: a token goes to its own origin only, so never along with a redirect."""
        if url.scheme != "https" and not self._allow_http:
            raise OutsideError("url_refused", "A LoRA's address must start with https://.")
        if not any(_matches(url.host, pattern) for pattern in self._hosts):
            raise OutsideError("url_refused", f"LoRAs are not fetched from `{url.host[:100]}`.")
        token = self._tokens.get(_origin(url))
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _place(self, reference: str) -> Place:
        if match := _HUGGING_FACE.fullmatch(reference):
            repository, revision, file = match["repository"], match["revision"] or "main", match["file"]
            if not {".", ".."} & set(f"{repository}/{revision}/{file}".split("/")):
                url = f"{self._hugging_face}/{repository}/resolve/{quote(revision)}/{quote(file)}"
                return Place(reference, "huggingface", url)
        if match := _CIVITAI.fullmatch(reference):
            version = match["version"]
            return Place(
                *(reference, "civitai", f"{self._civitai}/api/download/models/{version}"),
                facts_url=f"{self._civitai}/api/v1/model-versions/{version}",
            )
        if reference.startswith(("https://", "http://")):
            return Place(reference, "url", reference)
        raise BadRequest(
            "A LoRA is named as `hf:<owner>/<repository>/<file>`, `civitai:<versionId>` or `https://…`.",
            code="invalid_lora_reference",
            param="url",
        )


def _parsed(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise OutsideError("url_refused", "This is not an address.") from None


def _matches(host: str, pattern: str) -> bool:
    """``*.example.com`` is every name below example.com, and not example.com itself."""
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) >= len(pattern)
    return host == pattern


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port

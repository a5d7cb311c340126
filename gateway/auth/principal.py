"""Who is calling, once a credential was checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

SCOPES = ("generate", "read", "admin")
LOCAL_USER = "you@localhost"
"""The one user of a gateway that runs for whoever sits at the machine."""


@dataclass(frozen=True)
class Principal:
    """A caller whose credential was checked."""

    user_id: UUID
    credential: str
    scopes: frozenset[str]
    verified: Mapping[str, Any] | None = None
    """What was verified beyond the id: the claims of a Supabase token; an API key has none."""

    @property
    def claims(self) -> dict[str, Any]:
        """What row-level security reads, in the shape of a Supabase token."""
        return {**(self.verified or {}), "sub": str(self.user_id), "role": "authenticated"}

    @property
    def email(self) -> str | None:
        return (self.verified or {}).get("email") or None

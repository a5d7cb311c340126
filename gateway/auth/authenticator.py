"""From a request to its caller."""

from typing import TYPE_CHECKING

from fastapi import Request

from gateway.auth.api_keys import KEY_PREFIX, ApiKeys
from gateway.auth.principal import Principal
from gateway.errors import Unauthenticated

if TYPE_CHECKING:
    from gateway.db import Database


class Authenticator:
    """Knows every kind of credential."""

    def __init__(self, db: "Database") -> None:
        self.api_keys = ApiKeys(db)

    async def caller(self, request: Request) -> Principal:
        """Whoever sent this request; Unauthenticated when the credential is missing or not valid."""
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not credential.startswith(KEY_PREFIX):
            raise Unauthenticated()
        return await self.api_keys.principal(credential.strip())

"""Who is calling, and what they may do.

A route of an ``APIRouter(route_class=AuthenticatedRoute)`` names its caller as ``Reader``, ``Generator`` or
``Admin``: the scope that it asks for.
"""

from gateway.auth.api_keys import ApiKeys, key_sha256, new_key
from gateway.auth.authenticator import Authenticator
from gateway.auth.principal import SCOPES, Principal
from gateway.auth.routing import Admin, AuthenticatedRoute, Generator, Reader

__all__ = [
    "SCOPES",
    "Admin",
    "ApiKeys",
    "AuthenticatedRoute",
    "Authenticator",
    "Generator",
    "Principal",
    "Reader",
    "key_sha256",
    "new_key",
]

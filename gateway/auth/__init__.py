"""Who is calling, and what they may do.

A route of an ``APIRouter(route_class=AuthenticatedRoute)`` names its caller as ``Reader``, ``Generator`` or
``Admin``: the scope that it asks for.  ``Caller`` is anybody with a valid credential.
"""

from gateway.auth.api_keys import key_sha256, new_key
from gateway.auth.authenticator import Authenticator
from gateway.auth.principal import LOCAL_USER, SCOPES, Principal
from gateway.auth.routing import Admin, AuthenticatedRoute, Caller, Generator, Reader

__all__ = [
    "LOCAL_USER",
    "SCOPES",
    "Admin",
    "AuthenticatedRoute",
    "Authenticator",
    "Caller",
    "Generator",
    "Principal",
    "Reader",
    "key_sha256",
    "new_key",
]

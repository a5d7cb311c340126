"""Supabase's auth service as far as its documentation goes, in this process and over real HTTP.

It keeps users, sessions and mails in memory, rotates refresh tokens, and signs with real keys.  A test may
put it out of order (``outage``), count what it was asked (``asked``) and mint any token (``token``).
"""

import base64
import hashlib
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

PUBLISHABLE_KEY = "sb_publishable_of-the-tests"
LEGACY_SECRET = "legacy secret of the tests, 32 bytes and more"
VERSION = {"x-supabase-api-version": "2024-01-01"}


class Key:
    """A signing key of the project."""

    def __init__(self, algorithm: str) -> None:
        self.kid, self.algorithm = str(uuid4()), algorithm
        self.private: Any = (
            ec.generate_private_key(ec.SECP256R1())
            if algorithm == "ES256"
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )

    @property
    def public_text(self) -> str:
        """The public key as PEM, which anybody may have."""
        return (
            self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        )

    @property
    def public(self) -> dict[str, Any]:
        """As it stands in the key set."""
        kind = jwt.get_algorithm_by_name(self.algorithm)
        facts = kind.to_jwk(self.private.public_key(), as_dict=True)
        return {**facts, "kid": self.kid, "alg": self.algorithm, "use": "sig"}


@dataclass
class AuthUser:
    email: str
    password: str = "correct horse"
    id: str = field(default_factory=lambda: str(uuid4()))
    app_metadata: dict[str, Any] = field(default_factory=dict)
    user_metadata: dict[str, Any] = field(default_factory=dict)
    confirmed: bool = True
    banned: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("id", "email", "app_metadata", "user_metadata")}
        return {
            **named,
            "aud": "authenticated",
            "role": "authenticated",
            "created_at": "2026-11-01T00:00:00Z",
        }


@dataclass
class AuthSession:
    user: AuthUser
    id: str = field(default_factory=lambda: str(uuid4()))
    refresh_token: str = ""
    spent: dict[str, float] = field(default_factory=dict)
    """Refresh tokens that were used, and when."""


@dataclass
class Mail:
    """A sign-in link that was sent, in both of its forms."""

    user: AuthUser
    redirect_to: str
    challenge: str
    code: str = field(default_factory=lambda: str(uuid4()))
    token_hash: str = field(default_factory=lambda: "pkce_" + secrets.token_hex(28))


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"code": code, "message": message}


class AuthServer:
    """``async with serve(server.app) as url: server.url = url``"""

    def __init__(self) -> None:
        self.url = ""
        self.es256, self.rs256 = Key("ES256"), Key("RS256")
        self.keys = [self.es256, self.rs256]
        self.users: dict[str, AuthUser] = {}
        self.sessions: dict[str, AuthSession] = {}
        self.mails: list[Mail] = []
        self.asked: Counter[str] = Counter()
        self.outage: int | None = None
        """Status that everything is answered with, in HTML, as a proxy before a dead service does."""
        self.rate_limited = False
        self.token_seconds = 3600
        self.reuse_seconds = 10.0
        """How long a spent refresh token is forgiven: two tabs may hold the same."""
        self.app = FastAPI()
        self.app.middleware("http")(self._count)
        self.app.exception_handler(Refusal)(self._refuse)
        self.app.get("/auth/v1/.well-known/jwks.json")(self._key_set)
        self.app.post("/auth/v1/token")(self._token)
        self.app.post("/auth/v1/otp")(self._otp)
        self.app.post("/auth/v1/verify")(self._verify)
        self.app.post("/auth/v1/logout")(self._logout)
        self.app.get("/auth/v1/verify")(self._follow)

    @property
    def issuer(self) -> str:
        return f"{self.url}/auth/v1"

    def add(self, user: AuthUser) -> AuthUser:
        self.users[user.email] = user
        return user

    def claims(self, user: AuthUser, **changes: Any) -> dict[str, Any]:
        """What a token of this user says; a change to None leaves the claim out."""
        now = int(time.time())
        told = {
            **{"iss": self.issuer, "sub": user.id, "aud": "authenticated", "role": "authenticated"},
            **{"exp": now + self.token_seconds, "iat": now, "email": user.email, "phone": ""},
            **{"app_metadata": user.app_metadata, "user_metadata": user.user_metadata},
            **{"session_id": str(uuid4()), "aal": "aal1", "is_anonymous": False, **changes},
        }
        return {name: value for name, value in told.items() if value is not None}

    def token(self, user: AuthUser, key: Key | None = None, **changes: Any) -> str:
        key = key or self.es256
        return jwt.encode(self.claims(user, **changes), key.private, key.algorithm, {"kid": key.kid})

    def legacy_token(self, user: AuthUser, **changes: Any) -> str:
        return jwt.encode(self.claims(user, **changes), LEGACY_SECRET, "HS256")

    # What it answers

    async def _count(self, request: Request, call_next: Any) -> Response:
        self.asked[request.url.path.rpartition("/")[2]] += 1
        if self.outage:
            return Response("<h1>upstream</h1>", self.outage, media_type="text/html")
        if request.method == "POST" and request.headers.get("apikey") != PUBLISHABLE_KEY:
            return JSONResponse({"message": "Invalid API key"}, 401)
        answer: Response = await call_next(request)
        return answer

    async def _refuse(self, request: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, Refusal)
        return JSONResponse(refusal.body, refusal.status, VERSION)

    async def _key_set(self) -> dict[str, Any]:
        return {"keys": [key.public for key in self.keys]}

    async def _token(self, request: Request, grant_type: str) -> Response:
        if self.rate_limited:
            raise Refusal(429, "over_request_rate_limit", "Request rate limit reached")
        grants = {"password": self._by_password, "refresh_token": self._by_refresh, "pkce": self._by_code}
        session = grants[grant_type](await request.json())
        return JSONResponse(self._answer(session))

    def _by_password(self, body: dict[str, Any]) -> AuthSession:
        user = self.users.get(body["email"])
        if user is None or user.password != body["password"]:
            raise Refusal(400, "invalid_credentials", "Invalid login credentials")
        if user.banned:
            raise Refusal(400, "user_banned", "User is banned")
        if not user.confirmed:
            raise Refusal(400, "email_not_confirmed", "Email not confirmed")
        return self._begin(user)

    def _by_refresh(self, body: dict[str, Any]) -> AuthSession:
        for session in self.sessions.values():
            if session.refresh_token == body["refresh_token"]:
                session.spent[session.refresh_token] = time.monotonic()
                session.refresh_token = secrets.token_urlsafe(9)
                return session
            spent_at = session.spent.get(body["refresh_token"])
            if spent_at is not None:
                if time.monotonic() - spent_at < self.reuse_seconds:
                    return session
                del self.sessions[session.id]
                raise Refusal(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")
        raise Refusal(400, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found")

    def _by_code(self, body: dict[str, Any]) -> AuthSession:
        mail = next((mail for mail in self.mails if mail.code == body["auth_code"]), None)
        if mail is None:
            raise Refusal(404, "flow_state_not_found", "invalid flow state, no valid flow state found")
        digest = hashlib.sha256((body["code_verifier"] or "").encode()).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != mail.challenge:
            raise Refusal(
                400, "bad_code_verifier", "code challenge does not match previously saved code verifier"
            )
        self.mails.remove(mail)
        return self._begin(mail.user)

    async def _otp(self, request: Request, redirect_to: str = "") -> dict[str, Any]:
        body = await request.json()
        if self.rate_limited:
            raise Refusal(429, "over_email_send_rate_limit", "For security purposes, wait 60 seconds")
        user = self.users.get(body["email"])
        if user is None:
            assert body["create_user"] is False, "the studio signs nobody up"
            raise Refusal(422, "otp_disabled", "Signups not allowed for otp")
        self.mails.append(Mail(user, redirect_to, body["code_challenge"]))
        return {}

    async def _follow(self, token: str, redirect_to: str) -> Response:
        """What the link of a mail opens unless its template says otherwise."""
        mail = next((mail for mail in self.mails if mail.token_hash == token), None)
        if mail is None:
            why = "error=access_denied&error_code=otp_expired&error_description=Email+link+is+invalid"
            return RedirectResponse(f"{redirect_to}?{why}", 303)
        return RedirectResponse(f"{redirect_to}?code={mail.code}", 303)

    async def _verify(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        mail = next((mail for mail in self.mails if mail.token_hash == body["token_hash"]), None)
        if mail is None:
            raise Refusal(403, "otp_expired", "Email link is invalid or has expired")
        self.mails.remove(mail)
        return self._answer(self._begin(mail.user))

    async def _logout(self, request: Request, scope: str) -> Response:
        token = request.headers["authorization"].removeprefix("Bearer ")
        claims = jwt.decode(token, options={"verify_signature": False})
        assert scope == "local"
        if self.sessions.pop(claims["session_id"], None) is None:
            raise Refusal(403, "session_not_found", "Session from session_id claim in JWT does not exist")
        return Response(status_code=204)

    def _begin(self, user: AuthUser) -> AuthSession:
        session = AuthSession(user, refresh_token=secrets.token_urlsafe(9))
        self.sessions[session.id] = session
        return session

    def _answer(self, session: AuthSession) -> dict[str, Any]:
        return {
            **{"access_token": self.token(session.user, session_id=session.id), "token_type": "bearer"},
            **{"expires_in": self.token_seconds, "expires_at": int(time.time()) + self.token_seconds},
            **{"refresh_token": session.refresh_token, "user": session.user.facts},
        }

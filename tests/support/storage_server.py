"""Supabase Storage's HTTP behaviour, as far as the gateway relies on it, in memory.

Written after answers of the real service (supabase/storage at 4fa61fb) and its source: nearly every error
is HTTP 400 with the real status as a string in the body; an unknown credential makes buckets look missing;
``remove`` leaves out what it did not remove; signatures are JWTs bound to one path.  It knows no users and
no policies: the one key it takes is the service's.
"""

import datetime
import hashlib
import re
import time
from collections import deque
from collections.abc import Callable, Coroutine, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

SECRET = "sb_secret_of_the_tests"
SIGNING_KEY = "signs what the server signs, 32 bytes and more"
UPLOAD_SECONDS = 7200
VALID_KEY = re.compile(r"[\w/!.*'() &$@=;:+,?-]+", re.ASCII)

HANG, LOSE_ANSWER, BREAK_OFF = "hang", "lose answer", "break off"
"""Faults beside plain statuses: never answer; do it and close without an answer; close amid the body."""


class Refused(Exception):
    """An error as the service words it."""

    def __init__(self, status: int, error: str, message: str, code: str) -> None:
        self.body = {"statusCode": str(status), "error": error, "message": message, "code": code}
        self.http_status = status if status in (429, 500, 544) else 400


NO_BUCKET = Refused(404, "Bucket not found", "Bucket not found", "NoSuchBucket")
NO_KEY = Refused(404, "not_found", "Object not found", "NoSuchKey")
DUPLICATE = Refused(409, "Duplicate", "The resource already exists", "KeyAlreadyExists")
FORBIDDEN = Refused(403, "Unauthorized", "Invalid Compact JWS", "AccessDenied")
TOO_LARGE = Refused(
    413, "Payload too large", "The object exceeded the maximum allowed size", "EntityTooLarge"
)
BUSY = Refused(429, "too_many_connections", "Too many connections issued to the database", "SlowDown")
BROKEN = Refused(500, "Internal", "Internal Server Error", "InternalError")


@dataclass
class StoredObject:
    content: bytes
    content_type: str
    cache_control: str
    id: str = field(default_factory=lambda: str(uuid4()))
    created_at: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    @property
    def etag(self) -> str:
        """That of a write in parts: no hash of the whole."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}-1"'

    @property
    def metadata(self) -> dict[str, Any]:
        size, written = len(self.content), self.created_at.isoformat()
        facts = {"size": size, "contentLength": size, "mimetype": self.content_type, "eTag": self.etag}
        return {**facts, "cacheControl": self.cache_control, "lastModified": written, "httpStatusCode": 200}


@dataclass
class StoredBucket:
    limit_bytes: int = 52_428_800
    types: tuple[str, ...] = ("image/png", "image/jpeg", "image/webp")
    objects: dict[str, StoredObject] = field(default_factory=dict)


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StorageServer:
    """An ASGI app.  ``faults`` strike the next requests, one each; None lets a request pass."""

    def __init__(self) -> None:
        self.secret = SECRET
        self.buckets = {
            "generated-designs": StoredBucket(67_108_864),
            "uploads": StoredBucket(),
            "loras": StoredBucket(2_147_483_648, ("application/octet-stream",)),
        }
        self.faults: deque[int | str | None] = deque()
        self.requests: list[str] = []
        self.kept: set[str] = set()
        """Keys that ``remove`` passes over without a word."""
        self._app = Starlette(routes=[*self._routes()])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self.requests.append(f"{scope['method']} {scope['path']}")
        fault = self.faults.popleft() if self.faults else None
        if fault == HANG:
            while (await receive())["type"] != "http.disconnect":
                pass
        elif fault in (LOSE_ANSWER, BREAK_OFF):
            await self._app(scope, receive, _Breaking(send, keep=0 if fault == LOSE_ANSWER else 0.5))
        elif isinstance(fault, int):
            await _faulty(fault)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _routes(self) -> list[Route]:
        routes: list[tuple[str, str, Handler, bool]] = [
            ("GET", "/bucket/{bucket}", self._get_bucket, True),
            ("POST", "/object/upload/sign/{bucket}/{key:path}", self._sign_upload, True),
            ("PUT", "/object/upload/sign/{bucket}/{key:path}", self._upload_signed, False),
            ("POST", "/object/sign/{bucket}", self._sign_many, True),
            ("GET", "/object/sign/{bucket}/{key:path}", self._download_signed, False),
            ("GET", "/object/info/{bucket}/{key:path}", self._info, True),
            ("POST", "/object/list-v2/{bucket}", self._list, True),
            ("GET", "/object/authenticated/{bucket}/{key:path}", self._download, True),
            ("GET", "/object/{bucket}/{key:path}", self._download, True),
            ("POST", "/object/{bucket}/{key:path}", self._upload, True),
            ("DELETE", "/object/{bucket}", self._remove, True),
        ]
        return [
            Route(f"/storage/v1{path}", self._answered(handler, secret), methods=[method])
            for method, path, handler, secret in routes
        ]

    def _answered(self, handler: Handler, needs_secret: bool) -> Handler:
        async def answer(request: Request) -> Response:
            try:
                if needs_secret and request.headers.get("authorization") != f"Bearer {self.secret}":
                    lenient = request.method == "GET" and "authenticated" not in request.url.path
                    raise NO_BUCKET if lenient else FORBIDDEN
                return await handler(request)
            except Refused as refused:
                return JSONResponse(refused.body, refused.http_status)

        return answer

    async def _get_bucket(self, request: Request) -> Response:
        name, now = request.path_params["bucket"], datetime.datetime.now(datetime.UTC).isoformat()
        bucket = self._bucket(request)
        facts = {"id": name, "name": name, "owner": "", "public": False, "created_at": now, "updated_at": now}
        limits = {"file_size_limit": bucket.limit_bytes, "allowed_mime_types": list(bucket.types)}
        return JSONResponse(facts | limits)

    async def _upload(self, request: Request) -> Response:
        key = _valid(request.path_params["key"])
        bucket = self._bucket(request)
        if key in bucket.objects and request.headers.get("x-upsert") != "true":
            raise DUPLICATE
        bucket.objects[key] = _checked(bucket, await _received(request))
        return JSONResponse({"Key": f"{request.path_params['bucket']}/{key}", "Id": bucket.objects[key].id})

    async def _sign_upload(self, request: Request) -> Response:
        bucket, key = self._bucket(request), _valid(request.path_params["key"])
        if key in bucket.objects:
            raise DUPLICATE
        path = f"{request.path_params['bucket']}/{key}"
        token = _token(path, "upload", UPLOAD_SECONDS)
        return JSONResponse({"url": f"/object/upload/sign/{path}?token={token}", "token": token})

    async def _upload_signed(self, request: Request) -> Response:
        _require_signature(request, "upload")
        return await self._upload(request)

    async def _sign_many(self, request: Request) -> Response:
        name, bucket, wanted = request.path_params["bucket"], self._bucket(request), await request.json()
        if not 1 <= len(wanted["paths"]) <= 1000:
            raise Refused(400, "Error", "body/paths must NOT have more than 1000 items", "InvalidRequest")
        missing = "Either the object does not exist or you do not have access to it"
        answers = []
        for key in wanted["paths"]:
            there = key in bucket.objects
            token = _token(f"{name}/{key}", "download", int(wanted["expiresIn"]))
            address = f"/object/sign/{name}/{key}?token={token}" if there else None
            answers.append({"error": None if there else missing, "path": key, "signedURL": address})
        return JSONResponse(answers)

    async def _download_signed(self, request: Request) -> Response:
        expires = _require_signature(request, "download")
        answer = await self._download(request)
        del answer.headers["cache-control"]
        answer.headers["expires"] = datetime.datetime.fromtimestamp(expires, datetime.UTC).strftime(
            "%a, %d %b %Y %H:%M:%S GMT"
        )
        return answer

    async def _download(self, request: Request) -> Response:
        found = self._object(request)
        headers = {"etag": found.etag, "cache-control": found.cache_control, "accept-ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if wanted is None:
            return Response(found.content, media_type=found.content_type, headers=headers)
        first, size = int(wanted[1]), len(found.content)
        last = min(int(wanted[2] or size), size - 1)
        headers["content-range"] = f"bytes {first}-{last}/{size}"
        return Response(found.content[first : last + 1], 206, headers, found.content_type)

    async def _info(self, request: Request) -> Response:
        found, key = self._object(request), request.path_params["key"]
        written = found.created_at.isoformat()
        facts = {"id": found.id, "name": key, "bucket_id": request.path_params["bucket"], "metadata": {}}
        content = {"size": len(found.content), "content_type": found.content_type, "etag": found.etag}
        times = {"last_modified": written, "created_at": written, "cache_control": found.cache_control}
        return JSONResponse(facts | content | times)

    async def _list(self, request: Request) -> Response:
        wanted = await request.json()
        prefix, after = wanted.get("prefix", ""), wanted.get("cursor", "")
        objects = sorted(self._bucket(request).objects.items())
        found = [(key, o) for key, o in objects if key.startswith(prefix) and key > after]
        page = found[: min(wanted.get("limit", 1000), 1000)]
        more = len(page) < len(found)
        shown = []
        for key, stored in page:
            times = {"created_at": stored.created_at.isoformat(), "updated_at": stored.created_at.isoformat()}
            shown.append({"id": stored.id, "name": key, "metadata": stored.metadata, **times})
        cursor = {"nextCursor": page[-1][0]} if more else {}
        return JSONResponse({"hasNext": more, "folders": [], "objects": shown, **cursor})

    async def _remove(self, request: Request) -> Response:
        bucket = self._bucket(request)
        prefixes = (await request.json())["prefixes"]
        if len(prefixes) > 1000:
            raise Refused(400, "InvalidRequest", "limited to 1000 objects per request", "InvalidRequest")
        going = [key for key in prefixes if key in bucket.objects and key not in self.kept]
        removed = [{"name": key, "id": bucket.objects.pop(key).id} for key in going]
        return JSONResponse(removed)

    def _bucket(self, request: Request) -> StoredBucket:
        if request.path_params["bucket"] not in self.buckets:
            raise NO_BUCKET
        return self.buckets[request.path_params["bucket"]]

    def _object(self, request: Request) -> StoredObject:
        objects = self._bucket(request).objects
        if request.path_params["key"] not in objects:
            raise NO_KEY
        return objects[request.path_params["key"]]


class _Breaking:
    """``send`` that passes on a share of the body and then falls silent; uvicorn closes the connection."""

    def __init__(self, send: Send, keep: float) -> None:
        self._send = send
        self._keep = keep

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            await self._send(message)
        else:
            body = message.get("body", b"")
            await self._send({**message, "body": body[: int(len(body) * self._keep)], "more_body": True})


def _faulty(status: int) -> Response:
    """502 and 503 come from what stands in front of the service."""
    if status in (502, 503, 504):
        return HTMLResponse("<h1>Bad Gateway</h1>", status)
    refused = BUSY if status == 429 else BROKEN
    return JSONResponse(refused.body, refused.http_status)


async def _received(request: Request) -> StoredObject:
    """Multipart, as the client sends it, or the bare bytes."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        caching = request.headers.get("cache-control", "no-cache")
        return StoredObject(await request.body(), request.headers.get("content-type", ""), caching)
    async with request.form() as form:
        file, caching = form["file"], form.get("cacheControl")
        assert not isinstance(file, str)
        content = await file.read()
        return StoredObject(content, file.content_type or "", f"max-age={caching}" if caching else "no-cache")


def _checked(bucket: StoredBucket, received: StoredObject) -> StoredObject:
    if received.content_type not in bucket.types:
        message = f"mime type {received.content_type} is not supported"
        raise Refused(415, "invalid_mime_type", message, "InvalidMimeType")
    if len(received.content) > bucket.limit_bytes:
        raise TOO_LARGE
    return received


def _valid(key: str) -> str:
    if not VALID_KEY.fullmatch(key):
        raise Refused(400, "InvalidKey", f"Invalid key: {key}", "InvalidKey")
    return key


def _token(path: str, scope: str, seconds: int) -> str:
    claims = {"url": path, "scope": scope, "exp": int(time.time()) + seconds}
    return jwt.encode(claims, SIGNING_KEY, "HS256")


def _require_signature(request: Request, scope: str) -> int:
    """When the signature ends."""
    try:
        claims = jwt.decode(request.query_params.get("token", ""), SIGNING_KEY, ["HS256"])
    except jwt.PyJWTError as error:
        raise Refused(400, "InvalidJWT", str(error), "InvalidJWT") from None
    if (claims["url"], claims["scope"]) != ("{bucket}/{key}".format(**request.path_params), scope):
        raise Refused(400, "InvalidSignature", "Invalid signature", "InvalidSignature")
    return int(claims["exp"])

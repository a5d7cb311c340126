"""What an edit brings: the fields and pictures of a form, or of JSON."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway.errors import Malformed, PayloadTooLarge, UnsupportedMedia
from gateway.openai.schemas import structured
from gateway.openai.translation import STRUCTURED

FILES_LIMIT = 16
FIELDS_LIMIT = 100
NESTED_LIMIT = 3
"""Brackets of a field's name: `loras[][lora]` has two."""

_PICTURES = ("image", "image[]", "url", "url[]")
_BRACKETS = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)")
_DATA_URL = re.compile(r"data:image/[a-z+.-]+;base64,", re.IGNORECASE)


@dataclass(frozen=True)
class Brought:
    """One picture: its bytes, its address, or the id of an upload."""

    field: str
    content: bytes | None = None
    filename: str = ""
    url: str | None = None
    upload_id: UUID | None = None

    @property
    def identity(self) -> str:
        """Equal for equal pictures."""
        if self.content is not None:
            return hashlib.sha256(self.content).hexdigest()
        return self.url or str(self.upload_id)


@dataclass
class Form:
    fields: dict[str, Any] = field(default_factory=dict)
    pictures: list[Brought] = field(default_factory=list)
    mask: Brought | None = None

    @property
    def canonical(self) -> dict[str, Any]:
        """The pictures as plain JSON: equal for requests that bring the same."""
        mask = self.mask.identity if self.mask else None
        return {"pictures": [each.identity for each in self.pictures], "mask": mask}


async def read(request: Request) -> Form:
    """The body of an edit; UnsupportedMedia, Malformed, PayloadTooLarge."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _from_json(await _json(request))
    if kind != "multipart/form-data":
        raise UnsupportedMedia("The body must be multipart/form-data or application/json.")
    try:
        async with request.form(max_files=FILES_LIMIT, max_fields=FIELDS_LIMIT) as parts:
            return await _from_parts(parts)
    except ClientDisconnect:
        raise Malformed("The body ended too early.", code="invalid_form") from None
    except HTTPException as error:
        raise _refusal(error) from None


def _refusal(error: HTTPException) -> Exception:
    if error.status_code != 400:
        return error
    if str(error.detail).startswith("Too many files"):
        return PayloadTooLarge(f"A form has at most {FILES_LIMIT} files here.")
    return Malformed("The body is not a valid form.", code="invalid_form")


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError, ClientDisconnect):
        raise Malformed("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise Malformed("The body must be a JSON object.")
    return body


def _from_json(body: dict[str, Any]) -> Form:
    """OpenAI's ``images`` and ``mask``, each `{"image_url"}` or `{"file_id"}`; ``image`` is known too."""
    form = Form()
    for name, value in body.items():
        if value is None:
            continue
        if name in ("images", "image"):
            listed = value if isinstance(value, list) else [value]
            form.pictures += [_named(name, each) for each in listed]
        elif name == "mask":
            form.mask = _named(name, value)
        else:
            form.fields[name] = value
    return form


def _named(name: str, value: Any) -> Brought:
    """A picture that JSON names, by a string or an object."""
    if isinstance(value, str):
        return _addressed(name, value)
    if isinstance(value, dict) and len(value) == 1:
        ((kind, text),) = value.items()
        if kind == "image_url" and isinstance(text, str):
            return _addressed(name, text)
        if kind in ("file_id", "upload_id") and isinstance(text, str):
            return Brought(name, upload_id=_uuid(name, text))
    raise Malformed(f'`{name}` is an address, {{"image_url"}} or {{"file_id"}}.', param=name)


def _addressed(name: str, text: str) -> Brought:
    """An address, which may hold the picture itself."""
    found = _DATA_URL.match(text)
    if not found:
        return Brought(name, url=text)
    try:
        return Brought(name, content=base64.b64decode(text[found.end() :], validate=True))
    except (binascii.Error, ValueError):
        raise Malformed(f"`{name}` is not valid base64.", param=name) from None


def _uuid(name: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Malformed(f"`{name}`: {text[:64]!r} is not the id of an upload.", param=name) from None


async def _from_parts(parts: FormData) -> Form:
    form = Form()
    for name, value in parts.multi_items():
        if isinstance(value, UploadFile):
            brought = Brought(name.removesuffix("[]"), await value.read(), value.filename or "")
        elif name in (*_PICTURES, "mask") and value:
            brought = _addressed(name.removesuffix("[]"), value)
        else:
            _put(form.fields, name, value)
            continue
        if name == "mask":
            form.mask = brought
        elif name in _PICTURES:
            form.pictures.append(brought)
        else:
            form.fields[name] = None if brought.content is None else brought.filename  # refused by its name
    for name in STRUCTURED:
        if name in form.fields:
            form.fields[name] = structured(form.fields[name], name)
    return form


def _put(fields: dict[str, Any], name: str, value: str) -> None:
    """One text of a form: `name`, or how SDKs spell what is nested, `metadata[key]` and `loras[][lora]`."""
    if value == "":
        return
    found = _BRACKETS.fullmatch(name)
    if not found:
        fields[name] = value
        return
    keys = [key[:-1] for key in found.group(2).split("[")[1:]]
    if len(keys) > NESTED_LIMIT:
        raise Malformed(f"`{name[:64]}` is nested too deeply.", param=name[:64])
    _put_nested(fields, [found.group(1), *keys], value)


def _put_nested(into: dict[str, Any], keys: list[str], value: str) -> None:
    """`a[b]` is a field of an object; `a[]` is the next of a list, `a[][b]` a field of its last object."""
    name, *rest = keys
    if not rest:
        into[name] = value
    elif rest[0]:
        _put_nested(_container(into, name, {}), rest, value)
    else:
        listed = _container(into, name, [])
        if len(rest) == 1:
            listed.append(value)
            return
        if not listed or not isinstance(listed[-1], dict) or rest[1] in listed[-1]:
            listed.append({})
        _put_nested(listed[-1], rest[1:], value)


def _container(into: dict[str, Any], name: str, empty: Any) -> Any:
    """What stands under a name, made where nothing does; Malformed when that is something else."""
    found = into.setdefault(name, empty)
    if type(found) is not type(empty):
        raise Malformed(f"`{name[:64]}` is given in two ways.", param=name[:64])
    return found

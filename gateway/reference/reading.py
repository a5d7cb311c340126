"""The document as the page reads it: sections of operations, flat lists of fields, code in colours."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from markupsafe import Markup, escape

Json = dict[str, Any]

DEPTH = 3
"""Levels of fields within fields that a table shows."""
_TOKEN = re.compile(
    r'(?P<key>"(?:[^"\\]|\\.)*"(?=\s*:))|(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>true|false|null|-?\d[\d.e+-]*)'
)


@dataclass(frozen=True)
class Field:
    name: str
    kind: str
    required: bool
    told: str
    where: str = ""


@dataclass(frozen=True)
class Code:
    """Something to copy, or to compare with."""

    title: str
    text: Markup


@dataclass(frozen=True)
class Operation:
    id: str
    method: str
    path: str
    summary: str
    told: str
    open: bool
    """Needs no credential."""
    parameters: list[Field]
    body: list[Field]
    codes: list[Code]
    returns: list[tuple[str, str]]
    """Status and the object that it comes with."""
    errors: list[tuple[str, str]]
    """Status and phrase."""


@dataclass(frozen=True)
class Section:
    name: str
    told: str
    operations: list[Operation]

    @property
    def id(self) -> str:
        return self.name.lower().replace(" ", "-")


class Reading:
    """One document, read."""

    def __init__(self, document: Json) -> None:
        self._document = document
        self._schemas: Json = document["components"]["schemas"]

    @property
    def sections(self) -> list[Section]:
        operations = [
            (operation["tags"][0], self._operation(path, method, operation))
            for path, methods in self._document["paths"].items()
            for method, operation in methods.items()
        ]
        return [
            Section(
                tag["name"], tag["description"], [each for name, each in operations if name == tag["name"]]
            )
            for tag in self._document["tags"]
        ]

    @property
    def problems(self) -> list[tuple[int, str, str]]:
        """Status, code and meaning of every error."""
        answers = self._document["components"]["responses"].values()
        examples = [next(iter(answer["content"].values()))["example"] for answer in answers]
        return sorted({(shown["status"], shown["code"], shown["detail"]) for shown in examples})

    @property
    def objects(self) -> list[tuple[str, str, list[Field]]]:
        """Name, meaning and fields of what answers are made of."""
        named = {
            schema for section in self.sections for each in section.operations for _, schema in each.returns
        }
        return [
            (name, self._schemas[name].get("description", ""), list(self._fields(self._schemas[name])))
            for name in sorted(named)
            if name in self._schemas
        ]

    def _operation(self, path: str, method: str, operation: Json) -> Operation:
        return Operation(
            id=operation["operationId"],
            method=method.upper(),
            path=path,
            summary=operation["summary"],
            told=operation.get("description", ""),
            open="security" not in operation,
            parameters=[self._parameter(each) for each in operation.get("parameters", [])],
            body=self._body(operation),
            codes=list(_codes(path, method.upper(), operation)),
            returns=_returns(operation),
            errors=[
                (status, HTTPStatus(int(status)).phrase)
                for status, answer in operation["responses"].items()
                if "$ref" in answer
            ],
        )

    def _parameter(self, parameter: Json) -> Field:
        told = parameter.get("description", "")
        kind = self._kind(parameter["schema"]).removesuffix(" or null") + _default(parameter["schema"])
        return Field(parameter["name"], kind, parameter.get("required", False), told, parameter["in"])

    def _body(self, operation: Json) -> list[Field]:
        contents = list(operation.get("requestBody", {}).get("content", {}).values())
        return list(self._fields(contents[0]["schema"])) if contents else []

    def _fields(self, schema: Json, prefix: str = "", depth: int = 1) -> Iterator[Field]:
        found = self._resolved(schema)
        for name, field in found.get("properties", {}).items():
            required = name in found.get("required", [])
            kind = self._kind(field) + _default(field)
            yield Field(f"{prefix}{name}", kind, required, field.get("description", ""))
            inner, mark = self._inner(field)
            if inner and depth < DEPTH:
                yield from self._fields(inner, f"{prefix}{name}{mark}.", depth + 1)

    def _inner(self, schema: Json) -> tuple[Json | None, str]:
        """The object that a field holds, or a list of; None where it holds none."""
        choices = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
        chosen = choices[0] if len(choices) == 1 else {}
        mark = "[]" if chosen.get("type") == "array" else ""
        chosen = chosen.get("items", {}) if mark else chosen
        return (chosen, mark) if "properties" in self._resolved(chosen) else (None, "")

    def _resolved(self, schema: Json) -> Json:
        schema = next((each for each in schema.get("anyOf", []) if "$ref" in each), schema)
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        return self._schemas[name] if name else schema

    def _kind(self, schema: Json) -> str:
        """A type in words."""
        if "$ref" in schema:
            resolved = self._resolved(schema)
            return "object" if "properties" in resolved else self._kind(resolved)
        if "anyOf" in schema:
            return " or ".join(dict.fromkeys(self._kind(each) for each in schema["anyOf"]))
        if "enum" in schema or "const" in schema:
            return " | ".join(str(each) for each in schema.get("enum", [schema.get("const")]))
        if schema.get("type") == "array":
            return f"list of {self._kind(schema.get('items', {}))}"
        return f"{schema.get('format') or schema.get('type', 'anything')}{_limits(schema)}"


def _default(schema: Json) -> str:
    default = schema.get("default")
    return "" if default in (None, "", [], {}) else f", default {json.dumps(default)}"


def _limits(schema: Json) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None and high is not None and abs(high) < 1e6:
        return f" {low:g} to {high:g}"
    if "maxLength" in schema:
        return f" up to {schema['maxLength']:,} characters"
    return ""


def _returns(operation: Json) -> list[tuple[str, str]]:
    returned = []
    for status, answer in operation["responses"].items():
        if "$ref" not in answer:
            schemas = [content.get("schema", {}) for content in answer.get("content", {}).values()]
            named = next((schema["$ref"] for schema in schemas if "$ref" in schema), "")
            returned.append((status, named.rpartition("/")[2]))
    return returned


def _codes(path: str, method: str, operation: Json) -> Iterator[Code]:
    yield Code("curl", _coloured_shell(_curl(path, method, operation)))
    for status, answer in operation["responses"].items():
        for kind, content in answer.get("content", {}).items():
            if "example" in content:
                yield Code(f"{status} {kind}", coloured(content["example"]))


def _curl(path: str, method: str, operation: Json) -> str:
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter.get("example", "")))
    words = [f"curl{'' if method == 'GET' else f' -X {method}'} $TENKAIGEN{path}"]
    if "security" in operation:
        words.append('-H "Authorization: Bearer $TENKAIGEN_KEY"')
    contents: dict[str, Json] = operation.get("requestBody", {}).get("content", {})
    for kind, content in list(contents.items())[:1]:
        if kind == "multipart/form-data":
            words += [f"-F {shlex.quote(_part(*each))}" for each in content["example"].items()]
        elif "example" in content:
            words += [f"-H 'Content-Type: {kind}'", f"-d {shlex.quote(_json(content['example']))}"]
    return " \\\n  ".join(words)


def _part(name: str, value: Any) -> str:
    found = re.search(r"\(the bytes of (.+)\)", str(value))
    return f"{name}=@{found[1]}" if found else f"{name}={value}"


def _coloured_shell(text: str) -> Markup:
    return Markup(re.sub(r"(\$[A-Z_]+)", r'<span class="word">\1</span>', str(escape(text))))  # noqa: S704


def coloured(example: Any) -> Markup:
    """JSON with its keys, texts and values marked; other text as it is."""
    if isinstance(example, str):
        return escape(example)
    text, parts, at = _json(example), [], 0
    for token in _TOKEN.finditer(text):
        span = Markup('<span class="{}">{}</span>').format(token.lastgroup, token[0])
        parts += [escape(text[at : token.start()]), span]
        at = token.end()
    return Markup("").join([*parts, escape(text[at:])])


def _json(value: Any) -> str:
    """Over several lines, short lists on one."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return re.sub(r"\[\s+([^\[\]{}]{0,60}?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def breakable(path: str) -> Markup:
    """A path that may go on in the next line after a slash."""
    return Markup("/<wbr>").join(path.split("/"))


def prose(text: str) -> Markup:
    """Words with `code` in them, paragraphs apart."""
    marked = re.sub(r"`+([^`]+)`+", r"<code>\1</code>", str(escape(text)))
    return Markup(marked.strip().replace("\n\n", "</p><p>"))  # noqa: S704 - escaped above

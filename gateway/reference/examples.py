"""Examples for the document, put together from the slices' ``examples.toml``.

A file has a table for each schema, by its name.  A field that is left out though an answer always has it is
the example of its own schema, or null.  ``_like = "Other"`` begins with the example of another schema;
``"@Other"`` stands for that example.  ``<Schema>Accepted`` is what an answer 202 shows instead.
"""

import tomllib
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_SLICES = Path(__file__).parents[1]
_REFERENCE = "#/components/schemas/"


class Examples:
    """Examples of the schemas of one document."""

    def __init__(self, schemas: dict[str, Json]) -> None:
        self._schemas = schemas
        self._written: Json = {}
        for path in sorted(_SLICES.glob("*/examples.toml")):
            self._written |= tomllib.loads(path.read_text())

    def parameter(self, name: str) -> Any:
        return self._written["parameters"].get(name)

    def of(self, schema: Json, status: str = "200") -> Any:
        """An example for a body or an answer; None where none is written."""
        schema = next((each for each in schema.get("anyOf", []) if "$ref" in each), schema)
        name = str(schema.get("$ref", schema.get("title", ""))).removeprefix(_REFERENCE)
        accepted = f"{name}Accepted"
        chosen = accepted if status == "202" and accepted in self._written else name
        return self._named(chosen, self._schemas.get(name, schema))

    def _named(self, name: str, schema: Json) -> Any:
        written = self._written.get(name)
        if isinstance(written, str):
            return written.lstrip("\n")
        fields = schema.get("properties", {})
        if written is None and "object" in fields and fields.get("data", {}).get("type") == "array":
            return self._list(fields)
        if written is None and not schema.get("required"):
            return None
        return self._completed(self._resolved(written or {}), schema)

    def _list(self, fields: Json) -> Json:
        data = self._value(fields["data"])
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data and "first_id" in fields else {}
        return {"object": "list", "data": data, "has_more": False, **ends}

    def _completed(self, written: Json, schema: Json) -> Json:
        """In the order of the schema, with every field that an answer always has."""
        found, fields = dict(written), schema.get("properties", {})
        constant = [name for name, field in fields.items() if "const" in field]
        for name in [*schema.get("required", []), *constant]:
            if name not in found:
                found[name] = self._value(fields[name])
            elif isinstance(found[name], dict) and "$ref" in fields[name]:
                found[name] = self._completed(found[name], self._schemas[_target(fields[name])])
        order = [*fields, *(name for name in found if name not in fields)]
        return {name: found[name] for name in order if name in found}

    def _value(self, schema: Json) -> Any:
        """Of a field that nobody has written anything for."""
        if "$ref" in schema:
            return self._of_component(_target(schema))
        if schema.get("type") == "array":
            item = self._value(schema["items"])
            return [] if item is None else [item]
        return schema.get("const", schema.get("default"))

    def _of_component(self, name: str) -> Any:
        known = name if name in self._schemas else name.removesuffix("Accepted")
        return self._named(name, self._schemas[known])

    def _resolved(self, written: Json) -> Json:
        """With ``_like`` and ``@`` replaced by what they name."""
        like = written.get("_like")
        own = {name: self._followed(value) for name, value in written.items() if name != "_like"}
        return {**(self._of_component(like) if like else {}), **own}

    def _followed(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._followed(each) for each in value]
        if isinstance(value, str) and value.startswith("@"):
            return self._of_component(value[1:])
        return value


def _target(schema: Json) -> str:
    return str(schema["$ref"]).removeprefix(_REFERENCE)

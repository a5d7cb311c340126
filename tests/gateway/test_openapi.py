"""The OpenAPI document: complete, true to its own schemas, and the one that was reviewed."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from gateway.reference import document, problems
from scripts.snapshot_openapi import TARGET, snapshot

Json = dict[str, Any]

DOCUMENT: Json = json.loads(snapshot())
OPERATIONS: dict[str, Json] = {
    operation["operationId"]: operation
    for operations in DOCUMENT["paths"].values()
    for operation in operations.values()
}
BYTES = ("image/", "*/*", "application/zip", "application/vnd.comicbook", "application/pdf")
"""Nobody reads these as text."""


def contents(operation: Json) -> Iterator[tuple[str, Json]]:
    """Every body that can be sent or comes back; errors share theirs."""
    yield from operation.get("requestBody", {}).get("content", {}).items()
    for answer in operation["responses"].values():
        yield from answer.get("content", {}).items()


def faults(content: Json) -> list[str]:
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    return [
        fault.message for fault in jsonschema_rs.Draft202012Validator(schema).iter_errors(content["example"])
    ]


def test_the_document_is_the_one_that_was_reviewed() -> None:
    assert snapshot() == TARGET.read_text(), "the API has changed: run `python -m scripts.snapshot_openapi`"


def test_every_operation_has_its_own_name() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert len(OPERATIONS) == sum(len(operations) for operations in DOCUMENT["paths"].values())


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_a_tag_a_summary_and_examples_that_fit(name: str) -> None:
    operation = OPERATIONS[name]
    assert [tag for tag in operation["tags"] if tag in document.TAGS], (
        "say in gateway/reference what this tag is"
    )
    assert operation["summary"], "the first sentence of its docstring is missing"
    for kind, content in contents(operation):
        if not kind.startswith(BYTES):
            schema = content["schema"].get("$ref", content["schema"].get("title"))
            assert "example" in content, f"write one for {schema} in the slice's examples.toml"
            assert faults(content) == [], f"the example for {schema} does not fit"


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_takes_an_id_shows_one(name: str) -> None:
    for parameter in OPERATIONS[name].get("parameters", []):
        if parameter["in"] == "path":
            assert "example" in parameter, (
                f"write one for {parameter['name']} in gateway/reference/examples.toml"
            )


@pytest.mark.parametrize("name", problems.components())
def test_the_problems_that_are_shown_are_as_described(name: str) -> None:
    (content,) = DOCUMENT["components"]["responses"][name]["content"].values()
    assert faults(content) == []


def test_operations_that_are_told_apart_exist() -> None:
    named = {name for names in problems.ALSO.values() for name in names}
    assert {*named, *document.CACHED, *document.RANGED} <= OPERATIONS.keys()

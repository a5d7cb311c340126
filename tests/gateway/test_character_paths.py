"""The paths and fields of characters that clients were promised, to the letter."""

from typing import Any

import pytest

from tests.gateway.test_openapi import DOCUMENT

ONE = "/v1/characters/{character_id}"
OPERATIONS = {
    ("post", "/v1/characters"): 202,
    ("get", "/v1/characters"): 200,
    ("get", ONE): 200,
    ("patch", ONE): 200,
    ("delete", ONE): 200,
    ("post", f"{ONE}/retry"): 202,
    ("get", f"{ONE}/initial-image-prompt"): 200,
    ("post", f"{ONE}/generate-initial-image"): 200,
    ("post", f"{ONE}/generate-360-set"): 200,
    ("post", f"{ONE}/generate-scene-image"): 200,
    ("get", f"{ONE}/images"): 200,
    ("delete", f"{ONE}/images/{{character_image_id}}"): 200,
    ("post", f"{ONE}/images/{{character_image_id}}/select"): 200,
}
FIELDS = {
    "CharacterCreate": "name gender style source upload_id consent lora description attributes",
    "Character": "id name gender style source status profile reference_images selected_image_id error "
    "poll_after_ms generatedReferenceImages referenceImageWorkflowIds",
    "ReferenceImage": "url width height view",
    "InitialImage": "prompt on_conflict history_policy delete_timing",
    "ReferenceSet": "reference_image_id angles",
    "Scene": "sceneContext",
    "Suggestion": "success prompt",
    "CharacterImage": "kind prompt provider status error metrics created_by created_at media",
}


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][name]
    return found


def test_there_are_these_paths_and_no_others() -> None:
    found = {
        (method, path)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
        if path.startswith("/v1/characters")
    }
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(("operation", "status"), OPERATIONS.items(), ids=str)
def test_each_answers_with_its_status_and_tells_of_its_errors(
    operation: tuple[str, str], status: int
) -> None:
    answers = DOCUMENT["paths"][operation[1]][operation[0]]["responses"]
    assert str(status) in answers
    assert {"401", "403"} <= set(answers)
    assert ("404" in answers) == (operation != ("get", "/v1/characters"))


@pytest.mark.parametrize("name", FIELDS)
def test_each_shape_has_its_fields(name: str) -> None:
    assert set(FIELDS[name].split()) <= set(schema(name)["properties"])


def test_words_that_clients_compare_are_these() -> None:
    assert schema("Character")["properties"]["status"]["enum"] == ["pending", "processing", "ready", "failed"]
    assert schema("CharacterCreate")["properties"]["source"]["enum"] == ["photo", "lora", "description"]
    kinds = ["reference", "view", "portfolioItem", "scene", "variant", "panel"]
    assert schema("CharacterImage")["properties"]["kind"]["enum"] == kinds
    assert schema("ReferenceSet")["properties"]["angles"]["default"] == list(range(0, 360, 45))

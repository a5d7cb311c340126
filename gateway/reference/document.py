"""The document, finished: what FastAPI has read off the routes, with what holds for all of them."""

from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.auth.routing import SECURITY_SCHEMES
from gateway.reference import problems
from gateway.reference.examples import Examples

Json = dict[str, Any]

ABOUT = """Self-hosted image generation for products with characters: house styles, characters that stay the
same from picture to picture, comics laid out panel by panel, and the cost of every picture.

Every generation is a job. `POST /v1/jobs` answers at once; ask for the job, stream its events, have a webhook
told, or send `Prefer: wait=60` to have the answer held. OpenAI's SDKs work with `base_url` set to `/v1`.
"""

TAGS = {
    "jobs": "Draw, and follow how it goes.",
    "batches": "Many jobs in one request.",
    "images": "What was drawn: bytes, recipes, variations, and drawing it again.",
    "openai": "What OpenAI's own SDKs call, and the catalogue of models.",
    "uploads": "Pictures of your own.",
    "styles": "The house styles.",
    "prompts": "Prompts rewritten and read.",
    "prompt templates": "Prompts with variables, kept.",
    "loras": "Register a LoRA, and name it in jobs.",
    "characters": "Somebody who looks the same in every picture.",
    "comics": "Projects, chapters and panels, with the people who work on them.",
    "usage": "What was drawn, what it cost, and what it may cost.",
    "webhooks": "Be told of events, signed as Standard Webhooks.",
    "session": "Signing in with a browser.",
    "API keys": "Credentials for programs.",
    "operations": "Health and numbers.",
    "files": "Signed addresses of the local bucket.",
    "compatibility": "Paths of earlier frontends.",
}
"""In the order in which they are read."""

CACHED = (
    *("list_jobs", "get_job", "compat_status", "list_images", "get_character", "list_character_images"),
    *("upload_content", "style_preview", "get_panel", "export_comic"),
)
RANGED = (
    *("image_content", "image_thumbnail", "public_thumbnail", "public_picture", "signed_download"),
    "panel_thumbnail",
)


def install(app: FastAPI) -> None:
    """Have ``app`` serve the finished document."""

    def openapi() -> Json:
        if app.openapi_schema is None:
            read = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
            app.openapi_schema = finished(read)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def finished(document: Json) -> Json:
    """The same document with examples, errors, conditional requests and an order."""
    components = document["components"]
    components["securitySchemes"] = SECURITY_SCHEMES
    _describe_problems(components)
    examples = Examples(components["schemas"])
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _place(path, operation)
            _summarise(operation)
            _describe_conditions(operation)
            _describe_errors(operation)
            _show(operation, examples)
    document["paths"] = dict(sorted(document["paths"].items(), key=lambda item: _place_of(item[1])))
    document["tags"] = [{"name": name, "description": told} for name, told in _used(document).items()]
    return document


def _describe_problems(components: Json) -> None:
    schemas = components["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which no answer of ours has
        schemas.pop(name, None)
    problem = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs") | {"Problem": problem}
    components["responses"] = problems.components()


def _place(path: str, operation: Json) -> None:
    if path.startswith("/api/"):
        operation["tags"] = ["compatibility"]


def _summarise(operation: Json) -> None:
    """The docstring's first sentence, then the rest."""
    text = " ".join(operation.pop("description", "").split("\n\n")).replace("\n", " ").strip()
    first, stop, rest = text.partition(". ")
    operation["summary"] = first.removesuffix(".")
    if stop:
        operation["description"] = rest


def _describe_conditions(operation: Json) -> None:
    """Validators and ranges; every job may be waited for."""
    name, answers = operation["operationId"], operation["responses"]
    parameters = operation.setdefault("parameters", [])
    if name in (*CACHED, *RANGED):
        _add_header(parameters, "If-None-Match", "An `ETag` of before: 304 where nothing has changed.")
        answers["304"] = {"description": "Nothing has changed."}
    if name in RANGED:
        _add_header(parameters, "Range", "Some of the bytes, as `bytes=0-1023`.")
        answers["206"] = {**deepcopy(answers["200"]), "description": "Some of the bytes."}
    if any(each["name"].lower() == "prefer" for each in parameters):
        answers["200"] = {
            **deepcopy(answers["202"]),
            "description": "The job, which ended while the answer was held.",
        }
    if name in ("generate_initial_image", "generate_360_set", "generate_scene_image"):
        job = {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}}
        answers["202"] = {"description": "It takes longer than answers are held: the job.", "content": job}
    if not parameters:
        del operation["parameters"]


def _add_header(parameters: list[Json], name: str, told: str) -> None:
    if not any(each["name"].lower() == name.lower() for each in parameters):
        schema = {"type": "string"}
        parameters.append(
            {"name": name, "in": "header", "required": False, "schema": schema, "description": told}
        )


def _describe_errors(operation: Json) -> None:
    answers = operation["responses"]
    answers.pop("422", None)
    for kind in problems.of(operation):
        if str(kind.status) in answers:
            continue
        answers[str(kind.status)] = {"$ref": f"#/components/responses/{kind.__name__}"}
    operation["responses"] = dict(sorted(answers.items()))


def _show(operation: Json, examples: Examples) -> None:
    for parameter in operation.get("parameters", []):
        _set_example(parameter, examples.parameter(parameter["name"]) if parameter["in"] == "path" else None)
    for content in operation.get("requestBody", {}).get("content", {}).values():
        _set_example(content, examples.of(content["schema"]))
    for status, answer in operation["responses"].items():
        for content in answer.get("content", {}).values():
            _set_example(content, examples.of(content.get("schema", {}), status))


def _set_example(where: Json, example: Any) -> None:
    if example is not None:
        where["example"] = example


def _place_of(operations: Json) -> int:
    tag = next(iter(operations.values()))["tags"][0]
    return list(TAGS).index(tag) if tag in TAGS else len(TAGS)


def _used(document: Json) -> dict[str, str]:
    used = {
        tag
        for operations in document["paths"].values()
        for operation in operations.values()
        for tag in operation["tags"]
    }
    return {name: told for name, told in TAGS.items() if name in used}

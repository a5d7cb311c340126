"""Write docs/openapi.json, the document that a gateway serves: ``python -m scripts.snapshot_openapi``.

A test compares, so that a change of the API is seen where it is reviewed.
"""

import json
from pathlib import Path

from fastapi import FastAPI
from pydantic import SecretStr

from gateway.app import create_app
from gateway.config import Settings

TARGET = Path(__file__).parents[1] / "docs" / "openapi.json"


def main() -> None:
    TARGET.write_text(snapshot())
    print(f"wrote {TARGET}")


def snapshot() -> str:
    """The document as text."""
    return json.dumps(application().openapi(), indent=1, ensure_ascii=False) + "\n"


def application() -> FastAPI:
    """The gateway, to be looked at: what it serves does not depend on its settings, which lead nowhere."""
    nothing = SecretStr("nothing")
    return create_app(
        Settings(
            _env_file=None,
            database_url=SecretStr("postgresql://nothing@127.0.0.1:1/nothing"),
            modal_generate_endpoint="http://127.0.0.1:1",
            webhook_secret=nothing,
            url_signing_key=nothing,
        )
    )


if __name__ == "__main__":
    main()

"""Write docs/openapi.json, the document that a gateway serves: ``python -m scripts.snapshot_openapi``.

A test compares, so that a change of the API is seen where it is reviewed.
"""

import json
from pathlib import Path

from pydantic import SecretStr

from gateway.app import create_app
from gateway.config import Settings

TARGET = Path(__file__).parents[1] / "docs" / "openapi.json"


def main() -> None:
    TARGET.write_text(snapshot())
    print(f"wrote {TARGET}")


def snapshot() -> str:
    """The document as text. It does not depend on the settings; these connect to nothing."""
    nothing = SecretStr("nothing")
    settings = Settings(
        _env_file=None,
        database_url=SecretStr("postgresql://nothing@127.0.0.1:1/nothing"),
        modal_generate_endpoint="http://127.0.0.1:1",
        webhook_secret=nothing,
        url_signing_key=nothing,
    )
    return json.dumps(create_app(settings).openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()

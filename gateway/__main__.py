"""``python -m gateway``: the gateway by itself, configured by the environment."""

import gc
import sys

import uvicorn

from gateway.app import create_app
from gateway.config import ConfigurationError, Settings

STREAMS_END_SECONDS = 2
"""How long open event streams may delay a stop."""


def main() -> None:
    try:
        settings = Settings()
        app = create_app(settings)
    except ConfigurationError as error:
        print(f"gateway: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    gc.collect()
    gc.freeze()  # routes and schemas stay to the end: looking through them again and again takes 50 ms a time
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=STREAMS_END_SECONDS,
    )


if __name__ == "__main__":
    main()

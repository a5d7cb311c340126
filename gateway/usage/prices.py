"""What GPU time costs, in integer micro-dollars, rounded once per call."""

import datetime

import structlog

from modal_app import catalog

log = structlog.get_logger()


def usd_micros(gpu: str | None, seconds: float) -> int:
    """Micro-dollars of ``seconds`` on ``gpu`` at today's price; 0 and a warning where there is no price."""
    today = datetime.datetime.now(datetime.UTC).date()
    try:
        return catalog.cost_usd_micros(gpu or "", seconds, today)
    except KeyError:
        log.warning("no_price", gpu=gpu)
        return 0


def has_price(gpu: str) -> bool:
    """Whether time on ``gpu`` is charged today."""
    try:
        catalog.price(gpu, datetime.datetime.now(datetime.UTC).date())
    except KeyError:
        return False
    return True

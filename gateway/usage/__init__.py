"""What was used and what it cost: prices, estimates, budgets, the ledger's reports, and the bill."""

from gateway.usage.prices import usd_micros

__all__ = ["usd_micros"]

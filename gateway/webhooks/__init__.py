"""Telling users' servers what happened, by Standard Webhooks.

What ends a job writes a row of the outbox in the same statement.  Each row becomes one delivery for every
endpoint that asked for it, and each delivery is tried until it succeeds or its last try has failed.
"""

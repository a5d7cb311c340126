"""Numbers for Prometheus.

Two kinds, which add up differently.  What the database knows is read from it at the scrape: every gateway
answers the same, so aggregate with ``max``.  What only a process knows is counted in it: aggregate with
``sum``.  The help text of each says which it is.
"""

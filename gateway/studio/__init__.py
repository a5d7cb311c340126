"""The studio: pages rendered here, over the public API and nothing else.

Pages ask the API as the browser's user (``api.py``), templates make HTML of the answers, and the module in
``static/`` does in the browser what changes something: it calls ``/v1`` with the login cookie.
"""

from gateway.studio.pages import router

__all__ = ["router"]

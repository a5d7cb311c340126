"""What the API is: the OpenAPI document at ``/openapi.json``, and ``/docs``, the page that is made of it.

FastAPI reads paths, parameters and schemas off the routes.  Added here, for all slices alike, is what no
route says: examples (each slice's ``examples.toml``), errors, conditional requests, the order to read it in.
"""

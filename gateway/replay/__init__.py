"""Pictures drawn again: what drew one, whether a file still is it, and whether it comes out the same.

A file carries its recipe, sealed by the GPU service with ``RECIPE_SECRET``.  The rows of the picture's job
say the same, and stand in for a file that carries none.
"""

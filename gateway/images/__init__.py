"""Pictures: their addresses, bytes and thumbnails; deleting them and taking that back.

A public picture stands at an unguessable address that never changes; a private one is reached with the
caller's credential, or by a signed address that every answer makes anew.
"""

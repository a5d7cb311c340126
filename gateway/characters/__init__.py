"""Characters: someone who stays the same from picture to picture."""

"""The GPU service: a function from a request to pictures. It knows no users, styles or tables."""

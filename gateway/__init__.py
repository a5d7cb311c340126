"""The gateway: the HTTP API, jobs, storage and pages in front of the GPU service."""

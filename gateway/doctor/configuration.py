"""Settings, and the disk they point at."""

import shutil

from gateway.config import ConfigurationError, Settings
from gateway.doctor.findings import Finding, failed, ok, warning
from gateway.doctor.subject import Subject

LOW_BYTES, FULL_BYTES = 5 * 10**9, 5 * 10**8
"""Thousands of pictures; what Postgres and the logs need to go on."""


async def configuration(subject: Subject) -> Finding:
    """Every setting that a gateway needs is there; the GPU service's address has a check of its own."""
    assert isinstance(subject.settings, Settings)
    missing = [name for name in subject.settings.missing() if name != "MODAL_GENERATE_ENDPOINT"]
    if missing:
        return failed(
            "; ".join(f"{name} not configured" for name in missing),
            "Set it in the environment or in .env: .env.example says what each is.",
        )
    try:
        subject.settings.require_sign_in()
    except ConfigurationError as error:
        return failed(str(error), ".env.example says which settings go together.")
    return ok("every setting that a gateway needs is there")


async def disk_space(subject: Subject) -> Finding:
    """Room for pictures where they are kept."""
    assert isinstance(subject.settings, Settings)
    folder = subject.settings.data.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB are free for {subject.settings.data}"
    advice = "Make room, or move DATA to a larger disk."
    if free < FULL_BYTES:
        return failed(found, advice)
    return warning(found, advice) if free < LOW_BYTES else ok(found)

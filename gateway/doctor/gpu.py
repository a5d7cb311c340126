"""The GPU service as the gateway reaches it."""

from urllib.parse import urlsplit

from gateway.config import Settings
from gateway.doctor.findings import Finding, failed, ok, warning
from gateway.doctor.over_http import readiness
from gateway.doctor.subject import Subject
from gateway.gpu import GpuClient, GpuError, GpuUnauthenticated

NOT_CONFIGURED = "MODAL_GENERATE_ENDPOINT not configured"


async def endpoint(subject: Subject) -> Finding:
    """There is an address to send jobs to."""
    assert isinstance(subject.settings, Settings)
    address = subject.settings.modal_generate_endpoint
    if not address:
        return failed(
            NOT_CONFIGURED,
            "`modal deploy -m modal_app.app` prints the address; set it, and restart the gateway.",
        )
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return failed(
            "MODAL_GENERATE_ENDPOINT is not an http(s) address", "Copy it from `modal deploy`'s output."
        )
    return ok(f"{parts.scheme}://{parts.netloc}")


async def service(subject: Subject) -> Finding:
    """Something answers there."""
    if subject.settings is None:
        return await readiness(subject, "gpu_service", "Run `tenkaigen doctor` where the gateway runs.")
    async with GpuClient(subject.settings) as gpu:
        try:
            await gpu.healthy()
        except GpuUnauthenticated:
            return ok("answers")
        except GpuError as error:
            return failed(
                f"does not answer: {error}",
                "Is it deployed and running? `modal app list`; locally `make up`. Its log: "
                "`modal app logs tenkaigen`.",
            )
    return ok("answers")


async def credentials(subject: Subject) -> Finding:
    """It takes our token."""
    assert isinstance(subject.settings, Settings)
    async with GpuClient(subject.settings) as gpu:
        try:
            await gpu.ask_models()
        except GpuUnauthenticated as error:
            return failed(f"it refuses us: {error}", _which_token(subject.settings))
        except GpuError as error:
            return failed(
                f"not the GPU service: {error}", "Compare MODAL_GENERATE_ENDPOINT with what was deployed."
            )
    return ok("our token is taken")


async def models(subject: Subject) -> Finding:
    """It serves what jobs without a model are drawn with."""
    settings = subject.settings
    assert isinstance(settings, Settings)
    async with GpuClient(settings) as gpu:
        served = await gpu.ask_models()
    found = f"serves {', '.join(served.models)} on {served.gpu}"
    advice = (
        "List it in ROUTES of modal_app/deployment.py (locally GPU_MODELS), or choose a model that is served."
    )
    if settings.default_model not in served.models:
        return failed(f"DEFAULT_MODEL {settings.default_model} is not served; it {found}", advice)
    if settings.default_edit_model not in served.models:
        return warning(f"DEFAULT_EDIT_MODEL {settings.default_edit_model} is not served; it {found}", advice)
    return ok(found)


def _which_token(settings: Settings) -> str:
    key, secret = settings.modal_key.get_secret_value(), settings.modal_secret.get_secret_value()
    if not key and not secret:
        return "Set GPU_TOKEN as the local service has it; for Modal set MODAL_KEY and MODAL_SECRET."
    if not key.startswith("wk-") or not secret.startswith("ws-"):
        return (
            "MODAL_KEY begins with wk- and MODAL_SECRET with ws-; ak- and as- are API tokens, which do not "
            "fit. `modal workspace proxy-tokens create` makes a pair."
        )
    return "Both must be of one pair, and of the workspace that the app is deployed in."

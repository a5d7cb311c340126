"""What a gateway tells anybody who asks over HTTP."""

import json
from datetime import UTC, datetime
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
from standardwebhooks.webhooks import Webhook

from gateway.config import is_loopback
from gateway.doctor.findings import Finding, failed, ok, skipped
from gateway.doctor.subject import Subject
from modal_app.contract import Call, CallEvent

WEBHOOK = "/api/generate/webhook"
START = "Start one: `make up`, or with the settings of a hosted one `python -m gateway` or its image."


async def gateway(subject: Subject) -> Finding:
    """A gateway answers."""
    if not subject.url:
        return failed(
            f"nothing runs on {subject.folder}", f"`make up DATA={subject.folder}` starts everything."
        )
    async with subject.http(signed_in=False) as http:
        try:
            answer = await http.get("/healthz")
        except httpx.HTTPError as error:
            return failed(f"{subject.url} does not answer: {error or type(error).__name__}", START)
    if answer.status_code != 200 or _field(answer, "status") != "ok":
        return failed(
            f"{subject.url} answered {answer.status_code}: not a Tenkaigen gateway",
            "Check SITE_URL or --url.",
        )
    return ok(f"{subject.url} answers")


async def readiness(subject: Subject, part: str, advice: str) -> Finding:
    """What the gateway itself says of a part of its, for those who cannot look."""
    if not subject.url:
        return skipped("no gateway runs here")
    async with subject.http(signed_in=False) as http:
        answer = await http.get("/readyz")
    checks = answer.json().get("checks", {})
    state = checks.get(part)
    if state is None:
        return skipped("the gateway does not say")
    return ok("the gateway reaches it") if state == "ok" else failed(f"the gateway says: {state}", advice)


async def webhook_address(subject: Subject) -> Finding:
    """Events that are posted to the address of this gateway arrive at it, and it knows their signature."""
    if _is_unreachable_for_the_gpu(subject):
        return failed(
            f"the GPU service cannot post to {subject.url}: that is this machine alone",
            "Set SITE_URL to the https address under which this gateway is reached from outside.",
        )
    secret = subject.settings.webhook_secret.get_secret_value() if subject.settings else ""
    body = _harmless_event()
    async with subject.http(signed_in=False) as http:
        answer = await http.post(WEBHOOK, content=body, headers=_signed(secret, body) if secret else {})
    return _judged(subject.url, answer, signed=bool(secret))


async def api_key(subject: Subject) -> Finding:
    """The key is known, and may read and draw."""
    async with subject.http() as http:
        reading = await http.get("/v1/jobs", params={"limit": 1})
        if reading.status_code == 401:
            return failed(
                "Authentication required: this gateway does not know the key",
                "It was revoked, mistyped, or made for another database: `tenkaigen keys create` makes one.",
            )
        drawing = await http.post("/v1/jobs", json={})  # refused for its scope, or else for its emptiness
    lacking = [
        scope for scope, answer in (("read", reading), ("generate", drawing)) if answer.status_code == 403
    ]
    if lacking:
        return failed(
            f"the key lacks the scope {', '.join(lacking)}",
            "Make one that has it: `tenkaigen keys create --user EMAIL --scope generate --scope read`.",
        )
    if reading.status_code != 200:
        return failed(f"the gateway answered {reading.status_code}", "Its log says why.")
    return ok("may read and draw")


def _is_unreachable_for_the_gpu(subject: Subject) -> bool:
    """The GPU service is elsewhere, and the gateway's address leads to this machine only."""
    endpoint = urlsplit(subject.settings.modal_generate_endpoint if subject.settings else "").hostname or ""
    here = urlsplit(subject.url).hostname or ""
    return bool(endpoint) and not is_loopback(endpoint) and is_loopback(here)


def _harmless_event() -> str:
    """Progress of a call of no job: the gateway checks it and finds nothing to change."""
    call = Call(call_id="doctor", key=f"{uuid4()}:1:1", task="image", status="running")
    return CallEvent(type="call.progress", seq=0, call=call).model_dump_json(by_alias=True)


def _signed(secret: str, body: str) -> dict[str, str]:
    identity, now = f"msg_{uuid4().hex}", datetime.now(UTC)
    return {
        "content-type": "application/json",
        "webhook-id": identity,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(identity, now, body),
    }


def _judged(url: str, answer: httpx.Response, *, signed: bool) -> Finding:
    if answer.status_code == 204:
        return ok("a signed event arrives and is taken")
    refused = answer.status_code == 401 and _field(answer, "code") == "bad_signature"
    if refused and signed:
        return failed(
            "the gateway there refuses the signature of this WEBHOOK_SECRET",
            "Give the gateway, this environment and Modal's secret (TENKAIGEN_WEBHOOK_SECRET) the same one; "
            "a clock that is five minutes off has the same effect.",
        )
    if refused:
        return ok("it arrives, and is refused without a signature, as it must be")
    return failed(
        f"{url}{WEBHOOK} answered {answer.status_code}: no gateway takes webhooks there",
        "Let SITE_URL, and whatever proxy stands in front, lead to this gateway with all paths.",
    )


def _field(answer: httpx.Response, name: str) -> object:
    try:
        facts = json.loads(answer.content)
    except ValueError:
        return None
    return facts.get(name) if isinstance(facts, dict) else None

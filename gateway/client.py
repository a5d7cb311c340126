"""A small client of the public API, for the command line."""

import sys
import time
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.config import ConfigurationError

POLL_SECONDS = 0.1
ENDED = ("completed", "failed", "canceled")


def generate(url: str, key: str, body: dict[str, Any], out: Path) -> dict[str, Any]:
    """Create a job, follow it to its end, and save its picture as ``out``. Returns the job."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
        job = follow(http, _asked(http, "POST", "/v1/jobs", json=body).json())
        if job["status"] != "completed":
            error = job["error"] or {"code": job["status"], "message": "The job was canceled."}
            raise ConfigurationError(f"the picture was not drawn ({error['code']}): {error['message']}")
        out.write_bytes(_asked(http, "GET", f"/v1/images/{job['images'][0]['id']}/content").content)
    seconds, dollars = job["timing"]["total_ms"] / 1000, job["cost"]["usd_micros"] / 1e6
    print(f"{out}: {job['model']}, seed {job['params']['seed']}, {seconds:.2f} s, ${dollars:.6f}")
    return job


def follow(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job once it has ended, with a progress bar on standard error meanwhile."""
    columns = (TextColumn("{task.description:>10}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("queued", total=1.0)
        while job["status"] not in ENDED:
            time.sleep(POLL_SECONDS)
            job = _asked(http, "GET", f"/v1/jobs/{job['id']}").json()
            bar.update(task, description=job["stage"] or job["status"], completed=job["progress"])
    return job


def _asked(http: httpx.Client, method: str, path: str, **kwargs: Any) -> httpx.Response:
    try:
        answer = http.request(method, path, **kwargs)
    except httpx.HTTPError as error:
        raise ConfigurationError(
            f"no gateway answers at {http.base_url} ({error}). Start one by `make up`, or name it by --url."
        ) from error
    if answer.is_success:
        return answer
    raise ConfigurationError(_detail(answer))


def _detail(answer: httpx.Response) -> str:
    try:
        facts = answer.json()
        return f"{facts['detail']} ({facts['code']})"
    except (ValueError, KeyError):
        return f"{answer.request.url} answered {answer.status_code}"

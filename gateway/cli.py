"""``tenkaigen``: start everything, draw a picture, make keys, migrate, say what it cost."""

import asyncio
import datetime
import json
import os
import sys
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from gateway import client, doctor, up
from gateway.auth import SCOPES
from gateway.config import ConfigurationError, Settings
from gateway.db import Database
from gateway.embedded import add_key, find_keys, revoke_key
from gateway.migrate import migrate as apply_migrations
from gateway.migrate import set_passwords
from gateway.replay import offline
from gateway.services import keepers
from gateway.storage.buckets import open_buckets
from gateway.storage.deletions import Deletions
from gateway.storage.sweep import ORPHAN_AGE, Findings, Sweep
from gateway.usage import billing

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
keys = typer.Typer(no_args_is_help=True, help="API keys.")
app.add_typer(keys, name="keys")

Data = Annotated[Path, typer.Option(help="Folder of the database, the bucket and the keys.", envvar="DATA")]
Port = Annotated[int, typer.Option(min=1, max=65535, envvar="PORT", help="Port of the gateway.")]


@app.command("up")
def up_command(data: Data = Path(".data"), port: Port = 8000) -> None:
    """Start Postgres, the GPU service and the gateway on this machine, and draw a first picture."""
    up.run(data, port)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the picture goes.")] = Path("out.png"),
    style: Annotated[str | None, typer.Option(help="A house style, by id or name.")] = None,
    model: Annotated[str, typer.Option(help="A model of the catalogue.")] = "auto",
    size: Annotated[str, typer.Option(help="A named size or WxH.")] = "square",
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same picture.")] = None,
    url: Annotated[str, typer.Option(help="The gateway.", envvar="TENKAIGEN_URL")] = "",
    key: Annotated[
        str, typer.Option(help="An API key; default: the data folder's.", envvar="TENKAIGEN_KEY")
    ] = "",
    data: Data = Path(".data"),
    port: Port = 8000,
) -> None:
    """Draw one picture through a running gateway, with a progress bar; prints seconds and cost."""
    body = {"prompt": prompt, "style": style, "model": model, "size": size, "seed": seed}
    key = key or up.dev_key(data)
    client.generate(
        url or f"http://127.0.0.1:{port}", key, {k: v for k, v in body.items() if v is not None}, out
    )


@app.command()
def recipe(
    file: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP file.", exists=True, dir_okay=False)],
    data: Data = Path(".data"),
) -> None:
    """Print what drew a picture, as its file says; exit with 1 unless that is signed and the picture's own.

    Verified with RECIPE_SECRET of the environment or .env, else with that of the data folder.
    """
    found = offline.look_at(file, Settings().recipe_secrets or up.recipe_secrets(data))
    if found.recipe is not None:
        print(json.dumps(found.recipe, indent=2, ensure_ascii=False))
    print(found.verdict, file=sys.stderr)
    if not found.valid:
        raise typer.Exit(1)


@keys.command("create")
def create_key(
    user: Annotated[str, typer.Option(help="E-mail address of the key's owner.")],
    scope: Annotated[list[str] | None, typer.Option(help="generate, read or admin; may be repeated.")] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    data: Data = Path(".data"),
) -> None:
    """Make an API key and print it. It is shown this once."""
    scopes = scope or ["generate", "read"]
    if wrong := sorted(set(scopes) - set(SCOPES)):
        raise ConfigurationError(f"`{wrong[0]}` is not a scope; there are {', '.join(SCOPES)}.")
    with up.admin_url(data) as url:
        print(add_key(url, user, scopes, name)[1])


@keys.command("list")
def list_keys(
    user: Annotated[str, typer.Option(help="E-mail address of their owner; default: everybody's.")] = "",
    data: Data = Path(".data"),
) -> None:
    """The API keys that work: id, first characters, day, scopes, user, name."""
    with up.admin_url(data) as url:
        found = find_keys(url, user)
    for key in found:
        made, scopes = f"{key['created_at']:%Y-%m-%d}", ",".join(key["scopes"])
        print(f"{key['id']}  {key['prefix']}…  {made}  {scopes:<19}  {key['email']}  {key['name']}".rstrip())


@keys.command("revoke")
def revoke(
    key_id: Annotated[UUID, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it.")],
    data: Data = Path(".data"),
) -> None:
    """Revoke an API key. Running gateways refuse it within ten seconds."""
    with up.admin_url(data) as url:
        revoke_key(url, key_id)
    print("Revoked.")


@app.command()
def migrate(data: Data = Path(".data")) -> None:
    """Bring the database up to date; on a hosted one, give both logins the password of DATABASE_URL."""
    with up.admin_url(data) as url:
        applied = apply_migrations(url)
    print("\n".join(applied) if applied else "Nothing to do: the database is up to date.")
    login_url = Settings().database_url.get_secret_value()
    if "DATABASE_ADMIN_URL" in os.environ and login_url:
        for login in set_passwords(os.environ["DATABASE_ADMIN_URL"], login_url):
            print(f"The login {login} has the password of DATABASE_URL now.")


@app.command("doctor")
def doctor_command(
    data: Annotated[Path | None, typer.Option(help="Look at the folder of `tenkaigen up`.")] = None,
    url: Annotated[str, typer.Option(help="Ask a running gateway over HTTP, and nothing else.")] = "",
    key: Annotated[str, typer.Option(help="An API key, for a smoke job.", envvar="TENKAIGEN_KEY")] = "",
    only: Annotated[list[str] | None, typer.Option(help="A check's code; may be repeated.")] = None,
    smoke: Annotated[bool, typer.Option(help="Draw one small picture.")] = True,
    patience: Annotated[float, typer.Option(help="Seconds that it may take.")] = doctor.PATIENCE_SECONDS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what is wrong and what to do about it; exit with 1 when something is.

    Without --data and --url: the gateway that the environment, or .env, configures; where it configures none,
    what `make up` runs on `.data`.
    """
    if not doctor.visit(data, url, key, only or (), draws=smoke, patience_seconds=patience, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def costs(
    start: Annotated[str, typer.Option("--from", help="First day, YYYY-MM-DD; default: 30 days ago.")] = "",
    end: Annotated[str, typer.Option("--to", help="Day after the last one; default: tomorrow.")] = "",
    report: Annotated[
        Path | None,
        typer.Option("--reconcile", help="Report of `modal billing report --json --tag-names service,env`."),
    ] = None,
    service: Annotated[
        str, typer.Option(help="Value of the tag `service` in the report.")
    ] = billing.BILLED_SERVICE,
    data: Data = Path(".data"),
) -> None:
    """What the calls of each day cost; beside Modal's bill, with idle time apart."""
    today = datetime.datetime.now(datetime.UTC).date()
    first = _day(start, today - datetime.timedelta(days=30))
    last = _day(end, today + datetime.timedelta(days=1))
    billed = billing.bill(report, service) if report else {}
    with up.admin_url(data) as url:
        billing.record(url, billed)
        days = billing.daily(url, first, last)
    table = Table(
        *("day", "calls", "GPU seconds", "calls $"), *(("billed $", "idle $", "idle") if report else ())
    )
    for line in billing.reconcile(days, {day: sum_ for day, sum_ in billed.items() if first <= day < last}):
        idle = (_dollars(line.billed_usd_micros), _dollars(line.idle_usd_micros), f"{line.idle_share:.0%}")
        day = line.day
        own = (str(day.date), str(day.calls), f"{day.gpu_seconds:.1f}", _dollars(day.usd_micros))
        table.add_row(*own, *(idle if report else ()))
    Console().print(table)


@app.command()
def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete orphans even where they are many.")] = False,
    hours: Annotated[
        float, typer.Option("--older-than-hours", min=0, help="Younger objects may belong to running jobs.")
    ] = ORPHAN_AGE.total_seconds() / 3600,
    data: Data = Path(".data"),
) -> None:
    """Compare the buckets with the database, and delete objects that no row names."""
    with up.settings(data) as settings:
        age = datetime.timedelta(hours=hours)
        found, gone = asyncio.run(_sweep(settings, age, dry_run=dry_run, force=force))
    table = Table("bucket", "objects", "rows", "orphans", "unknown", "lost pictures")
    for each in found:
        counts = (each.objects, each.rows, len(each.orphans), len(each.unknown), len(each.lost))
        table.add_row(each.bucket, *map(str, counts))
    Console().print(table)
    for each in found:
        for row, key in each.lost.items():
            print(f"lost: {row} {each.bucket}/{key}")
        if each.suspicious and not force:
            print(f"{each.bucket}: most objects are orphans, so none was deleted. Is this their database?")
    print(f"{gone} objects deleted.")


async def _sweep(
    settings: Settings, age: datetime.timedelta, *, dry_run: bool, force: bool
) -> tuple[list[Findings], int]:
    """What was found, and how many objects were removed."""
    async with Database(settings) as db, open_buckets(settings) as buckets:
        found = await Sweep(db, buckets, keepers(db)).run(age=age, dry_run=dry_run, force=force)
        return found, 0 if dry_run else await Deletions(db, buckets, keepers(db)).carry_out()


def _day(text: str, default: datetime.date) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text) if text else default
    except ValueError:
        raise ConfigurationError(f"`{text[:40]}` is not a day; write it as YYYY-MM-DD.") from None


def _dollars(micros: int) -> str:
    return f"{micros / 1e6:.6f}"


def main() -> None:
    """The console script: an expected error is one clear line and exit status 1."""
    try:
        app()
    except ConfigurationError as error:
        print(f"tenkaigen: {error}", file=sys.stderr)
        raise SystemExit(1) from None

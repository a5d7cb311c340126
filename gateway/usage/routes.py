"""``/v1/usage``, ``/v1/budget`` and, for administrators, ``/v1/admin/budgets`` and ``/v1/admin/stats``."""

import csv
import datetime
import io
import re
from typing import Annotated, Literal, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BeforeValidator

from gateway.auth import Admin, AuthenticatedRoute, Generator, Reader
from gateway.usage import schemas
from gateway.usage.budgets import Budgets
from gateway.usage.forecasts import Forecasts
from gateway.usage.service import UsageService

router = APIRouter(route_class=AuthenticatedRoute, tags=["usage"])


async def _service(request: Request) -> UsageService:
    return cast(UsageService, request.app.state.usage)


async def _forecasts(request: Request) -> Forecasts:
    return cast(Forecasts, request.app.state.forecasts)


async def _budgets(request: Request) -> Budgets:
    return cast(Budgets, request.app.state.budgets)


Service = Annotated[UsageService, Depends(_service)]
Forecasting = Annotated[Forecasts, Depends(_forecasts)]
Budgeting = Annotated[Budgets, Depends(_budgets)]


def _no_number(text: object) -> object:
    """A bare number would be read as seconds since 1970: `2026` as half an hour of that year."""
    if isinstance(text, str) and re.fullmatch(r"\s*[-+]?[\d.]+\s*", text):
        raise ValueError("must be a day or a time, such as 2026-11-21")
    return text


Time = Annotated[
    datetime.datetime | None,
    BeforeValidator(_no_number),
    Query(description="A day or a time; without a zone: UTC."),
]


@router.get(
    "/v1/usage",
    response_model=schemas.UsageReport,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string", "title": "UsageCsv"}}}}},
)
async def get_usage(
    caller: Reader,
    service: Service,
    start: Annotated[Time, Query(alias="from")] = None,
    end: Annotated[Time, Query(alias="to")] = None,
    group_by: schemas.GroupBy = "day",
    user_id: Annotated[str | None, Query(description="With the scope `admin`: an id, or `all`.")] = None,
    format: Literal["json", "csv"] | None = None,
    accept: Annotated[str, Header()] = "",
) -> schemas.UsageReport | Response:
    """What was drawn and what it cost, from a time up to but not including another; by default 30 days."""
    report = await service.report(caller, group_by, start, end, user_id)
    if format == "csv" or (format is None and accept.startswith("text/csv")):
        return _as_csv(report)
    return report


@router.get("/v1/usage/forecast", response_model=schemas.Forecast)
async def forecast_usage(
    caller: Reader,
    service: Forecasting,
    images: Annotated[int, Query(ge=1, le=1_000_000_000)] = 1000,
    model: Annotated[str | None, Query(max_length=100)] = None,
    gpu: Annotated[str | None, Query(max_length=100)] = None,
) -> schemas.Forecast:
    """What so many images will cost, going by measured medians, else by the price table."""
    return await service.forecast(images, model, gpu)


@router.get("/v1/budget", response_model=schemas.Budget)
async def get_budget(caller: Reader, budgets: Budgeting) -> schemas.Budget:
    """The caller's limits, and what counts against them now."""
    return await budgets.get(caller)


@router.put("/v1/budget", response_model=schemas.Budget)
async def set_budget(body: schemas.BudgetWrite, caller: Generator, budgets: Budgeting) -> schemas.Budget:
    """Replace the caller's own budget. An administrator's ceiling holds whatever it says."""
    return await budgets.set(caller, body)


@router.get("/v1/admin/budgets/{user_id}", response_model=schemas.AdminBudget)
async def get_user_budget(user_id: UUID, caller: Admin, budgets: Budgeting) -> schemas.AdminBudget:
    """The ceiling of a user, and what counts against it now."""
    return await budgets.get_ceiling(user_id)


@router.put("/v1/admin/budgets/{user_id}", response_model=schemas.AdminBudget)
async def set_user_budget(
    user_id: UUID, body: schemas.BudgetWrite, caller: Admin, budgets: Budgeting
) -> schemas.AdminBudget:
    """Replace the ceiling of a user."""
    return await budgets.set_ceiling(user_id, body)


@router.get("/v1/admin/stats", response_model=schemas.Stats)
async def get_stats(caller: Admin, service: Service) -> schemas.Stats:
    """How jobs, calls, storage, users and webhooks stand."""
    return await service.stats()


def _as_csv(report: schemas.UsageReport) -> Response:
    text = io.StringIO()
    columns = [name for name in schemas.UsageRow.model_fields if name != "key"]
    writer = csv.DictWriter(text, [report.group_by, *columns], lineterminator="\n")
    writer.writeheader()
    for row in report.data:
        writer.writerow({report.group_by: _as_cell(row.key), **row.model_dump(exclude={"key"})})
    headers = {"Content-Disposition": f'attachment; filename="usage-by-{report.group_by}.csv"'}
    return Response(text.getvalue(), media_type="text/csv", headers=headers)


def _as_cell(key: str | None) -> str:
    """Spreadsheets take a text that begins so for a formula; a character's id may be anybody's words."""
    return f"'{key}" if key and key[0] in "=+-@\t\r" else key or ""

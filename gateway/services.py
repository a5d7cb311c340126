"""What the gateway consists of, built from the settings: one line a service, those that others use first.

Routes find each as ``request.app.state.<name>``.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import tracing
from gateway.auth import Authenticator
from gateway.batches.repository import BatchRows
from gateway.batches.service import Batches
from gateway.characters.drawing import Drawing
from gateway.characters.pictures import CharacterPictures
from gateway.characters.plans import PLANS as CHARACTER_PLANS
from gateway.characters.rendering import CharacterRenderer
from gateway.characters.repository import CharacterRows
from gateway.characters.service import Characters
from gateway.characters.sources import Sources
from gateway.comics.drawing import PanelDrawing
from gateway.comics.export.faces import Faces
from gateway.comics.export.service import Exports
from gateway.comics.panels import Panels
from gateway.comics.plan import PANEL, PanelPlan
from gateway.comics.rendering import ComicRenderer
from gateway.comics.repository import ComicRows
from gateway.comics.service import Comics
from gateway.comics.watching import ComicEvents
from gateway.config import Settings
from gateway.db import Database
from gateway.events import EventHub
from gateway.gpu import GpuClient
from gateway.images.derivations import Derivations
from gateway.images.repository import ImageRows
from gateway.images.service import Images
from gateway.jobs.callbacks import Callbacks
from gateway.jobs.drafts import Drafts
from gateway.jobs.estimates import Estimates
from gateway.jobs.image_plan import ImagePlan
from gateway.jobs.ingestion import Ingestion
from gateway.jobs.language_plan import TASKS as LANGUAGE_TASKS
from gateway.jobs.language_plan import LanguagePlan
from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.loras import JobLoras
from gateway.jobs.plans import Plan
from gateway.jobs.references import References
from gateway.jobs.rendering import Renderer
from gateway.jobs.repository import Jobs
from gateway.jobs.service import JobService
from gateway.jobs.steps import Steps
from gateway.jobs.telling import Subjects
from gateway.jobs.upscale_plan import UpscalePlan
from gateway.loras.fetching import Fetcher
from gateway.loras.keeping import LoraObjects
from gateway.loras.places import Places
from gateway.loras.repository import LoraRows
from gateway.loras.service import Loras
from gateway.metrics.database import DatabaseMetrics
from gateway.openai.models import Models
from gateway.openai.service import OpenAIImages
from gateway.outside import Outside
from gateway.pictures import Pictures
from gateway.prompts.templates import Templates
from gateway.rates import Rates
from gateway.replay.plan import REPLAY, ReplayPlan
from gateway.replay.repository import ReplayRows
from gateway.replay.service import Replays
from gateway.storage import DESIGNS, Buckets
from gateway.storage.buckets import open_buckets
from gateway.storage.deletions import Deletions, Keeper
from gateway.storage.sweep import Sweep
from gateway.uploads.keeping import UploadObjects
from gateway.uploads.repository import UploadRows
from gateway.uploads.service import Uploads
from gateway.usage.budgets import Budgets
from gateway.usage.estimator import Estimator
from gateway.usage.forecasts import Forecasts
from gateway.usage.history import History
from gateway.usage.repository import UsageRows
from gateway.usage.service import UsageService
from gateway.webhooks.sender import Sender
from gateway.webhooks.service import Webhooks
from gateway.worker import Chore, Worker, new_name
from styles import FRANCHISES, Franchise
from styles.franchises import load as load_franchises

if TYPE_CHECKING:
    from gateway.auth.supabase import SupabaseAuth

DELETIONS_SECONDS = 2.0
UPLOADS_SECONDS = 600.0
LORAS_SECONDS = 3600.0
PANELS_SECONDS = 3600.0
SWEEP_SECONDS = 6 * 3600.0
FIRST_SWEEP_SECONDS = 600.0
"""A gateway that starts again and again does not list the buckets each time."""


@dataclass(frozen=True)
class Services:
    db: Database
    rates: Rates
    metrics: DatabaseMetrics
    buckets: Buckets
    gpu: GpuClient
    outside: Outside
    supabase_auth: "SupabaseAuth | None"
    authenticator: Authenticator
    callbacks: Callbacks
    on_callback: Callable[[ClaimedJob | None], Awaitable[None]]
    uploads: Uploads
    loras: Loras
    usage: UsageService
    budgets: Budgets
    forecasts: Forecasts
    renderer: Renderer
    webhooks: Webhooks
    webhook_sender: Sender
    templates: Templates
    images: Images
    derivations: Derivations
    jobs: JobService
    drafts: Drafts
    estimates: Estimates
    batches: Batches
    replays: Replays
    characters: Characters
    character_pictures: CharacterPictures
    character_renderer: CharacterRenderer
    comics: Comics
    panels: Panels
    comic_renderer: ComicRenderer
    comic_events: ComicEvents
    exports: Exports
    openai_images: OpenAIImages
    models: Models


def plans() -> dict[str, Plan]:
    """Who leads a job, by the name in its row."""
    drawing = {"image": ImagePlan(), "upscale": UpscalePlan(), REPLAY: ReplayPlan(), PANEL: PanelPlan()}
    return {**drawing, **dict.fromkeys(LANGUAGE_TASKS, LanguagePlan()), **CHARACTER_PLANS}


def keepers(db: Database) -> list[Keeper]:
    """Every slice whose rows name objects."""
    return [ImageRows(db), UploadObjects(db), LoraObjects(db)]


def franchises_of(settings: Settings) -> tuple[Franchise, ...]:
    """The house's own, or those of the operator's file."""
    return load_franchises(Path(settings.franchises_file)) if settings.franchises_file else FRANCHISES


def chores(db: Database, buckets: Buckets, gpu: GpuClient, uploads: Uploads, fetcher: Fetcher) -> list[Chore]:
    """What a worker does now and then."""
    deletions = Deletions(db, buckets, keepers(db), drop_copies=gpu.forget_all)
    sweep = Sweep(db, buckets, keepers(db))
    return [
        Chore("uploads", uploads.sweep, every_seconds=UPLOADS_SECONDS),
        Chore("loras", fetcher.tidy, every_seconds=LORAS_SECONDS),
        Chore("panels", ComicRows(db).forget_deleted, every_seconds=PANELS_SECONDS),
        Chore("deletions", deletions.carry_out, every_seconds=DELETIONS_SECONDS),
        Chore("sweep", sweep.run, every_seconds=SWEEP_SECONDS, first_after_seconds=FIRST_SWEEP_SECONDS),
    ]


def _supabase_auth(settings: Settings) -> "SupabaseAuth | None":
    if not settings.supabase_url:
        return None
    from gateway.auth.supabase import SupabaseAuth  # noqa: PLC0415 - 12 MB that only a project needs

    return SupabaseAuth(settings)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Services]:
    """Every service, connected and at work; closed in the opposite order."""
    async with AsyncExitStack() as stack:
        name, led_by = new_name(), plans()
        await stack.enter_async_context(tracing.running(settings))
        db = await stack.enter_async_context(Database(settings))
        buckets = await stack.enter_async_context(open_buckets(settings))
        supabase_auth = _supabase_auth(settings)
        if supabase_auth:
            await stack.enter_async_context(supabase_auth)
        gpu = await stack.enter_async_context(GpuClient(settings))
        hub = await stack.enter_async_context(EventHub(db))
        outside = Outside(allow_private=settings.allow_private_urls)
        pictures = Pictures()
        uploads = Uploads(UploadRows(db), buckets, pictures, outside, drop_copies=gpu.forget_all)
        places = Places(settings)
        fetcher = await stack.enter_async_context(Fetcher(LoraRows(db), buckets, outside, places, settings))
        loras = Loras(LoraRows(db), buckets, places, fetcher, settings)
        rows = Jobs(db, led_by)
        ingestion = Ingestion(gpu, outside, buckets[DESIGNS])
        steps = Steps(rows, gpu, buckets, ingestion, settings, name, led_by)
        worker = Worker(name, rows, steps, hub, settings, chores(db, buckets, gpu, uploads, fetcher))
        await stack.enter_async_context(worker)
        estimator = Estimator(History(db), gpu)
        budgets = Budgets(UsageRows(db))
        images = Images(ImageRows(db), buckets)
        renderer = Renderer(settings.public_url, buckets, led_by, estimator)
        sender = Sender(db, outside, Subjects(rows, renderer).describe)
        if settings.worker:
            await stack.enter_async_context(sender)
        references, job_loras = References(rows, uploads), JobLoras(loras, franchises_of(settings))
        drafts = Drafts(gpu, estimator, settings, references, job_loras)
        estimates = Estimates(drafts, job_loras, estimator, budgets)
        jobs = JobService(
            *(rows, hub, budgets, drafts, references), on_created=worker.expect, on_canceled=worker.sweep
        )
        portrayed, drawing = CharacterRows(db), Drawing(drafts, settings)
        sources = Sources(uploads, loras)
        characters = Characters(portrayed, jobs, sources, drawing)
        comic_rows = ComicRows(db)
        yield Services(
            db=db,
            rates=Rates(settings),
            metrics=DatabaseMetrics(db),
            buckets=buckets,
            gpu=gpu,
            outside=outside,
            supabase_auth=supabase_auth,
            authenticator=Authenticator(db, settings, supabase_auth),
            callbacks=Callbacks(rows, settings, name),
            on_callback=_on_callback(hub, worker),
            uploads=uploads,
            loras=loras,
            usage=UsageService(UsageRows(db)),
            budgets=budgets,
            forecasts=Forecasts(estimator, settings),
            renderer=renderer,
            webhooks=Webhooks(db, outside),
            webhook_sender=sender,
            templates=Templates(db),
            images=images,
            derivations=Derivations(images, jobs, drafts, settings),
            jobs=jobs,
            drafts=drafts,
            estimates=estimates,
            batches=Batches(BatchRows(db), jobs, estimates),
            replays=Replays(ReplayRows(db), images, pictures, jobs, drafts, settings),
            characters=characters,
            character_pictures=CharacterPictures(portrayed, characters, jobs, sources, drawing, buckets, gpu),
            character_renderer=CharacterRenderer(portrayed, renderer),
            comics=Comics(comic_rows),
            panels=Panels(comic_rows, jobs, PanelDrawing(drafts, characters, gpu, settings)),
            comic_renderer=ComicRenderer(comic_rows, renderer, settings.public_url),
            comic_events=ComicEvents(comic_rows, hub),
            exports=Exports(comic_rows, buckets, Faces(settings.lettering_font_files)),
            openai_images=OpenAIImages(jobs, images, uploads, renderer),
            models=Models(db, gpu, settings.default_model),
        )


def _on_callback(hub: EventHub, worker: Worker) -> Callable[[ClaimedJob | None], Awaitable[None]]:
    """What happens after the GPU service's webhook has been answered."""

    async def on_callback(job: ClaimedJob | None) -> None:
        hub.hint()
        if job is not None:
            worker.settle(job)

    return on_callback

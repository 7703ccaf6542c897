"""Serving's composition root: the only place that builds clients, threads and the app."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from math import inf

from fastapi import FastAPI
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from services.serving import metrics, repository
from services.serving.config import ServingSettings
from services.serving.drain import Drain
from services.serving.models.catalogue import Catalogue
from services.serving.models.follower import Follower
from services.serving.models.listener import Listener
from services.serving.models.loader import Loader
from services.serving.models.recent import RecentRequests
from services.serving.models.slots import ModelSlots
from services.serving.offline.generations import Generations
from services.serving.offline.lookup import Lookups
from services.serving.oip import errors as oip_errors
from services.serving.postprocessing.changes import PostprocessingChanges
from services.serving.postprocessing.current import Configurations
from services.serving.predict import Predictor
from services.serving.prediction_log.folder import claim
from services.serving.prediction_log.shipping import Shipping
from services.serving.prediction_log.spool import Spool
from services.serving.prediction_log.sync import Syncer
from services.serving.releases import Releases
from services.serving.routes import admin, feedback, offline, oip, postprocessing, predict, rank
from services.serving.routes.state import Serving
from services.serving.saved_keys import SavedKeys
from services.serving.server import allow_files
from services.serving.shadow.mirror import Mirror
from services.serving.transactions import Transactions
from shared.artifacts import ArtifactStore, open_store
from shared.config import CommonSettings
from shared.keyring import KeyRing, read_from
from shared.prediction_ids import PredictionIds
from shared.registry.session import Sessions, make_sessions, open_engine
from shared.web.app import Exposition, make_app
from shared.web.patience import Patience

DESCRIPTION = """Predictions from the live model, logged before they leave; feedback on them; and which version is live.

A prediction needs no database: the deployment pointer, API keys and models are kept at hand."""

ALWAYS = ("/healthz", "/readyz", "/metrics", "/admin/", "/v2/health/")
"""Paths that answer however many connections there are."""


def create_app(
    common: CommonSettings | None = None,
    settings: ServingSettings | None = None,
    exposition: Exposition | None = None,
) -> FastAPI:
    """The serving app. Settings come from the environment unless given; so do metrics from this process alone."""
    common = common or CommonSettings()
    settings = settings or ServingSettings()
    engine = open_engine(common.sqlalchemy_url, application="relevo-serving")
    sessions = make_sessions(engine)
    store = open_store(common.artifacts_url)
    keys = SavedKeys(read_from(sessions), settings.spool_dir / "keys.json")
    ring = KeyRing(keys, offline_age_s=common.keys_max_age_s)
    keys.resume(ring)
    drain = Drain(settings.drain_s)
    replica = partial(
        _replica,
        common=common,
        settings=settings,
        engine=engine,
        sessions=sessions,
        store=store,
        drain=drain,
    )

    def serving() -> Serving:
        found: Serving = app.state.serving
        return found

    app = make_app(
        service="serving",
        title="Relevo serving",
        description=DESCRIPTION,
        settings=common,
        sessions=sessions,
        routers=[
            predict.router,
            rank.router,
            feedback.router,
            admin.router,
            postprocessing.router,
            oip.router,
            oip.public,
            offline.router,
        ],
        checks={
            "accepting": drain.check,
            "log": lambda: serving().check_log(),
            "models": lambda: serving().check_models(),
            "registry_age": lambda: serving().check_registry_age(),
        },
        helpful_checks={
            "postgres": lambda: serving().check_postgres(),
            "artifacts": store.ping,
            "canaries": lambda: serving().check_canaries(),
        },
        lifespan=replica,
        keys=ring,
        exposition=exposition,
    )
    oip_errors.install(app)
    app.state.patience = Patience(
        head_s=settings.head_timeout_s,
        answer_s=settings.answer_timeout_s,
        most=allow_files(settings.most_connections),
        always=ALWAYS,
    )
    return app


@contextlib.asynccontextmanager
async def _replica(
    app: FastAPI,
    *,
    common: CommonSettings,
    settings: ServingSettings,
    engine: Engine,
    sessions: Sessions,
    store: ArtifactStore,
    drain: Drain,
) -> AsyncIterator[None]:
    """The parts that live as long as the app: folder, log, slots and the threads. What starts last stops first."""
    loader = Loader(
        store,
        settings.spool_dir / "artifacts",
        threads=settings.intra_op_threads,
        recent=RecentRequests(settings.replay_requests),
        max_instances=settings.max_instances,
    )
    slots = ModelSlots(loader.load, pinned_limit=settings.pinned_versions)
    folder = claim(settings.spool_dir)
    spool = Spool(
        folder.path,
        limit_bytes=settings.spool_limit_bytes,
        segment_bytes=settings.segment_bytes,
        segment_age_s=settings.segment_age_s,
    )
    syncer = Syncer(spool, settings.sync_s)
    shipping = Shipping(
        folder.path,
        spool,
        database_url=_plain_url(common.sqlalchemy_url),
        interval_s=settings.ship_s,
        flush_s=settings.flush_s,
    )
    configurations = Configurations()
    generations = Generations(store, settings.spool_dir / "offline")
    follower = Follower(
        partial(_read_catalogue, sessions),
        slots,
        folder.path,
        poll_s=settings.poll_s,
        saved=lambda: loader.forget_others(slots.digests()),
        prepare=configurations.follow,
        also=generations.follow,
    )
    listener = Listener(_plain_url(common.sqlalchemy_url), follower.wake)
    transactions = Transactions(sessions, follower, wait_s=settings.registry_wait_s)
    ids = PredictionIds(common.prediction_secret.get_secret_value())
    mirror = Mirror(
        folder.path, settings, database_url=_plain_url(common.sqlalchemy_url), artifacts_url=common.artifacts_url
    )
    predictor = Predictor(follower, slots, spool, ids, configurations=configurations, settings=settings, mirror=mirror)
    app.state.serving = Serving(
        settings=settings,
        follower=follower,
        slots=slots,
        spool=spool,
        predictor=predictor,
        transactions=transactions,
        releases=Releases(transactions, slots, follower, settings),
        configurations=configurations,
        postprocessing=PostprocessingChanges(transactions, configurations, follower, settings),
        generations=generations,
        lookups=Lookups(follower, generations, predictor, configurations=configurations, settings=settings),
        store=store,
        ids=ids,
        mirror=mirror,
    )
    metrics.REGISTRY_AGE_SECONDS.set_function(lambda: inf if follower.age_s is None else follower.age_s)
    metrics.EXPECTED_WAIT_SECONDS.set_function(lambda: predictor.lanes.wait_s)
    metrics.SPOOL_BYTES.set_function(lambda: spool.waiting_bytes)
    metrics.SPOOL_LIMIT_BYTES.set(settings.spool_limit_bytes)
    metrics.SHIP_LAG_SECONDS.set_function(lambda: shipping.lag_s)
    for part in (syncer, shipping, follower, listener):
        part.start()
    drain.install()
    try:
        yield
    finally:
        drain.uninstall()
        await asyncio.gather(*(asyncio.to_thread(part.stop) for part in (listener, follower)))
        predictor.lanes.close()
        slots.close()
        await asyncio.to_thread(mirror.stop)
        generations.close()
        await asyncio.to_thread(shipping.stop)
        await asyncio.to_thread(syncer.stop)
        await asyncio.to_thread(spool.close)
        folder.release()
        engine.dispose()


def _read_catalogue(sessions: Sessions, known: Catalogue) -> Catalogue:
    with sessions.begin() as session:
        return repository.read_catalogue(session, known)


def _plain_url(url: str) -> str:
    """A SQLAlchemy URL as libpq takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)

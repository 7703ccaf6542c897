"""Serving's composition root: the only place that builds clients, threads and the app."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from math import inf

from fastapi import FastAPI
from sqlalchemy.engine import make_url

from services.serving import metrics, repository
from services.serving.config import ServingSettings
from services.serving.drain import Drain
from services.serving.models.catalogue import Catalogue
from services.serving.models.follower import Follower
from services.serving.models.listener import Listener
from services.serving.models.loader import Loader
from services.serving.models.slots import ModelSlots
from services.serving.predict import Predictor
from services.serving.prediction_log.folder import claim
from services.serving.prediction_log.shipper import Shipper
from services.serving.prediction_log.spool import Spool
from services.serving.prediction_log.sync import Syncer
from services.serving.releases import Releases
from services.serving.routes import admin, feedback, predict
from services.serving.routes.state import Serving
from services.serving.saved_keys import SavedKeys
from services.serving.transactions import Transactions
from shared.artifacts import open_store
from shared.config import CommonSettings
from shared.keyring import KeyRing, read_from
from shared.prediction_ids import PredictionIds
from shared.registry.session import make_sessions, open_engine
from shared.web.app import make_app

DESCRIPTION = """Predictions from the live model, logged before they leave; feedback on them; and which version is live.

A prediction needs no database: the deployment pointer, API keys and models are kept at hand."""


def plain_url(url: str) -> str:
    """A SQLAlchemy URL as libpq takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def create_app(common: CommonSettings | None = None, settings: ServingSettings | None = None) -> FastAPI:
    """The serving app. Settings come from the environment unless given."""
    common = common or CommonSettings()
    settings = settings or ServingSettings()
    engine = open_engine(common.sqlalchemy_url, application="relevo-serving")
    sessions = make_sessions(engine)
    store = open_store(common.artifacts_url)
    loader = Loader(store, settings.spool_dir / "artifacts", threads=settings.intra_op_threads)
    slots = ModelSlots(loader.load, pinned_limit=settings.pinned_versions)
    keys = SavedKeys(read_from(sessions), settings.spool_dir / "keys.json")
    ring = KeyRing(keys, offline_age_s=common.keys_max_age_s)
    keys.resume(ring)
    ids = PredictionIds(common.prediction_secret.get_secret_value())
    drain = Drain(settings.drain_s)

    def read(known: Catalogue) -> Catalogue:
        with sessions.begin() as session:
            return repository.read_catalogue(session, known)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        folder = claim(settings.spool_dir)
        spool = Spool(
            folder.path,
            limit_bytes=settings.spool_limit_bytes,
            segment_bytes=settings.segment_bytes,
            segment_age_s=settings.segment_age_s,
        )
        syncer = Syncer(spool, settings.sync_s)
        shipper = Shipper(
            settings.spool_dir, folder.path, spool, repository.PredictionStore(sessions), interval_s=settings.ship_s
        )
        follower = Follower(
            read,
            slots,
            folder.path,
            poll_s=settings.poll_s,
            saved=lambda: loader.forget_others(slots.digests()),
        )
        listener = Listener(plain_url(common.sqlalchemy_url), follower.wake)
        transactions = Transactions(sessions, follower, wait_s=settings.registry_wait_s)
        predictor = Predictor(follower, slots, spool, ids, settings)
        metrics.REGISTRY_AGE_SECONDS.set_function(lambda: inf if follower.age_s is None else follower.age_s)
        metrics.SPOOL_BYTES.set_function(lambda: spool.waiting_bytes)
        metrics.SHIP_LAG_SECONDS.set_function(lambda: shipper.lag_s)
        app.state.serving = Serving(
            settings=settings,
            follower=follower,
            slots=slots,
            predictor=predictor,
            transactions=transactions,
            releases=Releases(transactions, slots, follower, settings),
            ids=ids,
        )
        for part in (syncer, shipper, follower, listener):
            part.start()
        drain.install()
        try:
            yield
        finally:
            drain.uninstall()
            # The ring, too: nothing may use the engine once it is disposed of.
            await asyncio.gather(*(asyncio.to_thread(part.stop) for part in (listener, follower, ring)))
            predictor.close()
            slots.close()
            await asyncio.to_thread(shipper.stop, settings.flush_s)
            await asyncio.to_thread(syncer.stop)
            await asyncio.to_thread(spool.close)
            folder.release()
            engine.dispose()

    def follower_of() -> Follower:
        serving: Serving = app.state.serving
        return serving.follower

    app = make_app(
        service="serving",
        title="Relevo serving",
        description=DESCRIPTION,
        settings=common,
        sessions=sessions,
        routers=[predict.router, feedback.router, admin.router],
        checks={
            "accepting": drain.check,
            "models": lambda: follower_of().check_live(),
            "registry_age": lambda: follower_of().check_fresh(settings.registry_max_age_s),
        },
        helpful_checks={"postgres": lambda: follower_of().check_answering(), "artifacts": store.ping},
        lifespan=life,
        keys=ring,
    )
    return app

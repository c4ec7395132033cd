"""The models folder: which bundles there are, which of them are loaded, and when they leave.

Knows neither engines' insides nor the wire: an injected factory turns a bundle into an engine, and
`routing` chooses who answers. Everything but reading a bundle and building its engine happens on
the event loop. Models are loaded one at a time, so that their memory can be accounted for.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

from service.bundle import (
    CARD_FILE,
    Bundle,
    BundleCard,
    Direction,
    is_version_folder,
    precision_bytes,
    read_card,
)
from service.errors import BundleError, InvalidArgument, ModelNotFound, Starting
from service.metrics import Metrics
from service.model import Engine, EngineFactory, LoadedEngine, Model, ModelState
from service.routing import (
    choose_classification,
    choose_translation,
    direction_of,
    names,
    serving_version,
)
from service.settings import LoadModels

logger = logging.getLogger(__name__)

# How long a model that is needed waits for a call to end before it takes another one's place.
PATIENCE_SECONDS = 5.0


class ModelRepository:
    """The models under one folder.

    The highest version of each model is loaded at the start, or by its first call; the others by
    the first call that names them. `max_bytes` bounds the weights that are loaded (0: no bound):
    whoever was not used for longest leaves for who is needed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        factory: EngineFactory,
        metrics: Metrics,
        default_models: Sequence[str] = (),
        load_models: LoadModels = "start",
        max_bytes: int = 0,
        choose_precision: Callable[[BundleCard], str] = lambda card: next(iter(card.precisions)),
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._factory = factory
        self._metrics = metrics
        self._default_models = tuple(default_models)
        self._load_models = load_models
        self._max_bytes = max_bytes
        self._choose_precision = choose_precision
        self._models: dict[str, Model] = {}
        self._logged_failures: dict[str, str] = {}
        self._scanning = asyncio.Lock()
        self._loading = asyncio.Lock()
        self._scanned = False
        self._is_closing = False
        self._on_change = on_change  # called when a model can be called, or no longer can
        self._stopping_bytes = 0  # of engines that are in their last calls
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def models(self) -> list[Model]:
        """Every model, by name and then from the highest version down."""
        return sorted(self._models.values(), key=lambda model: (model.name, -model.version))

    def serves(self, task: str) -> bool:
        """Whether some model of this task can be called."""
        return any(model.can_serve and model.task == task for model in self.models)

    def get(self, name: str) -> Model:
        """The model "NAME/VERSION", or the version of "NAME" that serves; or ModelNotFound."""
        if not name:
            raise InvalidArgument("name is empty, expected NAME or NAME/VERSION", field="name")
        versions = [model for model in self.models if name in (model.name, model.full_name)]
        if not versions:
            raise ModelNotFound(f"no model {name}; there are: {names(self.models)}")
        return serving_version(versions) or versions[0]

    @asynccontextmanager
    async def translation(
        self, name: str, source: str, target: str
    ) -> AsyncIterator[tuple[Engine, Direction]]:
        """The engine that translates from `source` into `target`, kept loaded for the block.

        With it comes the direction that the codes mean to its model. Empty strings leave the choice
        open. Raises ModelNotFound, LanguagePairNotFound, Starting, ModelUnavailable, and
        InvalidArgument when the choice is the caller's to make.
        """
        chosen: list[Model] = []

        def choose() -> Model:
            chosen[:] = [
                choose_translation(self.models, name, source, target, self._default_models)
            ]
            return chosen[0]

        async with self._in_use(choose) as engine:
            # By the card as it is loaded: while a call waited for that, another may have come.
            yield engine, direction_of(chosen[0], source, target)

    @asynccontextmanager
    async def classification(self, name: str) -> AsyncIterator[Engine]:
        """The engine that classifies, kept loaded for the block; errors as for `translation`."""

        def choose() -> Model:
            return choose_classification(self.models, name, self._default_models)

        async with self._in_use(choose) as engine:
            yield engine

    async def rescan(self) -> None:
        """Load what is new or has changed or had failed; retire what is gone.

        What serves goes on until its successor has been verified and warmed up.
        """
        async with self._scanning:
            groups = self._merge(await asyncio.to_thread(self._scan))
            for model in filter(None, map(self._wanted, groups)):
                self._begin_loading(model)  # before a call can see it and wait for it
            for versions in groups:
                await self._load_newest(versions)
            for model in self._models.values():
                model.is_new = False
            if not self._scanned:
                self._warn_of_unknown_defaults()
            self._scanned = True
            self._tell_metrics()

    def _warn_of_unknown_defaults(self) -> None:
        known = {name for model in self.models for name in (model.name, model.full_name)}
        if unknown := [name for name in self._default_models if name not in known]:
            logger.warning(
                "default_models: no model %s; there are: %s",
                *(", ".join(unknown), names(self.models)),
            )

    def _on_engine_change(self) -> None:
        self._tell_metrics()
        self._on_change()

    def _tell_metrics(self) -> None:
        """Which models are loaded, and where, and which are degraded, failed or refused."""
        metrics = self._metrics
        for gauge in (
            metrics.model_info,
            metrics.model_degraded,
            metrics.model_failed,
            metrics.model_refused,
        ):
            gauge.clear()
        for model in self._models.values():
            name = model.full_name
            metrics.model_failed.labels(name).set(model.state is ModelState.FAILED)
            metrics.model_refused.labels(name).set(bool(model.failure or model.refused))
            if (engine := model.engine) is not None:
                labels = (name, model.task, engine.precision, engine.device)
                metrics.model_info.labels(*labels).set(1)
                is_degraded = model.state is ModelState.DEGRADED
                metrics.model_degraded.labels(name).set(is_degraded)

    async def close(self) -> None:
        """Stop every engine, after the one that is being made; no other is begun."""
        self._is_closing = True
        loading = [model.loading for model in self._models.values() if model.loading is not None]
        await asyncio.gather(*loading)
        for model in self._models.values():
            self._retire(model)
        self._models.clear()
        await asyncio.gather(*self._retiring)

    @asynccontextmanager
    async def _in_use(self, choose: Callable[[], Model]) -> AsyncIterator[Engine]:
        """The engine of the chosen model; where loading it fails, of the next best choice."""
        while (loaded := await self._hold(choose)) is None:
            pass
        try:
            yield loaded.engine
        finally:
            loaded.release()

    async def _hold(self, choose: Callable[[], Model]) -> LoadedEngine | None:
        """Count a call on the chosen model, loading it first if need be; None if that fails."""
        if not self._scanned and not any(model.loaded for model in self._models.values()):
            raise Starting("the models are being loaded")
        model = choose()
        if model.loaded is not None:
            model.loaded.hold()
            return model.loaded
        if not self._scanned:
            raise Starting(f"{model.full_name} is being loaded")
        waiter: asyncio.Future[LoadedEngine | None] = asyncio.get_running_loop().create_future()
        model.waiting.append(waiter)
        self._begin_loading(model)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and (loaded := waiter.result()) is not None:
                loaded.release()  # it was handed over to a caller who had just left
            raise

    def _scan(self) -> list[Model]:
        """What the folder holds: NAME/VERSION/bundle.json."""
        if not self._folder.is_dir():
            logger.warning("expected a folder of models at %s, found none", self._folder)
            return []
        cards = sorted(self._folder.glob(f"*/*/{CARD_FILE}"))
        return [self._read(path) for path in cards if is_version_folder(path.parent)]

    def _read(self, path: Path) -> Model:
        """A model as its card describes it; the other files are not looked at yet."""
        folder = path.parent
        model = Model(folder.parent.name, int(folder.name), folder)
        try:
            status = path.stat()
            model.fingerprint = (status.st_mtime_ns, status.st_size)
            self._describe(model, read_card(folder))
        except (BundleError, OSError) as error:  # it may be gone since the folder was listed
            model.failure = str(error)
        return model

    def _describe(self, model: Model, card: BundleCard) -> None:
        """Take over what the card says. Raises BundleError for what cannot be served here."""
        model.card = card
        if card.name != model.name:
            raise BundleError(
                f"expected a bundle named {model.name}, as its folder, found {card.name}"
            )
        precision = self._choose_precision(card)
        model.num_bytes = precision_bytes(model.folder, card, precision)
        if 0 < self._max_bytes < model.num_bytes:
            raise BundleError(
                f"expected {precision} files of at most {self._max_bytes} bytes, "
                f"which is model_memory, found {model.num_bytes}"
            )

    def _merge(self, found: Sequence[Model]) -> list[list[Model]]:
        """Bring the models up to date -> the versions of each, the highest first.

        A successor of what serves is in that list alone, until it has been loaded.
        """
        orphaned = set()  # names whose version before the one that is gone has to take over
        for full_name in set(self._models) - {model.full_name for model in found}:
            gone = self._models[full_name]
            if gone.loaded is None or not gone.folder.is_dir():  # else it is being replaced
                self._retire(self._models.pop(full_name))
                orphaned.add(gone.name)
        groups: dict[str, list[Model]] = {}
        for model in sorted(found, key=lambda model: (model.name, -model.version)):
            known = self._models.get(model.full_name)
            if known is not None and known.can_serve and known.fingerprint == model.fingerprint:
                known.refused = ""
                model = known
            elif known is None or (known.loaded is None and known.loading is None):
                self._models[model.full_name] = model
            if model.failure:
                self._fail(model, model.failure)
            model.is_new |= model.name in orphaned
            groups.setdefault(model.name, []).append(model)
        return list(groups.values())

    async def _load_newest(self, versions: Sequence[Model]) -> None:
        """Load the highest version that can be; those below it that served until then, leave."""
        while (model := self._wanted(versions)) is not None:
            model.is_new = False
            await asyncio.shield(self._begin_loading(model))
            if model.loaded is not None:
                for predecessor in versions[versions.index(model) + 1 :]:
                    self._retire(predecessor)

    def _wanted(self, versions: Sequence[Model]) -> Model | None:
        """Which version of a model should be loaded without waiting for a call."""
        able = [model for model in versions if not model.failure]
        successors = [model for model in able if self._models[model.full_name] is not model]
        if successors:
            return successors[0] if successors[0].is_new else None
        newest = next(iter(able), None)
        if newest is None or not newest.is_new:
            return None
        in_use = [m for m in self._models.values() if m.name == newest.name and m.loaded]
        if in_use:
            return newest if all(model.version < newest.version for model in in_use) else None
        # At the start nobody leaves for a model that no call has asked for.
        return newest if self._load_models == "start" and self._has_room(newest) else None

    def _begin_loading(self, model: Model) -> asyncio.Task[None]:
        """The task that loads it, one for all who wait."""
        if model.loading is None:
            model.loading = asyncio.create_task(self._load(model))
        return model.loading

    async def _load(self, model: Model) -> None:
        """Verify the bundle and build its engine in a thread; a failure stays with this model."""
        begun = monotonic()
        try:
            bundle = await asyncio.to_thread(Bundle.open, model.folder)
            self._describe(model, bundle.card)
            async with self._loading:
                await self._make_room(model)
                if self._is_closing:
                    raise BundleError("the server is shutting down")
                engine = await asyncio.to_thread(self._factory, bundle)
                engine.start(self._on_engine_change)
                self._serve(model, engine, monotonic() - begun)
        except (BundleError, OSError) as error:
            self._fail(model, str(error))
        except Exception:
            logger.exception("model %s failed to load", model.full_name)
            self._fail(model, "internal error while loading; the server's log has it")
        finally:
            model.loading = None
            model.hand_over()
            self._on_engine_change()

    def _has_room(self, model: Model) -> bool:
        """Whether it fits beside those that are loaded or about to be."""
        others = (m for m in self._models.values() if m.loaded or m.loading)
        taken = sum(other.num_bytes for other in others if other is not model)
        return not self._max_bytes or taken + model.num_bytes <= self._max_bytes

    async def _make_room(self, model: Model) -> None:
        """Unload who was not used for longest, until the model fits.

        Whoever is in a call is left alone for a while; what this model is to replace goes last.
        """

        def order(other: Model) -> tuple[bool, bool, float]:
            assert other.loaded is not None
            is_busy = not other.loaded.is_idle
            return other.name == model.name, is_busy, other.loaded.last_used

        while self._max_bytes:
            others = [other for other in self._models.values() if other.loaded is not None]
            taken = sum(other.num_bytes for other in others) + self._stopping_bytes
            if taken + model.num_bytes <= self._max_bytes:
                return
            if not others:
                await asyncio.gather(*self._retiring)  # nothing but last calls takes memory
                continue
            if not any(other.loaded.is_idle for other in others if other.loaded):
                await _first_idle([other.loaded for other in others if other.loaded])
            await self._unload(min(others, key=order))

    def _serve(self, model: Model, engine: Engine, seconds: float) -> None:
        """Let it answer from now on, in the place of a predecessor."""
        predecessor = self._models.get(model.full_name)
        model.loaded = LoadedEngine(engine)
        if predecessor is None:
            self._retire(model)
            raise BundleError("its folder was removed while it was loaded")
        model.has_served = True
        model.hand_over()  # before anybody else may want its memory
        self._models[model.full_name] = model
        self._logged_failures.pop(model.full_name, None)
        if predecessor is not model:
            self._retire(predecessor)
        self._metrics.model_load_seconds.labels(model.full_name).observe(seconds)
        logger.info(
            "model %s is ready: %s, %s, loaded in %.2f s",
            *(model.full_name, engine.precision, engine.device, seconds),
        )

    def _fail(self, model: Model, message: str) -> None:
        """Remember why; a predecessor that still serves goes on, and says so."""
        model.failure = message
        serving = self._models.get(model.full_name)
        if serving is not None and serving is not model:
            serving.refused = message
        if self._logged_failures.get(model.full_name) != message:  # polling tries again and again
            self._logged_failures[model.full_name] = message
            logger.error("model %s failed to load: %s", model.full_name, message)

    def _retire(self, model: Model) -> None:
        """Unload it in the background, as soon as no call uses it."""
        if model.loaded is not None:
            task = asyncio.create_task(self._stop(model, _taken(model)))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _unload(self, model: Model) -> None:
        """No call finds the engine any more; it ends after those that it is in."""
        if model.loaded is not None:
            await self._stop(model, _taken(model))

    async def _stop(self, model: Model, loaded: LoadedEngine) -> None:
        self._stopping_bytes += model.num_bytes
        try:
            await loaded.stop()
        finally:
            self._stopping_bytes -= model.num_bytes
        self._tell_metrics()
        logger.info("model %s is unloaded", model.full_name)


async def _first_idle(engines: Sequence[LoadedEngine]) -> None:
    """Return when one of them is in no call, or when patience is at its end."""
    waiting = [asyncio.ensure_future(engine.wait_idle()) for engine in engines]
    await asyncio.wait(waiting, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiting:
        waiter.cancel()


def _taken(model: Model) -> LoadedEngine:
    """Take its engine away from the model."""
    loaded, model.loaded = model.loaded, None
    assert loaded is not None
    return loaded

"""The models folder: which bundles there are, which of them serve, and who answers a request.

Knows neither engines' insides nor the wire: an injected factory turns a bundle into an engine.
Everything but opening a bundle and building its engine happens on the event loop.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import Protocol

from service.bundle import CARD_FILE, Bundle, BundleCard, LanguagePair, TranslationCard, read_card
from service.errors import (
    BundleError,
    InvalidArgument,
    LanguagePairNotFound,
    ModelNotFound,
    ModelUnavailable,
    Starting,
)
from service.metrics import Metrics

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """What the repository needs of an engine; constructing one loads and warms up its model."""

    @property
    def model_name(self) -> str:
        """ "NAME/VERSION"."""

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""

    @property
    def precision(self) -> str:
        """ "fp32", "int8" or "fp16"."""

    @property
    def degraded(self) -> str | None:
        """Why it does not serve as it was meant to; None while it does."""

    def start(self) -> None:
        """Begin to serve, on the running loop."""

    async def stop(self) -> None:
        """End all threads; no call is running any more."""


EngineFactory = Callable[[Bundle], Engine]


class ModelState(Enum):
    """Whether a model can be called."""

    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(slots=True)
class Model:
    """One version of one model, whatever became of it."""

    name: str
    version: int
    folder: Path
    fingerprint: tuple[int, int]
    card: BundleCard | None = None
    engine: Engine | None = None
    failure: str = ""
    num_calls: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def full_name(self) -> str:
        """ "NAME/VERSION"."""
        return f"{self.name}/{self.version}"

    @property
    def state(self) -> ModelState:
        """LOADING until it has an engine or a failure."""
        if self.engine is not None:
            return ModelState.DEGRADED if self.engine.degraded else ModelState.READY
        return ModelState.FAILED if self.failure else ModelState.LOADING

    @property
    def state_message(self) -> str:
        """Why it is degraded or failed."""
        return (self.engine.degraded or "") if self.engine is not None else self.failure

    @property
    def task(self) -> str:
        """The card's task; empty while the card is unread."""
        return self.card.task if self.card is not None else ""


class ModelRepository:
    """The models under one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        factory: EngineFactory,
        metrics: Metrics,
        default_models: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._factory = factory
        self._metrics = metrics
        self._default_models = tuple(default_models)
        self._models: dict[str, Model] = {}
        self._scanning = asyncio.Lock()
        self._scanned = False
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def models(self) -> list[Model]:
        """Every model, by name and then from the highest version down."""
        return sorted(self._models.values(), key=lambda model: (model.name, -model.version))

    def serves(self, task: str) -> bool:
        """Whether some model of this task can be called."""
        return any(model.engine is not None and model.task == task for model in self.models)

    async def rescan(self) -> None:
        """Load what is new or has changed or had failed; retire what is gone."""
        async with self._scanning:
            found = {model.full_name: model for model in await asyncio.to_thread(self._scan)}
            for full_name in set(self._models) - set(found):
                self._retire(self._models.pop(full_name))
            new = [model for model in found.values() if self._is_new(model)]
            for model in new:
                # what serves under this name goes on until its successor is there
                self._models.setdefault(model.full_name, model)
            for model in new:
                await self._load(model)
            self._scanned = True

    async def close(self) -> None:
        """Stop every engine."""
        for model in self._models.values():
            self._retire(model)
        self._models.clear()
        await asyncio.gather(*self._retiring)

    def get(self, name: str) -> Model:
        """The model "NAME/VERSION", or the highest ready version of "NAME"; or ModelNotFound."""
        if not name:
            raise InvalidArgument("name is empty, expected NAME or NAME/VERSION", field="name")
        versions = [model for model in self.models if name in (model.name, model.full_name)]
        if not versions:
            raise ModelNotFound(f"no model {name}; there are: {_names(self.models)}")
        ready = [model for model in versions if model.engine is not None]
        return (ready or versions)[0]

    @contextmanager
    def translation(self, name: str, source: str, target: str) -> Iterator[Engine]:
        """The engine that translates from `source` into `target`, kept loaded for the block.

        Empty strings leave the choice open. Raises ModelNotFound, LanguagePairNotFound, Starting,
        ModelUnavailable, and InvalidArgument when the choice is the caller's to make.
        """
        candidates = self._candidates(name, "translation")
        scores = [(_specificity(model, source, target), model) for model in candidates]
        best = max(score for score, _ in scores)
        if best < 0:
            wanted = f"{source or 'any language'} to {target or 'any language'}"
            raise LanguagePairNotFound(f"no model for {wanted}; there are: {_pairs(candidates)}")
        model = self._preferred([model for score, model in scores if score == best])
        _check_unambiguous(model, source, target)
        with _in_use(model) as engine:
            yield engine

    @contextmanager
    def classification(self, name: str) -> Iterator[Engine]:
        """The engine that classifies, kept loaded for the block; errors as for `translation`."""
        with _in_use(self._preferred(self._candidates(name, "classification"))) as engine:
            yield engine

    def _candidates(self, name: str, task: str) -> list[Model]:
        """What a request may mean: the version it names, or each name's serving version."""
        named = [model for model in self.models if name in ("", model.name, model.full_name)]
        of_task = [model for model in named if model.task == task]
        ready = [model for model in of_task if model.engine is not None]
        if ready:
            return [model for model in ready if model is _highest(ready, model.name)]
        if not self._scanned:
            raise Starting("the models are being loaded")
        if broken := of_task or [model for model in named if not model.task]:
            states = (f"{each.full_name} is {each.state.value} {each.failure}" for each in broken)
            raise ModelUnavailable(f"no {task} model can be called: {'; '.join(states)}")
        others = _names(model for model in self.models if model.task == task)
        raise ModelNotFound(f"no {task} model{name and f' {name}'}; there are: {others}")

    def _preferred(self, candidates: Sequence[Model]) -> Model:
        """One of `default_models` if it is among them, else the alphabetically first."""
        for name in self._default_models:
            for model in candidates:
                if name in (model.name, model.full_name):
                    return model
        return candidates[0]

    def _scan(self) -> list[Model]:
        """What the folder holds: NAME/VERSION/bundle.json."""
        if not self._folder.is_dir():
            logger.warning("expected a folder of models at %s, found none", self._folder)
            return []
        found = []
        for path in sorted(self._folder.glob(f"*/*/{CARD_FILE}")):
            name, version = path.parts[-3:-1]
            if version.isascii() and version.isdigit() and not name.startswith("."):
                status = path.stat()
                fingerprint = (status.st_mtime_ns, status.st_size)
                found.append(Model(name, int(version), path.parent, fingerprint))
        return found

    def _is_new(self, found: Model) -> bool:
        known = self._models.get(found.full_name)
        return known is None or known.engine is None or known.fingerprint != found.fingerprint

    async def _load(self, model: Model) -> None:
        """Open the bundle and build its engine in a thread; a failure stays with this model."""
        started = perf_counter()
        try:
            engine = await asyncio.to_thread(self._build, model)
            engine.start()
        except BundleError as error:
            self._fail(model, str(error))
        except Exception:
            logger.exception("model %s failed to load", model.full_name)
            self._fail(model, "internal error while loading; the server's log has it")
        else:
            model.engine = engine
            self._serve(model, perf_counter() - started)

    def _build(self, model: Model) -> Engine:
        model.card = read_card(model.folder)
        if model.card.name != model.name:
            raise BundleError(
                f"expected a bundle named {model.name}, as its folder, found {model.card.name}"
            )
        return self._factory(Bundle.open(model.folder))

    def _serve(self, model: Model, seconds: float) -> None:
        """Let it answer from now on, in the place of a predecessor."""
        predecessor = self._models.get(model.full_name)
        self._models[model.full_name] = model
        if predecessor is not None and predecessor is not model:
            self._retire(predecessor)
        if model.engine is not None:
            precision, device = model.engine.precision, model.engine.device
            self._metrics.model_info.labels(model.full_name, model.task, precision, device).set(1)
            self._metrics.model_load_seconds.labels(model.full_name).observe(seconds)
            logger.info(
                "model %s is ready: %s, %s, loaded in %.2f s",
                *(model.full_name, precision, device, seconds),
            )

    def _fail(self, model: Model, message: str) -> None:
        """Remember why; a version of it that still serves goes on."""
        known = self._models.get(model.full_name)
        if known is None or known.failure != message:  # polling tries again and again
            logger.error("model %s failed to load: %s", model.full_name, message)
        model.failure = message
        if known is None or known.engine is None:
            self._models[model.full_name] = model

    def _retire(self, model: Model) -> None:
        if model.engine is not None:
            task = asyncio.create_task(self._stop_when_idle(model, model.engine))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _stop_when_idle(self, model: Model, engine: Engine) -> None:
        """No engine ends while a call may still use it."""
        if model.num_calls:
            await model.idle.wait()
        await engine.stop()
        labels = (model.full_name, model.task, engine.precision, engine.device)
        if self._models.get(model.full_name) is None:
            self._metrics.model_info.remove(*labels)
        logger.info("model %s is unloaded", model.full_name)


def _highest(models: Iterable[Model], name: str) -> Model:
    return max((model for model in models if model.name == name), key=lambda model: model.version)


@contextmanager
def _in_use(model: Model) -> Iterator[Engine]:
    """Count a call, so that the engine is not stopped under it."""
    if model.engine is None:
        raise ModelUnavailable(f"{model.full_name} is {model.state.value}")
    model.num_calls += 1
    model.idle.clear()
    try:
        yield model.engine
    finally:
        model.num_calls -= 1
        if model.num_calls == 0:
            model.idle.set()


def _fitting_pairs(model: Model, source: str, target: str) -> list[LanguagePair]:
    if not isinstance(model.card, TranslationCard):
        return []
    return [
        pair
        for pair in model.card.language_pairs
        if _matches(source, pair.source) and _matches(target, pair.target)
    ]


def _specificity(model: Model, source: str, target: str) -> int:
    """How much of the codes that were asked for the model knows; -1 if it does not fit."""
    return max(
        (
            len(pair.source if source else "") + len(pair.target if target else "")
            for pair in _fitting_pairs(model, source, target)
        ),
        default=-1,
    )


def _check_unambiguous(model: Model, source: str, target: str) -> None:
    for asked, side in ((source, "source"), (target, "target")):
        codes = {getattr(pair, side) for pair in _fitting_pairs(model, source, target)}
        if not asked and len(codes) > 1:
            raise InvalidArgument(
                f"{model.full_name} has several {side} languages, name one: {sorted(codes)}",
                field=f"{side}_language_code",
            )


def _matches(asked: str, served: str) -> bool:
    """Whether `served` was asked for or is what it falls back to: en-Latn-GB -> en-Latn -> en.

    BCP 47 section 4.5, Lookup (RFC 4647 section 3.4); codes compare without case.
    """
    return not asked or f"{asked}-".lower().startswith(f"{served}-".lower())


def _names(models: Iterable[Model]) -> str:
    return ", ".join(model.full_name for model in models) or "none"


def _pairs(models: Iterable[Model]) -> str:
    return ", ".join(
        f"{pair.source} to {pair.target} ({model.name})"
        for model in models
        if isinstance(model.card, TranslationCard)
        for pair in model.card.language_pairs
    )

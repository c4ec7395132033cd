"""Who answers a request: the model that its name, its languages and the settings lead to.

Pure functions over the models that there are; nothing is loaded here.
"""

from collections.abc import Iterable, Sequence

from service.bundle import Direction, TranslationCard
from service.errors import LanguagePairNotFound, ModelNotFound, ModelUnavailable
from service.languages import choose_direction, fit, no_direction
from service.model import Model


def choose_translation(
    models: Sequence[Model], name: str, source: str, target: str, default_models: Sequence[str]
) -> Model:
    """The model that translates from `source` into `target`; empty strings leave a choice open.

    Raises ModelNotFound, LanguagePairNotFound, ModelUnavailable, and InvalidArgument when the
    choice is the caller's to make.
    """
    candidates = _candidates(models, name, "translation")
    scores = [(_score(model, source, target), model) for model in candidates]
    best = max(score for score, _ in scores)
    if best < 0:
        raise LanguagePairNotFound(no_direction(map(_card, candidates), source, target))
    model = _preferred([model for score, model in scores if score == best], default_models)
    direction_of(model, source, target)  # or else refuse before it is loaded
    return model


def direction_of(model: Model, source: str, target: str) -> Direction:
    """Which of the model's directions the codes mean.

    Raises LanguagePairNotFound, and InvalidArgument when the choice is the caller's to make.
    """
    return choose_direction(_card(model), source, target)


def choose_classification(
    models: Sequence[Model], name: str, default_models: Sequence[str]
) -> Model:
    """The model that classifies. Raises ModelNotFound and ModelUnavailable."""
    return _preferred(_candidates(models, name, "classification"), default_models)


def serving_version(versions: Iterable[Model]) -> Model | None:
    """Which of a model's versions answers where none is named: the highest that can.

    While a version that has never served is being loaded, the one before it goes on.
    """
    newest_first = sorted(versions, key=lambda model: -model.version)
    able = [model for model in newest_first if model.can_serve]
    settled = [model for model in able if model.has_served or model.loading is None]
    loaded = any(model.engine is not None for model in able)
    return next(iter(settled if loaded else able), None)


def names(models: Iterable[Model]) -> str:
    """Their full names, for a message."""
    return ", ".join(model.full_name for model in models) or "none"


def _candidates(models: Sequence[Model], name: str, task: str) -> list[Model]:
    """What a request may mean: the version it names, or each name's serving version."""
    named = [model for model in models if name in ("", model.name, model.full_name)]
    of_task = [model for model in named if model.task == task]
    versions: dict[str, list[Model]] = {}
    for model in of_task:
        versions.setdefault(model.name, []).append(model)
    serving = [serving_version(group) for group in versions.values()]
    if able := [model for model in serving if model is not None]:
        return able
    if broken := of_task or [model for model in named if not model.task]:
        states = (f"{each.full_name} is {each.state.value} {each.state_message}" for each in broken)
        raise ModelUnavailable(f"no {task} model can be called: {'; '.join(states)}")
    others = names(model for model in models if model.task == task)
    raise ModelNotFound(f"no {task} model{name and f' {name}'}; there are: {others}")


def _preferred(candidates: Sequence[Model], default_models: Sequence[str]) -> Model:
    """One of `default_models` if it is among them, else the alphabetically first."""
    for name in default_models:
        for model in candidates:
            if name in (model.name, model.full_name):
                return model
    return candidates[0]


def _score(model: Model, source: str, target: str) -> int:
    """How much of the codes that were asked for the model knows; -1 if it does not fit."""
    found = fit(_card(model), source, target)
    return found.score if found is not None else -1


def _card(model: Model) -> TranslationCard:
    """Of a model whose task is translation."""
    assert isinstance(model.card, TranslationCard)  # by `_candidates`
    return model.card

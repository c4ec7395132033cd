"""Who answers a request: the model that its name, its languages and the settings lead to.

Pure functions over the models that there are; nothing is loaded here.
"""

from collections.abc import Iterable, Sequence

from service.bundle import LanguagePair, TranslationCard
from service.errors import InvalidArgument, LanguagePairNotFound, ModelNotFound, ModelUnavailable
from service.model import Model


def choose_translation(
    models: Sequence[Model], name: str, source: str, target: str, default_models: Sequence[str]
) -> Model:
    """The model that translates from `source` into `target`; empty strings leave a choice open.

    Raises ModelNotFound, LanguagePairNotFound, ModelUnavailable, and InvalidArgument when the
    choice is the caller's to make.
    """
    candidates = _candidates(models, name, "translation")
    scores = [(_specificity(model, source, target), model) for model in candidates]
    best = max(score for score, _ in scores)
    if best < 0:
        wanted = f"{source or 'any language'} to {target or 'any language'}"
        raise LanguagePairNotFound(f"no model for {wanted}; there are: {_pairs(candidates)}")
    model = _preferred([model for score, model in scores if score == best], default_models)
    _check_unambiguous(model, source, target)
    return model


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
        states = (f"{each.full_name} is {each.state.value} {each.failure}" for each in broken)
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


def _pairs(models: Iterable[Model]) -> str:
    return ", ".join(
        f"{pair.source} to {pair.target} ({model.name})"
        for model in models
        if isinstance(model.card, TranslationCard)
        for pair in model.card.language_pairs
    )

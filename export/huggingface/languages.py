"""The languages of multilingual checkpoints: from the model's own codes to BCP 47.

deu_Latn, de_DE, de and >>deu<< are all de. A script is kept where the language has several in this
model, or where it is not the one that everybody expects; a region, which mBART writes of every
language, is not.
"""

from collections import Counter
from collections.abc import Iterable

import langcodes

from service.bundle import Language

# Codes that no standard has, or that CLDR would replace by another language's.
EXCEPTIONS = {"ns": "nso", "tl": "tl", "tgl": "tl"}
SAME = {("Hang", "Kore")}  # NLLB's script of Korean, and CLDR's


def languages_of(tokens: Iterable[tuple[str, int]]) -> tuple[Language, ...]:
    """Languages with distinct codes, of the model's own names and the tokens that stand for them.

    A name that is no language's (old checkpoints have some) stays as it is.
    """
    named = dict(tokens)
    tags = {name: _tag(name) for name in named}
    scripts = Counter(_language(tag) for tag in tags.values())
    codes = {name: _shortened(tag, scripts[_language(tag)]) for name, tag in tags.items()}
    used = Counter(codes.values())
    return tuple(
        Language(
            code=codes[name] if used[codes[name]] == 1 else _specific(name),
            token=token,
            name=name,
        )
        for name, token in named.items()
    )


def standard_code(code: str) -> str:
    """BCP 47 of a code that somebody wrote: deu is de, en_US is en-US."""
    return langcodes.standardize_tag(code.replace("_", "-"))


def _tag(name: str) -> str:
    language, _, rest = name.replace("-", "_").partition("_")
    language = EXCEPTIONS.get(language.lower(), language)
    script = rest.partition("_")[0]
    tag = f"{language}-{script}" if len(script) == 4 else language
    try:
        standard = langcodes.standardize_tag(tag, macro=True)
    except ValueError:
        return name
    return standard if language != "tl" else tag


def _specific(name: str) -> str:
    """The code of a language whose macrolanguage another one has too."""
    try:
        return langcodes.standardize_tag(name.replace("_", "-"))
    except ValueError:
        return name


def _language(tag: str) -> str:
    return tag.partition("-")[0]


def _shortened(tag: str, num_scripts: int) -> str:
    language, _, script = tag.partition("-")
    if not script or num_scripts > 1:
        return tag
    likely = langcodes.Language.get(language).maximize().script
    return language if likely in (script, None) or (script, likely) in SAME else tag

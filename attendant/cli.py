"""The `attendant` command.

    attendant translate "A man is riding a horse." --to de
    attendant classify photo.jpg --top-k 3
    attendant models
    attendant health

Exit status: 0 all done, 1 a call or a part of it failed, 2 wrong usage. Errors are one line each,
on standard error.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from attendant.client import Client
from attendant.connection import DEFAULT_TARGET, DEFAULT_TIMEOUT_SECONDS
from attendant.errors import AttendantError
from attendant.results import (
    Classification,
    ModelDescription,
    TextDelta,
    TextFinished,
    Translation,
    TranslationModel,
)
from attendant.tls import Tls

OK = 0
FAILED = 1
USAGE = 2

# Enough to keep a server's batches full, few enough that the first lines appear soon.
TEXTS_PER_CALL = 256

# Of a multilingual model, in a line of `attendant models`.
MAX_LANGUAGES = 8


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error is said."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        with _client(options) as client:
            return int(options.run(client, options))
    except AttendantError as error:
        return _failed(error)
    except (OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError):
            return _reader_left()
        return _complain(error, USAGE)
    except KeyboardInterrupt:
        return 130


def _client(options: argparse.Namespace) -> Client:
    """Raises OSError and ValueError for files and addresses that cannot be used."""
    targets = options.target.split(",")
    given = (options.tls_ca, options.tls_certificate, options.tls_key, options.tls_server_name)
    return Client(
        targets if len(targets) > 1 else targets[0],
        tls=Tls(*given) if options.tls or any(given) else None,
        token=_token(options),
        timeout_seconds=options.timeout,
    )


def _token(options: argparse.Namespace) -> str | None:
    """From a file or the environment: other users of the machine can read a command's arguments."""
    if options.token_file is not None:
        return Path(options.token_file).read_text().strip()
    token = os.environ.get("ATTENDANT_TOKEN")
    return None if token is None else token.strip()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="attendant", description="Calls an Attendant server.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_translate(commands)
    _add_classify(commands)
    for name, run, summary in (
        ("models", _models, "list the models"),
        ("health", _health, "say whether the server takes calls"),
    ):
        _add_common(commands.add_parser(name, help=summary), run)
    return parser


def _add_translate(commands: Any) -> None:
    translate = commands.add_parser("translate", help="translate texts")
    translate.add_argument("texts", nargs="+", metavar="TEXT", help='a text; "-" reads lines')
    translate.add_argument("--to", help="BCP-47 code of the language to translate into")
    translate.add_argument("--source", help="BCP-47 code of the language of the texts")
    translate.add_argument("--model", help="NAME or NAME/VERSION")
    translate.add_argument("--segmentation", choices=("sentences", "none"))
    translate.add_argument("--beam-size", type=int, metavar="N", help="1 is greedy")
    translate.add_argument("--num-hypotheses", type=int, metavar="N", help="print the N best")
    translate.add_argument("--length-penalty", type=float, metavar="X")
    translate.add_argument("--max-target-tokens", type=int, metavar="N")
    translate.add_argument("--stream", action="store_true", help="print words as they come")
    _add_priority(translate)
    _add_common(translate, _translate)


def _add_classify(commands: Any) -> None:
    classify = commands.add_parser("classify", help="classify image files")
    classify.add_argument("images", nargs="+", metavar="IMAGE", help="an image file")
    classify.add_argument("--top-k", type=int, metavar="N", help="number of labels (5)")
    classify.add_argument("--model", help="NAME or NAME/VERSION")
    _add_priority(classify)
    _add_common(classify, _classify)


def _add_priority(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--priority", choices=("interactive", "bulk"), help="whether somebody waits for it"
    )


def _add_common(parser: argparse.ArgumentParser, run: Any) -> None:
    parser.add_argument(
        "--target",
        default=os.environ.get("ATTENDANT_TARGET", DEFAULT_TARGET),
        metavar="HOST:PORT[,HOST:PORT]",
        help="the server, or several that share the calls; default ATTENDANT_TARGET, or "
        + DEFAULT_TARGET,
    )
    parser.add_argument("--tls", action="store_true", help="encrypt; the next four imply it")
    parser.add_argument("--tls-ca", metavar="FILE", help="PEM: whose servers are believed")
    parser.add_argument("--tls-certificate", metavar="FILE", help="PEM: shown to the server")
    parser.add_argument("--tls-key", metavar="FILE", help="PEM: the key of that")
    parser.add_argument("--tls-server-name", default="", metavar="NAME", help="in its certificate")
    parser.add_argument(
        "--token-file", metavar="FILE", help="the token to send; default ATTENDANT_TOKEN"
    )
    parser.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT_SECONDS, metavar="SECONDS")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.set_defaults(run=run)


_TRANSLATE_OPTIONS = (
    "to",
    "source",
    "model",
    "segmentation",
    "beam_size",
    "num_hypotheses",
    "length_penalty",
    "max_target_tokens",
    "priority",
)


def _translate(client: Client, options: argparse.Namespace) -> int:
    texts = _texts(options.texts)
    chosen = _given(options, _TRANSLATE_OPTIONS)
    if options.json:
        chosen["return_scores"] = True
    if options.stream:
        return max(
            (_stream(client, text, chosen, as_json=options.json) for text in texts), default=OK
        )
    status = OK
    for chunk in _chunks(texts, TEXTS_PER_CALL):
        for translation in client.translate(chunk, **chosen):
            status = max(status, _print_translation(translation, as_json=options.json))
    return status


def _texts(arguments: Iterable[str]) -> Iterator[str]:
    for argument in arguments:
        if argument == "-":
            yield from (line.rstrip("\r\n") for line in sys.stdin)
        else:
            yield argument


def _chunks(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while chunk := list(islice(texts, size)):
        yield chunk


def _stream(client: Client, text: str, chosen: dict[str, Any], *, as_json: bool) -> int:
    """One call a text: on a terminal the deltas of several would run into one another."""
    status = OK
    for event in client.translate_stream(text, **chosen):
        if as_json:
            _print_json({"event": type(event).__name__, **_plain(event)})
        elif isinstance(event, TextDelta):
            print(event.text, end="", flush=True)
        if isinstance(event, TextFinished):
            if not as_json:
                print()
            if event.translation.error is not None:
                status = _failed(event.translation.error)
    return status


def _print_translation(translation: Translation, *, as_json: bool) -> int:
    if as_json:
        _print_json(_plain(translation))
    elif translation.error is None:
        for hypothesis in translation.hypotheses:
            print(hypothesis.text)
    else:
        print()  # keeps line n of the output the translation of line n of the input
    return OK if translation.error is None else _failed(translation.error)


def _classify(client: Client, options: argparse.Namespace) -> int:
    chosen = _given(options, ("model", "top_k", "priority"))
    status = OK
    for path, result in zip(options.images, client.classify(options.images, **chosen), strict=True):
        if options.json:
            _print_json({"image": path, **_plain(result)})
        elif result.error is None:
            _print_labels(path if len(options.images) > 1 else "", result)
        if result.error is not None:
            status = _failed(result.error)
    return status


def _print_labels(path: str, result: Classification) -> None:
    for label in result.labels:
        prefix = f"{path}  " if path else ""
        print(f"{prefix}{label.probability:7.2%}  {label.name}")


def _models(client: Client, options: argparse.Namespace) -> int:
    for model in client.models():
        if options.json:
            _print_json(_plain(model))
        else:
            print(_model_line(model))
    return OK


def _model_line(model: ModelDescription) -> str:
    line = f"{model.name}/{model.version}  {model.state}  {model.precision}  {model.device}"
    if isinstance(model.task, TranslationModel):
        line += f"  translation {_directions(model.task)}"
    elif model.task is not None:
        line += f"  classification {len(model.task.labels)} labels"
    return f"{line}  {model.state_message}".rstrip()


def _directions(task: TranslationModel) -> str:
    """The pairs, or the languages of a multilingual model: --json has all of them."""
    if task.language_pairs:
        return " ".join(f"{pair.source}-{pair.target}" for pair in task.language_pairs)
    return f"{_languages(task.source_languages)} to {_languages(task.target_languages)}"


def _languages(codes: Sequence[str]) -> str:
    shown = ",".join(codes[:MAX_LANGUAGES])
    return shown if len(codes) <= MAX_LANGUAGES else f"{shown},... ({len(codes)})"


def _health(client: Client, options: argparse.Namespace) -> int:
    health = client.health()
    if options.json:
        _print_json({"status": health})
    else:
        print(health)
    return OK if health == "SERVING" else FAILED


def _given(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _plain(result: Any) -> dict[str, Any]:
    """A result as what json can write, its error as an object of status, reason and message."""
    return {
        field.name: _plain_value(getattr(result, field.name))
        for field in dataclasses.fields(result)
    }


def _plain_value(value: Any) -> Any:
    if isinstance(value, AttendantError):
        return {"status": value.status, "reason": value.reason, "message": value.message}
    if dataclasses.is_dataclass(value):
        return _plain(value)
    return [_plain_value(member) for member in value] if isinstance(value, tuple) else value


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


def _failed(error: AttendantError) -> int:
    return _complain(error, FAILED)


def _complain(error: Exception, status: int) -> int:
    print("attendant:", " ".join(str(error).split()), file=sys.stderr)
    return status


def _reader_left() -> int:
    """Standard output's reader, `head` perhaps, has seen enough: that is no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK

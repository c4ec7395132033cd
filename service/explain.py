"""`attendant-server --explain REQUEST_ID [FILE ...]`: where the time of one call went.

Reads what a server with `--log-format json` has logged, from files or standard input.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

SHORT_MS = 1.0  # a call of which nothing needs to be shorter
WIDTH = 48  # of the chart, in characters

_NUMBERS = (
    *("texts", "images", "sequences", "rows", "source_tokens", "target_tokens", "steps"),
    *("batch_rows", "batch_images"),
)

_REMEDIES = {
    "queue": "It mostly waited: more was asked for than the model gets done. "
    "attendant_predicted_wait_seconds says for how long that is so; more cores or replicas help, "
    "and attendant-priority: bulk for what nobody waits for.",
    "batch": "It mostly waited for other images or a free run; image_batch_delay_seconds bounds "
    "the former, more cores or replicas shorten the latter.",
    "tokenize": "Cutting and tokenizing its texts took most: they are long.",
    "preprocess": "Decoding and scaling its images took most: send smaller ones.",
    "encode": "Encoding took most: its sources are long, or many were encoded with them.",
    "decode": "Decoding took most: {steps} steps, beside up to {batch_rows} rows. Fewer beams, "
    "a smaller max_target_tokens or fewer neighbours (max_rows) make it shorter.",
    "inference": "The classifier's run took most, of up to {batch_images} images.",
    "detokenize": "Handing the answer over took most: the event loop was busy.",
}


def explain(request_id: str, paths: Iterable[str]) -> int:
    """Print what is known of the request -> the exit status.

    0 if there is anything, 1 if not, 2 where a file cannot be read.
    """
    try:
        found = [line for line in _lines(paths) if line.get("request_id") == request_id]
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    for line in found:
        print("\n".join(_describe(line)))
    if not found:
        print(
            f"no line of request {request_id}: is the log one of --log-format json? "
            "Calls refused at the door are in it with --log-level debug alone",
            file=sys.stderr,
        )
    return 0 if found else 1


def _lines(paths: Iterable[str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        if path == "-":
            yield from _objects(sys.stdin)
        else:
            with open(path, encoding="utf-8", errors="replace") as file:
                yield from _objects(file)


def _objects(file: TextIO) -> Iterator[dict[str, Any]]:
    """What is no JSON object, such as the last line of a killed server, is passed over."""
    for line in file:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def _describe(line: dict[str, Any]) -> Iterator[str]:
    trace = f", trace {line['trace_id']}" if "trace_id" in line else ""
    said = " ".join(str(line[name]) for name in ("time", "level", "message") if name in line)
    yield f"{said}{trace}"
    if "traceback" in line:
        yield line["traceback"]
    if "call" in line:
        yield from _describe_call(line["call"])


def _describe_call(call: dict[str, Any]) -> Iterator[str]:
    numbers = [f"{call[name]} {name.replace('_', ' ')}" for name in _NUMBERS if name in call]
    if "model" in call:
        yield f"{call['model']}: {', '.join(numbers)}"
    if "predicted_ms" in call:
        deadline = f", the deadline {call['deadline_ms']:.1f}" if "deadline_ms" in call else ""
        yield f"predicted when it was let in: {call['predicted_ms']:.1f} ms{deadline}"
    if not call["stages"]:
        return
    yield ""
    for stage in call["stages"]:
        yield f"  {stage['name']:<10} {stage['ms']:>10.1f} ms  |{_bar(stage, call['ms'])}|"
    yield ""
    longest = max(call["stages"], key=lambda stage: float(stage["ms"]))
    share = longest["ms"] / call["ms"] if call["ms"] else 0.0
    yield f"{longest['name']} had {share:.0%} of {call['ms']:.1f} ms. {_remedy(longest, call)}"


def _remedy(stage: dict[str, Any], call: dict[str, Any]) -> str:
    if call["ms"] < SHORT_MS:
        return "There is nothing to gain."
    return _REMEDIES.get(stage["name"], "").format_map(call)


def _bar(stage: dict[str, Any], total_ms: float) -> str:
    """When the stage was, on a line as long as the call."""
    scale = WIDTH / total_ms if total_ms else 0.0
    begin = min(int(stage["begin_ms"] * scale), WIDTH - 1)
    length = max(round(stage["ms"] * scale), 1)
    bar: str = " " * begin + "#" * length
    return bar[:WIDTH].ljust(WIDTH)

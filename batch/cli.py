"""The command `attendant-batch`."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from batch import cluster, local
from batch.inputs import Input, Task
from batch.ledger import Ledger
from batch.outputs import FORMATS
from batch.plan import Plan
from service.errors import AttendantError
from service.logs import configure_logging
from service.settings import Settings

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

DESCRIPTION = """Translates or classifies a data set with the server's engine, without a server.

INPUT is a file of texts (one a line), of JSON lines (*.jsonl), a Parquet file, a tar archive of
images, or a folder of such files or of images. OUTPUT is a file (*.txt, *.jsonl, *.parquet), or a
folder (that is there, or a name that ends in /), which then holds a part for each shard. It is in
the order of INPUT.

A run that was killed goes on where it was when it is started again. Records without an answer are
set aside, with the reason, in OUTPUT.set-aside.jsonl.
"""

_TEXT_OPTIONS = (
    "to",
    "source",
    "segmentation",
    "beam_size",
    "num_hypotheses",
    "length_penalty",
    "max_target_tokens",
)
_OPTIONS: dict[Task, tuple[str, ...]] = {
    "translate": ("model", *_TEXT_OPTIONS),
    "classify": ("model", "top_k"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 failed, 2 wrong usage; run again after 1 or a signal."""
    parser = _parser()
    options, of_settings = parser.parse_known_args(arguments)
    flags = [each.partition("=")[0] for each in of_settings if each.startswith("--")]
    if unknown := [flag for flag in flags if flag not in Settings.flags()]:
        parser.error(f"unrecognized arguments: {', '.join(unknown)}")
    settings = Settings.load(of_settings, program=parser.prog)
    # The server's usual level would run into the progress bar.
    level = "warning" if settings.log_level == "info" else settings.log_level
    configure_logging(level, settings.log_format, contents=settings.log_contents)
    try:
        _run(_plan(options), options, settings)
    except KeyboardInterrupt:
        print("\nattendant-batch: interrupted; run it again to go on", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return _complain(error)
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="attendant-batch",
        description=DESCRIPTION,
        epilog="The server's settings are taken, too, such as --models and --device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("input", type=Path, metavar="INPUT")
    parser.add_argument("output", metavar="OUTPUT")
    _add_forms(parser)
    _add_requests(parser)
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="use the machines of this Ray cluster; auto, local"
    )
    parser.add_argument(
        "--cpus-per-actor",
        type=_positive,
        metavar="N",
        help="of the cluster, for one engine (those of its smallest machine)",
    )
    return parser


def _add_forms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", choices=("translate", "classify"), help="by default as INPUT is")
    parser.add_argument(
        "--input-format",
        choices=("text", "jsonl", "parquet", "tar", "images"),
        help="by default as its name ends; what ends otherwise is text",
    )
    parser.add_argument("--format", choices=tuple(FORMATS), help="by default as OUTPUT ends")
    parser.add_argument("--field", metavar="NAME", help="field or column (text, image)")
    parser.add_argument(
        "--shard-records", type=_positive, metavar="N", help="in a part (8192 texts, 1024 images)"
    )


def _add_requests(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="NAME or NAME/VERSION")
    parser.add_argument("--to", help="BCP-47 code of the language to translate into")
    parser.add_argument("--source", help="BCP-47 code of the language of the texts")
    parser.add_argument("--segmentation", choices=("sentences", "none"))
    parser.add_argument("--beam-size", type=int, metavar="N", help="1 is greedy")
    parser.add_argument("--num-hypotheses", type=int, metavar="N", help="keep the N best")
    parser.add_argument("--length-penalty", type=float, metavar="X")
    parser.add_argument("--max-target-tokens", type=int, metavar="N")
    parser.add_argument("--top-k", type=int, metavar="N", help="number of labels (5)")


def _plan(options: argparse.Namespace) -> Plan:
    found = Input.find(
        options.input.absolute(),  # machines of a cluster have other working folders
        kind=options.input_format,
        task=options.task,
        field=options.field,
        shard_records=options.shard_records,
    )
    given = {
        name: value
        for name in ("model", *_TEXT_OPTIONS, "top_k")
        if (value := getattr(options, name)) is not None
    }
    if wrong := given.keys() - set(_OPTIONS[found.task]):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(wrong))
        raise ValueError(f"{flags}: not to {found.task}")
    output = Path(options.output).absolute()
    if options.output.endswith("/"):
        output.mkdir(parents=True, exist_ok=True)
    return Plan.make(found, given, output, options.format)


def _run(plan: Plan, options: argparse.Namespace, settings: Settings) -> None:
    ledger = plan.ledger
    with ledger.held():
        _run_alone(plan, ledger, options, settings)


def _run_alone(plan: Plan, ledger: Ledger, options: argparse.Namespace, settings: Settings) -> None:
    ledger.begin(plan.identity(settings))
    if ledger.is_joined:
        ledger.clear()
        print(f"{plan.output}: done by an earlier run", file=sys.stderr)
        return
    shards = list(enumerate(plan.input.shards()))
    todo = [(number, shard) for number, shard in shards if not ledger.is_done(number)]
    if todo and not plan.is_folder:
        plan.check_place()
    total = sum(shard.num_records for _, shard in shards)
    waiting = sum(shard.num_records for _, shard in todo)
    unit = " texts" if plan.input.task == "translate" else " images"
    with tqdm(total=total, initial=total - waiting, unit=unit, disable=None) as progress:
        if options.ray and todo:
            num_cpus = options.cpus_per_actor
            cluster.run(plan, todo, settings, options.ray, num_cpus, progress.update)
        elif todo:
            asyncio.run(local.run(plan, todo, settings, progress.update))
    _finish(plan, [number for number, _ in shards], total)


def _finish(plan: Plan, numbers: Sequence[int], total: int) -> None:
    num_set_aside = plan.ledger.num_set_aside(numbers)
    if not plan.is_folder:
        plan.ledger.join(numbers, plan.output, plan.set_aside)
    where = f" (see {plan.output if plan.is_folder else plan.set_aside})" if num_set_aside else ""
    print(
        f"{plan.output}: {total - num_set_aside} of {total} records answered, "
        f"{num_set_aside} set aside{where}",
        file=sys.stderr,
    )


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number}, expected 1 or more")
    return number


def _complain(error: Exception) -> int:
    """In one line what a user can mend, whichever part of the run it came from."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, (AttendantError, OSError, ValueError, ImportError)):
        raise error
    message = error.message if isinstance(error, AttendantError) else str(error)
    print("attendant-batch:", message, file=sys.stderr)
    is_usage = isinstance(error, (ValueError, ImportError, FileNotFoundError, FileExistsError))
    return USAGE if is_usage else FAILED

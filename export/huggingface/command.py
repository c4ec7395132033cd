"""attendant-export huggingface."""

import argparse
from pathlib import Path

PRECISIONS = ("fp32", "int8", "fp16")


def add_huggingface(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a folder")
    parser.add_argument("--output", type=Path, required=True, metavar="models/NAME/VERSION")
    parser.add_argument(
        "--precision", type=_precisions, default=("fp32", "int8"), metavar="fp32,int8,fp16"
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE",
        help="lines in the source language, or a folder of pictures: constant scales for int8",
    )  # fmt: skip
    parser.add_argument(
        "--languages", nargs=2, metavar=("SRC", "TGT"),
        help="of a checkpoint that does not say them; of a multilingual one, the only pair",
    )  # fmt: skip
    parser.add_argument("--licence", metavar="TEXT", default="not stated")
    parser.set_defaults(run_command=_run)


def _run(options: argparse.Namespace) -> int:
    from export.huggingface.families import Pair
    from export.huggingface.importing import ImportOptions, import_checkpoint

    report = import_checkpoint(
        options.checkpoint,
        options.output,
        ImportOptions(
            precisions=options.precision,
            calibration=options.calibration,
            languages=Pair(*options.languages) if options.languages else None,
            licence=options.licence,
        ),
    )
    print(report.table())
    return 0


def _precisions(text: str) -> tuple[str, ...]:
    precisions = tuple(dict.fromkeys(text.split(",")))
    if not set(precisions) <= set(PRECISIONS):
        raise argparse.ArgumentTypeError(f"{text} is not of {', '.join(PRECISIONS)}")
    return precisions

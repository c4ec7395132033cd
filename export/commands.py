"""The command line of the exporter: one parser, and one short function a command."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.options import add_dataclass_options, dataclass_from_options
from export.seq2seq import Seq2SeqConfig
from export.training.classification import ClassificationDataConfig
from export.training.loop import OptimizationConfig
from export.training.translation import TranslationDataConfig
from export.vit import ViTConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 1 for a failure that was explained."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run_command(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"attendant-export: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="attendant-export", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train a model").add_subparsers(required=True)
    _add_train_translation(train)
    _add_train_classification(train)
    return parser


def _add_train_translation(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("translation", help="from two parallel text files")
    parser.add_argument("--train", nargs=2, type=Path, required=True, metavar=("SRC", "TGT"))
    parser.add_argument("--valid", nargs=2, type=Path, required=True, metavar=("SRC", "TGT"))
    parser.add_argument("--languages", nargs=2, default=("en", "de"), metavar=("SRC", "TGT"))
    _add_run_options(parser)
    add_dataclass_options(parser, Seq2SeqConfig, exclude=("vocab_size",))
    add_dataclass_options(parser, TranslationDataConfig)
    add_dataclass_options(parser, OptimizationConfig)
    parser.set_defaults(run_command=_train_translation)


def _train_translation(options: argparse.Namespace) -> int:
    from export.training.runs import train_translation

    data = dataclass_from_options(TranslationDataConfig, options)
    train_translation(
        train=tuple(options.train),
        valid=tuple(options.valid),
        languages=tuple(options.languages),
        run_path=options.run,
        architecture=dataclass_from_options(Seq2SeqConfig, options, vocab_size=data.vocab_size),
        data=data,
        optimization=dataclass_from_options(OptimizationConfig, options),
        init=options.init,
        device=options.device,
    )
    return 0


def _add_train_classification(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    parser = commands.add_parser("classification", help="from a folder of pictures for each label")
    parser.add_argument("--train", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--valid", type=Path, metavar="FOLDER", help="else a share of --train")
    _add_run_options(parser)
    add_dataclass_options(parser, ViTConfig, exclude=("num_labels",))
    add_dataclass_options(parser, ClassificationDataConfig)
    add_dataclass_options(parser, OptimizationConfig)
    parser.set_defaults(run_command=_train_classification)


def _train_classification(options: argparse.Namespace) -> int:
    from export.training.runs import train_classification

    train_classification(
        train=options.train,
        valid=options.valid,
        run_path=options.run,
        architecture=dataclass_from_options(ViTConfig, options, num_labels=0),
        data=dataclass_from_options(ClassificationDataConfig, options),
        optimization=dataclass_from_options(OptimizationConfig, options),
        init=options.init,
        device=options.device,
    )
    return 0


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="folder of this run")
    parser.add_argument("--init", type=Path, metavar="BUNDLE", help="start from its weights")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))

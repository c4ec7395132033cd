"""The command line of the exporter: one parser, and one short function a command."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from export.huggingface.command import PRECISIONS, add_huggingface
from export.options import add_dataclass_options, dataclass_from_options
from service.errors import AttendantError, BundleError

DEFAULT_PRECISIONS = ("fp32", "int8")  # fp16 is for GPUs, where asked for


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 1 for a failure that was explained."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run_command(options)
    except (ValueError, OSError, AttendantError, BundleError) as error:
        print(f"attendant-export: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="attendant-export",
        description="Train models, make bundles of them, verify and measure them",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train a model").add_subparsers(required=True)
    _add_train_translation(train.add_parser("translation", help="from two parallel text files"))
    _add_train_classification(
        train.add_parser("classification", help="from a folder of pictures for each label")
    )
    _add_bundle(commands.add_parser("bundle", help="make a bundle of a trained run"))
    add_huggingface(
        commands.add_parser("huggingface", help="make a bundle of a checkpoint of transformers")
    )
    _add_verify(commands.add_parser("verify", help="compare a bundle's graphs with PyTorch"))
    _add_evaluate(commands.add_parser("evaluate", help="measure a bundle on a test set"))
    _add_download(commands.add_parser("download", help="fetch a public data set"))
    return parser


def _add_train_translation(parser: argparse.ArgumentParser) -> None:
    from export.seq2seq import IMPORTED_SWITCHES, Seq2SeqConfig
    from export.training.loop import OptimizationConfig
    from export.training.translation import TranslationDataConfig

    parser.add_argument("--train", nargs=2, type=Path, required=True, metavar=("SRC", "TGT"))
    parser.add_argument("--valid", nargs=2, type=Path, required=True, metavar=("SRC", "TGT"))
    parser.add_argument("--languages", nargs=2, default=("en", "de"), metavar=("SRC", "TGT"))
    _add_run_options(parser)
    add_dataclass_options(parser, Seq2SeqConfig, exclude=("vocab_size", *IMPORTED_SWITCHES))
    add_dataclass_options(parser, TranslationDataConfig)
    add_dataclass_options(parser, OptimizationConfig)
    parser.set_defaults(run_command=_train_translation)


def _train_translation(options: argparse.Namespace) -> int:
    from export.seq2seq import Seq2SeqConfig
    from export.training.loop import OptimizationConfig
    from export.training.runs import train_translation
    from export.training.translation import TranslationDataConfig

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


def _add_train_classification(parser: argparse.ArgumentParser) -> None:
    from export.training.classification import ClassificationDataConfig
    from export.training.loop import OptimizationConfig
    from export.vit import VISION_SWITCHES, ViTConfig

    parser.add_argument("--train", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--valid", type=Path, metavar="FOLDER", help="else a share of --train")
    _add_run_options(parser)
    add_dataclass_options(parser, ViTConfig, exclude=("num_labels", *VISION_SWITCHES))
    add_dataclass_options(parser, ClassificationDataConfig)
    add_dataclass_options(parser, OptimizationConfig)
    parser.set_defaults(run_command=_train_classification)


def _train_classification(options: argparse.Namespace) -> int:
    from export.training.classification import ClassificationDataConfig
    from export.training.loop import OptimizationConfig
    from export.training.runs import train_classification
    from export.vit import ViTConfig

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


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--output", type=Path, required=True, metavar="models/NAME/VERSION")
    parser.add_argument(
        "--precision", type=_precisions, default=DEFAULT_PRECISIONS, metavar="fp32,int8,fp16"
    )
    parser.add_argument("--name", help="default: the NAME of --output")
    parser.add_argument("--data", metavar="TEXT", help="what the card says of the training data")
    parser.add_argument("--licence", metavar="TEXT", default="not stated")
    parser.add_argument(
        "--calibration", nargs="+", type=Path, default=(), metavar="PATH",
        help="SRC TGT or FOLDER to calibrate int8 with; default: the run's training data",
    )  # fmt: skip
    parser.add_argument(
        "--golden", type=Path, metavar="PATH",
        help="sentences, one a line, or FOLDER; the bundle keeps some, with its answers, for "
        "attendant-server --self-test; default: the run's validation or training data",
    )  # fmt: skip
    parser.add_argument(
        "--snapshot", nargs="?", type=int, const=5, metavar="N",
        help="the average of the last N (5) snapshots, of a run that has not ended",
    )  # fmt: skip
    parser.add_argument("--beam-size", type=int, default=4)
    parser.add_argument("--length-penalty", type=float, default=1.0)
    parser.add_argument(
        "--early-stopping", default="heuristic", choices=("all_finished", "heuristic", "never")
    )
    parser.add_argument("--max-source-tokens", type=int, default=96)
    parser.add_argument("--max-target-tokens", type=int, default=256)
    parser.set_defaults(run_command=_bundle)


def _bundle(options: argparse.Namespace) -> int:
    from export.run_bundle import BundleOptions, bundle_run
    from service.bundle import Decoding

    bundle = bundle_run(
        options.run,
        options.output,
        BundleOptions(
            name=options.name or options.output.resolve().parent.name,
            precisions=options.precision,
            data=options.data,
            licence=options.licence,
            calibration=options.calibration,
            golden=options.golden,
            snapshots=options.snapshot,
            decoding=Decoding(
                beam_size=options.beam_size,
                length_penalty=options.length_penalty,
                early_stopping=options.early_stopping,
                max_target_tokens=options.max_target_tokens,
            ),
            max_source_tokens=options.max_source_tokens,
        ),
    )
    megabytes = sum(path.stat().st_size for path in bundle.folder.rglob("*")) / 1e6
    golden = "with" if bundle.card.golden is not None else "without"
    print(
        f"{bundle.folder}: {bundle.name}/{bundle.version}, {megabytes:.1f} MB, "
        f"{golden} golden answers"
    )
    return 0


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    _add_write_card(parser)
    parser.set_defaults(run_command=_verify)


def _verify(options: argparse.Namespace) -> int:
    from export.bundle_writer import record_figures
    from export.verify import verify_bundle

    report = verify_bundle(options.bundle)
    print(report.table())
    if options.write_card and report.passed:
        record_figures(options.bundle, parity=report.figures)
    return report.exit_status


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument(
        "--data", nargs="+", type=Path, required=True, metavar="PATH",
        help="SRC TGT, two parallel files, or FOLDER with a folder for each label",
    )  # fmt: skip
    parser.add_argument("--precision", type=_precisions, help="default: all that the bundle ships")
    parser.add_argument("--beam-size", type=int, help="default: the bundle's")
    parser.add_argument("--limit", type=int, metavar="N", help="only N, spread over the set")
    parser.add_argument(
        "--perturb", action="store_true",
        help="also on a copy in other case, without final stops, with sentences joined",
    )  # fmt: skip
    _add_write_card(parser)
    parser.set_defaults(run_command=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from export.bundle_writer import record_figures
    from export.evaluate import evaluate, machine
    from service.bundle import Bundle

    bundle = Bundle.open(options.bundle)
    evaluation = evaluate(
        bundle,
        options.data,
        precisions=options.precision,
        beam_size=options.beam_size,
        limit=options.limit,
        perturb=options.perturb,
    )
    print(evaluation.table())
    if options.write_card:
        command = _reproducing_command(f"models/{bundle.name}/{bundle.version}", options)
        methods = {"command": command, "machine": machine(), **evaluation.methods}
        record_figures(options.bundle, metrics=evaluation.figures, measured_with=methods)
    return 0


def _reproducing_command(bundle: str, options: argparse.Namespace) -> str:
    """The same evaluation, without the folders of this machine."""
    words = ["attendant-export", "evaluate", bundle, "--data"]
    words += [path.name for path in options.data]
    if options.precision:
        words += ["--precision", ",".join(options.precision)]
    if options.beam_size:
        words += ["--beam-size", str(options.beam_size)]
    if options.limit:
        words += ["--limit", str(options.limit)]
    if options.perturb:
        words.append("--perturb")
    return shlex.join(words)


def _add_write_card(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--write-card", action="store_true", help="put the figures in bundle.json and MODEL_CARD.md"
    )


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", choices=("multi30k", "cifar10"))
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--from", dest="base", metavar="URL", help="another address than theirs")
    parser.add_argument(
        "--any-content", action="store_true", help="also files that are not the known ones"
    )
    parser.set_defaults(run_command=_download)


def _download(options: argparse.Namespace) -> int:
    from export.data.public import Origin, download_cifar10, download_multi30k

    datasets = {"multi30k": download_multi30k, "cifar10": download_cifar10}
    datasets[options.dataset](options.output, Origin(options.base, options.any_content))
    print(f"{options.dataset} is in {options.output}")
    return 0


def _precisions(text: str) -> tuple[str, ...]:
    precisions = tuple(text.split(","))
    if not set(precisions) <= set(PRECISIONS):
        raise argparse.ArgumentTypeError(f"{text} is not of {', '.join(PRECISIONS)}")
    return precisions

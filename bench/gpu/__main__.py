"""Check and measure on a GPU.

    python -m bench.gpu [--device cuda|cpu] [--quick] [--only check translation vision]
        [--output DIR]

Prints tables, writes gpu.json and gpu.png, exits with 1 if float16 does not give float32's answers.
`--device cpu --quick` runs all of the same on tiny models, to see that it works.
"""

import argparse
import datetime
import logging
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch  # before onnxruntime, which then finds the same CUDA libraries  # noqa: F401

from bench.gpu.chip import measure_chip
from bench.gpu.models import BUILD, QUICK_TRANSLATION, QUICK_VISION, TRANSLATION, VISION
from bench.gpu.report import Findings
from bench.gpu.trained import trained_model
from bench.gpu.translation import Plan, TranslationBench
from bench.gpu.vision import BATCHES, VisionBench
from service.runtime import Device, choose_device

SECTIONS = ("check", "translation", "vision")
PACKAGES = ("onnxruntime-gpu", "onnxruntime", "torch", "transformers")


def main() -> int:
    """Run what is asked for."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    device = choose_device(options.device)
    findings = Findings(measure_chip(device), datetime.date.today().isoformat(), _versions())
    try:
        _run_translation(options, _plan(options, device), findings)
        if "vision" in options.only:
            _run_vision(options, device, findings)
    finally:  # what was found before a failure is worth having
        findings.save(options.output)
        print(f"\n{findings.text()}", flush=True)
    return 0 if findings.passed else 1


def _run_translation(options: argparse.Namespace, plan: Plan, findings: Findings) -> None:
    if "check" in options.only:
        size, trained = trained_model()
        findings.agreements += TranslationBench(size, plan, findings.chip, trained).check()
    for size in plan.sizes if {"check", "translation"} & set(options.only) else ():
        bench = TranslationBench(size, plan, findings.chip)
        if "check" in options.only:
            findings.agreements += bench.check()
        if "translation" in options.only:
            for line in bench.measure():
                findings.translation.append(line)
                print(line, flush=True)
        del bench  # and with it the memory of the device


def _run_vision(options: argparse.Namespace, device: Device, findings: Findings) -> None:
    vision = VisionBench(QUICK_VISION if options.quick else VISION, device, findings.chip)
    findings.vision_check = vision.check()
    for line in vision.measure((1, 2) if options.quick else BATCHES):
        findings.vision.append(line)
        print(line, flush=True)


def _plan(options: argparse.Namespace, device: Device) -> Plan:
    if not options.quick:
        sizes = [size for size in TRANSLATION if size.name in options.sizes]
        return Plan(device, sizes)
    return Plan(device, QUICK_TRANSLATION, in_flight=(1, 4), compiled_at=(4,), num_checked=8,
                rounds=1)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    names = [size.name for size in TRANSLATION]
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny models, only to see it work")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--sizes", nargs="+", choices=names, default=names)
    parser.add_argument("--output", type=Path, default=BUILD / "results", help="folder")
    return parser


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())

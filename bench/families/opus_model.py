"""A checkpoint of OPUS-MT's size as a bundle, through the exporter's own command.

python -m bench.families.opus_model OUTPUT SENTENCES
"""

import sys
import tempfile
from pathlib import Path

from bench.families.__main__ import export
from bench.families.checkpoints import opus_mt

NUM_CALIBRATION_LINES = 64


def main() -> int:
    """Make both; the sentences calibrate int8."""
    output, sentences = map(Path, sys.argv[1:])
    lines = sentences.read_text(encoding="utf-8").splitlines()[:NUM_CALIBRATION_LINES]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, calibration = Path(folder) / "checkpoint", Path(folder) / "lines.txt"
        opus_mt(checkpoint)
        calibration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return export(checkpoint, output, "--calibration", str(calibration)).status


if __name__ == "__main__":
    sys.exit(main())

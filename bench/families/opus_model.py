"""A checkpoint of OPUS-MT's size, and its bundle through the exporter's own command.

python -m bench.families.opus_model CHECKPOINT OUTPUT SENTENCES
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from bench.families.__main__ import export
from bench.families.checkpoints import opus_mt

NUM_CALIBRATION_LINES = 64


def main() -> int:
    """Make both; the sentences calibrate int8."""
    checkpoint, output, sentences = map(Path, sys.argv[1:])
    lines = sentences.read_text(encoding="utf-8").splitlines()[:NUM_CALIBRATION_LINES]
    shutil.rmtree(checkpoint, ignore_errors=True)
    opus_mt(checkpoint)
    _end_nowhere(checkpoint)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as calibration:
        calibration.write("\n".join(lines) + "\n")
        calibration.flush()
        return export(checkpoint, output, "--calibration", calibration.name).status


def _end_nowhere(checkpoint: Path) -> None:
    """Let no rule force the last token: CTranslate2 has none, and answers are to be compared."""
    for name in ("config.json", "generation_config.json"):
        fields = json.loads((checkpoint / name).read_text("utf-8"))
        fields.pop("forced_eos_token_id", None)
        (checkpoint / name).write_text(json.dumps(fields))


if __name__ == "__main__":
    sys.exit(main())

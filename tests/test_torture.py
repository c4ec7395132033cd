"""Every trial of `make torture QUICK=1`, against real servers in processes of their own."""

import subprocess
import sys

import pytest

from bench.torture.__main__ import usual
from tests.tools import ROOT


@pytest.mark.parametrize("trial", usual(quick=True))
def test_a_server_keeps_its_promises_in_a_quick_trial(trial: str) -> None:
    command = [sys.executable, "-m", "bench.torture", "--quick", trial]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert f"| {trial} |" in done.stdout

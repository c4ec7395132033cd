"""Every trial of `make torture QUICK=1`, against real servers in processes of their own."""

import subprocess
import sys

import pytest

from bench.torture.__main__ import usual
from tests.tools import ROOT

# Refused calls know within milliseconds only where the wait is predicted by cost and deadline.
ADMISSION = pytest.mark.xfail(reason="admission does not look at the cost of what waits")


@pytest.mark.parametrize(
    "trial",
    [
        pytest.param(name, marks=[ADMISSION] if name == "overload" else [])
        for name in usual(quick=True)
    ],
)
def test_a_server_keeps_its_promises_in_a_quick_trial(trial: str) -> None:
    command = [sys.executable, "-m", "bench.torture", "--quick", trial]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert f"| {trial} |" in done.stdout

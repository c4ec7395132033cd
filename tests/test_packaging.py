"""What callers install: a wheel of the client alone, which works with either protobuf."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Put there by `make test`, before the tests: nothing here uses the network.
PROTOBUF_7 = ROOT / ".build" / "protobuf7"

IMPORT_AND_ENCODE = """
import google.protobuf, attendant
from attendant.v1 import (
    classification_pb2_grpc, common_pb2_grpc, model_pb2_grpc, translation_pb2, translation_pb2_grpc
)
request = translation_pb2.TranslateRequest(contents=["x"])
assert translation_pb2.TranslateRequest.FromString(request.SerializeToString()) == request
attendant.Client("localhost:1").close()
print(google.protobuf.__version__)
"""


def test_the_wheel_holds_the_client_alone(tmp_path: Path):
    source = tmp_path / "source"
    for name in ("attendant", "service", "export"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)

    build = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", build, str(tmp_path)]
    subprocess.run(command, check=True, cwd=source, capture_output=True)

    [wheel] = tmp_path.glob("attendant-0.1.0-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"attendant", "attendant-0.1.0.dist-info"}
    assert {"attendant/py.typed", "attendant/v1/translation_pb2.pyi"} <= set(names)


@pytest.mark.parametrize("series", ["6.33", "7"])
def test_the_client_works_with_protobuf(series: str):
    path = [str(ROOT)]
    if series == "7":
        if not PROTOBUF_7.exists():
            pytest.skip(f"{PROTOBUF_7} is made by `make install-test`")
        path.insert(0, str(PROTOBUF_7))

    command = [sys.executable, "-W", "error", "-c", IMPORT_AND_ENCODE]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    result = subprocess.run(
        command, check=True, cwd=ROOT, env=environment, capture_output=True, text=True
    )

    assert result.stdout.startswith(f"{series}.")


def test_callers_install_nothing_but_grpc_and_protobuf():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert sorted(name.partition(">")[0] for name in project["dependencies"]) == [
        "googleapis-common-protos",
        "grpcio",
        "protobuf",
    ]


def test_the_lock_file_of_node_leaves_it_to_each_machine_where_packages_come_from():
    lock = json.loads((ROOT / "examples" / "node" / "package-lock.json").read_text())
    packages = [package for path, package in lock["packages"].items() if path]

    assert packages
    assert not any("resolved" in package for package in packages)
    assert all(package["integrity"] for package in packages)

"""The public API: its stubs are current, every part says what it means, old callers still work."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from tests.tools import require_buf

ROOT = Path(__file__).resolve().parent.parent
STUBS = ROOT / "attendant" / "v1"
PROTOS = sorted((ROOT / "protos" / "attendant" / "v1").glob("*.proto"))

# Numbers of the fields that hold messages, enums, fields, values, oneofs, services and methods in
# descriptor.proto: a path of these leads from a file to whatever a comment can stand at.
CHILDREN = {
    "FileDescriptorProto": {4: "message_type", 5: "enum_type", 6: "service"},
    "DescriptorProto": {2: "field", 3: "nested_type", 4: "enum_type", 8: "oneof_decl"},
    "EnumDescriptorProto": {2: "value"},
    "ServiceDescriptorProto": {2: "method"},
}


def protoc(*arguments: str) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "protos"]
    command += ["-I", "protos/third_party", *arguments]
    command += [str(path.relative_to(ROOT)) for path in PROTOS]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)


def test_the_generated_stubs_are_current(tmp_path: Path):
    protoc(*(f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")))

    made = {path.name: path.read_text() for path in (tmp_path / "attendant" / "v1").iterdir()}
    committed = {path.name: path.read_text() for path in STUBS.glob("*_pb2*.py*")}

    assert made == committed, "run `make protos`"


def test_the_generated_messages_of_the_open_inference_protocol_are_current(tmp_path: Path):
    command = [str(ROOT / "bin" / "generate-open-inference"), str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHON": sys.executable})

    folder = ROOT / "service" / "rpc" / "open_inference"
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in folder.glob("*_pb2*")}, "make protos"
    assert "DescriptorPool().AddSerializedFile" in made["grpc_predict_v2_pb2.py"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    path = tmp_path_factory.mktemp("protos") / "descriptors"
    protoc(f"--descriptor_set_out={path}", "--include_source_info")
    return list(FileDescriptorSet.FromString(path.read_bytes()).file)


def test_every_part_of_the_api_has_a_comment(files: list[FileDescriptorProto]):
    silent = []
    for file in files:
        commented = {
            tuple(location.path)
            for location in file.source_code_info.location
            if location.leading_comments.strip()
        }
        silent += [
            f"{file.name}: {name}" for path, name in parts(file, (), "") if path not in commented
        ]

    assert silent == []


def parts(parent, path: tuple[int, ...], name: str):
    """Each message, field, enum, value, oneof, service and method with its path and name."""
    if parent.DESCRIPTOR.name == "DescriptorProto" and parent.options.map_entry:
        return
    for number, member in CHILDREN.get(parent.DESCRIPTOR.name, {}).items():
        for index, child in enumerate(getattr(parent, member)):
            if is_made_by_protoc(child):
                continue
            child_path, child_name = (*path, number, index), f"{name}.{child.name}"
            yield child_path, child_name
            yield from parts(child, child_path, child_name)


def is_made_by_protoc(part) -> bool:
    """The oneof behind an `optional` field and the message behind a map are written by nobody."""
    kind = part.DESCRIPTOR.name
    return (kind == "OneofDescriptorProto" and part.name.startswith("_")) or (
        kind == "DescriptorProto" and part.options.map_entry
    )


def test_every_file_names_its_package_for_other_languages(files: list[FileDescriptorProto]):
    for file in files:
        assert file.package == "attendant.v1"
        assert file.options.go_package
        assert file.options.java_package
        assert file.options.java_multiple_files
        assert file.options.csharp_namespace


def test_enum_values_carry_their_enum_s_name_and_begin_unspecified(
    files: list[FileDescriptorProto],
):
    for enum in (enum for file in files for enum in file.enum_type):
        words = "".join(f"_{letter}" if letter.isupper() else letter for letter in enum.name)
        prefix = words.lstrip("_").upper()
        assert enum.value[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(prefix) for value in enum.value)


def lint(checkout: Path) -> str:
    """What buf's STANDARD rules say against the API of a checkout."""
    return buf("lint", checkout=checkout)


def breaking(checkout: Path) -> str:
    """What would break a caller of the released API, by buf's FILE rules.

    Built first, because buf compares like with like: the two modules of buf.yaml are two images,
    and the released one is one.
    """
    image = checkout / "api.binpb"
    buf("build", "--path", "protos/attendant", "--output", str(image), checkout=checkout)
    return buf("breaking", str(image), "--against", "protos/released.binpb", checkout=checkout)


def buf(*arguments: str, checkout: Path) -> str:
    """Its findings, a line each; raises if it fails for another reason than having some."""
    ran = subprocess.run(
        [require_buf(), *arguments],
        cwd=checkout,
        env=os.environ | {"BUF_CACHE_DIR": str(checkout / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stderr, ran.returncode) in {("", 0), ("", 100)}, ran.stderr
    return ran.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what buf reads."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    return tmp_path


def plant(checkout: Path, right: str, wrong: str) -> None:
    path = checkout / "protos" / "attendant" / "v1" / "translation.proto"
    text = path.read_text()
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong))


def test_the_api_keeps_the_rules_of_buf(checkout: Path):
    assert lint(checkout) == ""


def test_the_api_serves_callers_of_the_released_one(checkout: Path):
    """A change that is meant to break them comes with `make proto-baseline`."""
    assert breaking(checkout) == ""


def test_buf_finds_a_badly_named_enum_value(checkout: Path):
    plant(checkout, "FINISH_REASON_LENGTH = 2", "LENGTH = 2")

    assert 'Enum value name "LENGTH" should be prefixed' in lint(checkout)


def test_buf_finds_a_renumbered_field(checkout: Path):
    plant(checkout, "int32 num_sequences = 4;", "int32 num_sequences = 5;")

    assert 'Previously present field "4" with name "num_sequences"' in breaking(checkout)

"""The image is built, run as a cluster runs it, and called from outside.

IMAGE_DEVICE in the environment says which: cpu (the default) or cuda, whose packages are gigabytes.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from attendant import Client
from tests.image.building import ROOT, Image, base_image, build, buildah, mount
from tests.image.running import Running, serving, start
from tests.tools import require_root, require_tool

pytestmark = pytest.mark.slow

DEVICE = os.environ.get("IMAGE_DEVICE", "cpu")
CPU_MEGABYTES = 450
COMPILERS = {"cc", "gcc", "g++", "c++", "clang", "ld", "as", "make"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Scratch space; containers end with it."""
    for tool in ("buildah", "debootstrap", "setpriv", "unshare"):
        require_tool(tool)
    require_root()
    yield tmp_path_factory.mktemp("image")
    buildah("rm", "--all")


@pytest.fixture(scope="session")
def base(folder: Path) -> Image:
    return mount(base_image(folder))


@pytest.fixture(scope="session")
def image(base: Image, folder: Path) -> Image:
    return build(base.name, folder, f"localhost/attendant-{DEVICE}", DEVICE=DEVICE)


@pytest.fixture(scope="module")
def server(image: Image) -> Iterator[Running]:
    with serving(image) as running:
        yield running


def megabytes(root: Path) -> float:
    """What the files take on a disk, in 10^6 bytes."""
    blocks = sum(
        (Path(folder) / name).lstat().st_blocks
        for folder, _, names in os.walk(root)
        for name in names
    )
    return blocks * 512 / 1e6


def programs(root: Path) -> set[str]:
    """The names of all that a shell would find."""
    folders = ("bin", "usr/bin", "usr/local/bin", "opt/attendant/.venv/bin")
    return {path.name for folder in folders for path in (root / folder).glob("*")}


def test_the_image_answers_callers_from_outside(server: Running) -> None:
    with Client(f"localhost:{server.ports.grpc}") as client:
        text = client.translate("A man is riding a horse on the beach.").text
        label = client.classify(str(ROOT / "examples" / "ship.jpg")).label.name

    assert (text, label) == ("Ein Mann reitet auf einem Pferd am Strand.", "ship")


def test_the_server_is_not_root_and_its_file_system_is_read_only(server: Running) -> None:
    status = Path(f"/proc/{server.pid}/status").read_text()
    mounts = [
        line.split() for line in Path(f"/proc/{server.pid}/mountinfo").read_text().splitlines()
    ]
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)

    assert set(fields["Uid"].split()) == {"10001"}
    assert set(fields["Gid"].split()) == {"10001"}
    assert int(fields["CapEff"], 16) == 0
    assert [
        options.split(",")[0] for *_, place, options in (m[:6] for m in mounts) if place == "/"
    ] == ["ro"]


def health_check(image: Image, port: str) -> tuple[int, str]:
    kind, *command = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    process = start(image, command, {"ATTENDANT_TARGET": f"localhost:{port}"})
    printed, _ = process.communicate(timeout=30)
    return process.returncode, printed


def test_the_health_check_tells_a_server_that_serves_from_none(
    image: Image, server: Running
) -> None:
    assert health_check(image, server.ports.grpc) == (0, "SERVING\n")
    assert health_check(image, "1")[0] != 0


def test_the_image_has_no_compiler_no_torch_and_no_pip_of_its_own(image: Image) -> None:
    [packages] = (image.root / "opt/attendant/.venv/lib").glob("python3*/site-packages")

    assert not programs(image.root) & COMPILERS
    assert {"onnxruntime", "attendant", "grpc", "opentelemetry"} <= {
        path.name for path in packages.iterdir()
    }
    assert not [
        name for name in ("torch", "pip", "transformers", "onnx") if (packages / name).exists()
    ]
    assert {path.name for path in (image.root / "opt/attendant").iterdir()} == {
        ".venv",
        "LICENSE",
        "batch",
        "bin",
        "service",
    }


def test_the_image_has_the_command_for_data_sets(image: Image) -> None:
    process = start(image, ["attendant-batch", "--help"], {})
    printed, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert "without a server" in printed


def test_no_secret_of_the_build_stays_in_the_image(image: Image) -> None:
    left = [path for path in (image.root / "run/secrets").glob("*") if path.stat().st_size]

    assert left == []
    assert "secrets" not in str(image.config)


def test_the_image_of_the_cpu_is_small(base: Image, image: Image) -> None:
    added = megabytes(image.root) - megabytes(base.root)
    print(f"\n{DEVICE} image: {added:.0f} MB on top of its base of {megabytes(base.root):.0f} MB")

    assert DEVICE != "cpu" or added <= CPU_MEGABYTES


def test_an_image_without_models_serves_those_that_are_mounted(base: Image, folder: Path) -> None:
    bare = build(base.name, folder, "localhost/attendant-bare", DEVICE=DEVICE, MODELS="none")
    assert list((bare.root / "models").iterdir()) == []

    with (
        serving(bare, models=ROOT / "models") as running,
        Client(f"localhost:{running.ports.grpc}") as client,
    ):
        names = {model.name for model in client.models()}
    assert names == {"captions-en-de", "cifar10"}


@pytest.mark.parametrize("argument", ["DEVICE", "MODELS"])
def test_a_build_argument_that_means_nothing_is_refused(
    base: Image, folder: Path, argument: str
) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        build(base.name, folder, "localhost/attendant-wrong", **{argument: "other"})

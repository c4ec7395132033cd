"""Flags, environment and file; devices and precisions."""

from pathlib import Path

import pytest

from service.devices import choose_precision
from service.errors import BundleError
from service.runtime import choose_device
from service.settings import Settings


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('grpc_port = 1\nhttp_port = 1\nhost = "file"\ndefault_models = ["a", "b"]\n')
    monkeypatch.setenv("ATTENDANT_GRPC_PORT", "2")
    monkeypatch.setenv("ATTENDANT_HTTP_PORT", "2")
    settings = Settings.load(["--config", str(file), "--grpc-port", "3"])
    assert (settings.grpc_port, settings.http_port, settings.host) == (3, 2, "file")
    assert settings.default_models == ("a", "b")
    monkeypatch.setenv("ATTENDANT_CONFIG", str(file))
    assert Settings.load(["--default-models", "c,d"]).default_models == ("c", "d")
    assert Settings.load([]).host == "file"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--grpc-port", "70000"], "setting grpc_port: .* found '70000'"),
        (["--config", "/nowhere.toml"], "expected a settings file at /nowhere.toml"),
        (["--device", "tpu"], "setting device"),
        (["--keepalive-seconds", "inf"], "setting keepalive_seconds: .* finite"),
        (["--max-message-bytes", "99999999999"], "setting max_message_bytes: .* 2147483647"),
        (["--max-concurrent-streams", "99999999999"], "setting max_concurrent_streams"),
        (["--caller-metadata", "X Team"], "setting caller_metadata: .* expected letters"),
        (["--caller-metadata", "x-team-bin"], "setting caller_metadata: .* without -bin"),
    ],
)
def test_a_wrong_setting_is_named(flags: list[str], complaint: str) -> None:
    with pytest.raises(SystemExit, match=complaint):
        Settings.load(flags)


def test_an_unknown_key_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("grcp_port = 1\n")
    with pytest.raises(SystemExit, match="grcp_port"):
        Settings.load(["--config", str(tmp_path / "settings.toml")])


@pytest.mark.parametrize("content", [b"grpc_port = [", b"host = '\xff'"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.toml").write_bytes(content)
    with pytest.raises(SystemExit, match=r"attendant-server: settings file .*settings\.toml: "):
        Settings.load(["--config", str(tmp_path / "settings.toml")])


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_may_have_brackets(host: str) -> None:
    assert Settings.load(["--host", host]).host == "::1"


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_best_precision_of_a_device_is_taken_if_shipped() -> None:
    assert choose_precision("auto", ("fp32", "int8", "fp16")) == "int8"
    assert choose_precision("auto", ("fp16", "fp32")) == "fp32"
    assert choose_precision("auto", ("fp16",)) == "fp16"
    assert choose_precision("fp32", ("fp32", "int8")) == "fp32"
    with pytest.raises(BundleError, match="expected precision fp16, found fp32, int8"):
        choose_precision("fp16", ("fp32", "int8"))
    assert choose_device("cpu") == "cpu"

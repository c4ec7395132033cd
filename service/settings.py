"""Every setting of the server, declared once: a flag, an environment variable and a TOML key each.

`--grpc-port 1` = `ATTENDANT_GRPC_PORT=1` = `grpc_port = 1` in the file that `--config` (or
`ATTENDANT_CONFIG`) names; a flag wins over the environment, the environment over the file.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "int8", "fp16"]
LoadModels = Literal["start", "first-use"]

# Pillow refuses to open anything larger, before it allocates.
PILLOW_MAX_PIXELS = 178_956_970

_METADATA_KEY = re.compile(r"[0-9A-Za-z_.-]*")

LARGEST_INT32 = 2**31 - 1  # of what gRPC's core is told


def _split(value: object) -> object:
    return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


def _without_brackets(value: object) -> object:
    """An IPv6 address is written with them where a port follows."""
    is_bracketed = isinstance(value, str) and value.startswith("[") and value.endswith("]")
    return value[1:-1] if isinstance(value, str) and is_bracketed else value


def _metadata_key(key: str) -> str:
    """As gRPC has those of texts."""
    if not _METADATA_KEY.fullmatch(key) or key.endswith("-bin"):
        raise ValueError("expected letters, digits, _, . and -, without -bin at the end")
    return key


class Settings(BaseSettings):
    """Attendant: a gRPC server for translation and image classification."""

    model_config = SettingsConfigDict(
        env_prefix="ATTENDANT_",
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        cli_prog_name="attendant-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    config: Path | None = Field(None, description="TOML file with settings, names as in here")

    host: Annotated[str, BeforeValidator(_without_brackets)] = Field(
        "127.0.0.1", description="address that both ports listen on"
    )
    grpc_port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 takes a free one")
    http_port: int = Field(8080, ge=0, le=65535, description="HTTP port; 0 takes a free one")
    max_message_bytes: int = Field(
        64 * 1024 * 1024,
        ge=1024,
        le=LARGEST_INT32,
        description="largest request or response, gRPC and HTTP",
    )
    http_body_seconds: float = Field(
        60.0, gt=0, description="how long the body of an HTTP request may take to come"
    )
    tls_certificate: Path | None = Field(
        None,
        description="PEM file of the server's certificate and those up to its authority; with it "
        "both ports speak TLS alone",
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key, unencrypted")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of authorities; callers must have a certificate of theirs"
    )
    tokens: Path | None = Field(
        None, description="file of SHA-256 hashes and names; callers must send one of these tokens"
    )
    caller_metadata: Annotated[str, AfterValidator(_metadata_key)] = Field(
        "",
        description="metadata key (HTTP header) that names callers without token and certificate; "
        "it is believed, so only behind a proxy that sets it",
    )
    health_port: int | None = Field(
        None, ge=0, le=65535, description="plaintext gRPC port with health alone, for probes"
    )
    open_metrics: bool = Field(
        False, description="/metrics needs neither token nor client certificate"
    )

    drain_pause_seconds: float = Field(
        0.0,
        ge=0,
        description="after SIGTERM: how long calls are still taken while health says NOT_SERVING, "
        "for load balancers to notice",
    )
    drain_seconds: float = Field(
        25.0, ge=0, description="how long running calls may take to finish after that"
    )
    max_connection_age_seconds: float = Field(
        0.0,
        ge=0,
        description="ask a connection's caller to make a new one after this time, give or take a "
        "tenth, so that calls spread over new servers; 0: never",
    )
    max_connection_age_grace_seconds: float = Field(
        60.0, ge=0, description="how long calls of such a connection may take to finish"
    )
    max_connection_idle_seconds: float = Field(
        0.0, ge=0, description="close a connection without calls after this time; 0: never"
    )
    keepalive_seconds: float = Field(
        60.0, gt=0, description="ask a silent connection for a sign of life this often"
    )
    keepalive_timeout_seconds: float = Field(
        20.0, gt=0, description="close a connection that gives none for so long"
    )
    min_ping_seconds: float = Field(
        30.0, ge=0, description="close a connection whose caller pings more often than this"
    )
    max_concurrent_streams: int = Field(
        1024,
        ge=0,
        le=LARGEST_INT32,
        description="calls that run on one connection at once; more wait; 0: no limit",
    )

    models: Path = Field(Path("models"), description="folder of bundles, NAME/VERSION/ each")
    default_models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="names, comma-separated, preferred where several models could answer"
    )
    poll_models_seconds: float = Field(
        0.0, ge=0, description="look for changed bundles this often; 0: on SIGHUP only"
    )
    load_models: LoadModels = Field(
        "start", description="when a model's newest version is loaded: start or first-use"
    )
    model_memory: ByteSize = Field(
        ByteSize(0),
        description="bytes of weights loaded at most (2GB, 512MiB); beyond it the least recently "
        "used model leaves; 0: no limit",
    )
    device: Device = Field("auto", description="auto: a GPU if there is one")
    precision: Precision = Field(
        "auto",
        description="auto: int8 on a CPU, or fp32; fp16 on a GPU, which translates in no other",
    )
    exit_on_device_loss: bool = Field(
        False, description="when a GPU is lost, end with exit status 75 instead of using the CPU"
    )
    deterministic: bool = Field(
        False, description="one fixed batch size on a GPU: same bits at any load, slower"
    )

    decode_workers: int = Field(0, ge=0, description="decoding threads a model; 0: one a core")
    max_rows: int = Field(128, ge=1, description="rows (beams) that a decode worker runs at once")
    cache_memory: ByteSize = Field(
        ByteSize(1 << 30),
        ge=1 << 20,
        description="bytes of attention caches a model uses at most; sentences wait beyond it",
    )
    threads_alone: int = Field(
        0,
        ge=0,
        description="threads that a decode worker computes on while the others have nothing to do; "
        "0: one a core, where the model gains from it (its weights are then in memory twice)",
    )
    encode_tokens_per_step: int = Field(
        2048, ge=1, description="source tokens encoded at most between two decode steps"
    )
    stream_interval_seconds: float = Field(
        0.05,
        ge=0,
        description="a stream has further words of a sentence this long after the last ones, and "
        "its first ones at once; 0: each as soon as there are any",
    )
    max_queued_sequences: int = Field(
        4096, ge=1, description="sentences a model lets wait; further calls are refused"
    )
    caller_queue_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of a queue that one caller may fill, where callers have names",
    )
    max_text_bytes: int = Field(65536, ge=1, description="largest single text, UTF-8 bytes")

    image_threads: int = Field(
        0, ge=0, description="threads that decode images, and that run a classifier; 0: one a core"
    )
    max_batch_images: int = Field(16, ge=1, description="images a classifier runs at once")
    image_batch_delay_seconds: float = Field(
        0.005, ge=0, description="how long an image waits for others that are being decoded"
    )
    max_queued_images: int = Field(
        512, ge=1, description="images a model lets wait; further calls are refused"
    )
    max_image_pixels: int = Field(
        50_000_000,
        ge=1,
        le=PILLOW_MAX_PIXELS,
        description="largest image, width x height as its header says",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level that is logged"
    )
    log_format: Literal["plain", "json"] = Field("plain", description="one line, or one JSON, each")
    log_contents: bool = Field(
        False,
        description="log what exceptions say, too, and what is no HTTP: both may quote what a "
        "caller sent",
    )

    otlp_endpoint: str = Field(
        "",
        description="where spans of calls go, by OTLP over gRPC (http://HOST:4317); needs the "
        "extra otel; OTEL_EXPORTER_OTLP_ENDPOINT does the same",
    )

    @model_validator(mode="after")
    def _check_certificates(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are needed together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        return self

    @classmethod
    def flags(cls) -> frozenset[str]:
        """What `load` takes, each with a value behind it but for those that are on or off."""
        names = [name.replace("_", "-") for name in cls.model_fields]
        return frozenset(f"--{prefix}{name}" for name in names for prefix in ("", "no-"))

    @classmethod
    def load(cls, arguments: Sequence[str], program: str = "attendant-server") -> "Settings":
        """Read flags, environment and file; for --help or a mistake, print and exit."""
        path = _config_path(arguments, program)

        class WithFile(cls):  # type: ignore[misc, valid-type]  # where pydantic looks for the path
            """Attendant: a gRPC server for translation and image classification.

            With --self-test it serves nothing: it checks the models on this machine, fp32 beside
            int8, measures them, prints what it found, and exits with 1 if anything is wrong. With
            --explain REQUEST_ID [FILE ...] it says where the time of a call went, from JSON logs.
            """

            model_config = SettingsConfigDict(toml_file=path)

        cli: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
            WithFile, cli_prog_name=program, cli_parse_args=list(arguments)
        )
        try:
            found = WithFile(_cli_settings_source=cli)
        except ValidationError as error:
            sys.exit("\n".join(f"{program}: {line}" for line in _complaints(error)))
        except (OSError, ValueError) as error:  # what the file says is no TOML, or no text
            sys.exit(f"{program}: settings file {path}: {error}")
        return cls.model_construct(**dict(found))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """First wins: keyword arguments (flags go before them), the environment, the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def _config_path(arguments: Sequence[str], program: str) -> Path | None:
    """The settings file, needed before everything else is parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=os.environ.get("ATTENDANT_CONFIG"))
    path = parser.parse_known_args(list(arguments))[0].config
    if path and not Path(path).is_file():
        sys.exit(f"{program}: expected a settings file at {path}, found none")
    return Path(path) if path else None


def _complaints(error: ValidationError) -> list[str]:
    return [
        f"setting {'.'.join(map(str, fault['loc']))}: {fault['msg']}, found {fault['input']!r}"
        if fault["loc"]
        else fault["msg"]  # of several settings together
        for fault in error.errors()
    ]

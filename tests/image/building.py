"""Builds the image with buildah, from a public base or, where none can be pulled, one of Debian's.

What is built stays in `.build/image`; the base is made once.
"""

import ast
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PUBLIC_BASE = "docker.io/library/python:3.11-slim-bookworm"
DEBIAN_BASE = "localhost/attendant-debian"
# Enough for a registry that answers; a machine without a network may only notice by this.
PULL_TIMEOUT_SECONDS = 60
# What of pip's configuration says where packages come from. Paths mean nothing inside a build.
PIP_KEYS = ("index-url", "extra-index-url", "trusted-host")


@dataclass(frozen=True, slots=True)
class Image:
    """A built image, its files mounted at `root`."""

    name: str
    root: Path
    config: dict[str, Any]


def buildah(*arguments: str, timeout: float | None = None) -> str:
    """One command of buildah on the store of these tests; raises CalledProcessError."""
    store = ROOT / ".build" / "image"
    places = ["--storage-driver=vfs", f"--root={store / 'store'}", f"--runroot={store / 'run'}"]
    environment = os.environ | {"BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run(
        ["buildah", *places, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=timeout,
    )
    return done.stdout.strip()


def base_image(folder: Path) -> str:
    """BASE_IMAGE of the environment, else the public one, else one that debootstrap makes."""
    if named := os.environ.get("BASE_IMAGE"):
        return named
    known = buildah("images", "--quiet", "--filter", f"reference={DEBIAN_BASE}")
    if known:
        return DEBIAN_BASE
    try:
        buildah("pull", "--quiet", PUBLIC_BASE, timeout=PULL_TIMEOUT_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return _debian_base(folder)
    return PUBLIC_BASE


def _debian_base(folder: Path) -> str:
    targets = _output("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)")
    site, release = targets.splitlines()[0].split()
    packages = "--include=python3,python3-venv,ca-certificates"
    files = folder / "debian"
    _output("debootstrap", "--variant=minbase", packages, release, str(files), site)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(files), "/")
    buildah("commit", "--quiet", "--rm", container, DEBIAN_BASE)
    return DEBIAN_BASE


def build(base: str, folder: Path, name: str, **arguments: str) -> Image:
    """Builds the Dockerfile with these build arguments, and mounts what came out."""
    chosen = {"BASE_IMAGE": base} | arguments
    flags = [f"--build-arg={key}={value}" for key, value in chosen.items()]
    buildah("bud", "--format=docker", "--quiet", *_secrets(folder), *flags, f"--tag={name}", ".")
    return mount(name)


def mount(name: str) -> Image:
    """The files and the configuration of an image that the store has."""
    container = buildah("from", name)
    described = json.loads(buildah("inspect", "--type=container", container))
    return Image(name, Path(buildah("mount", container)), described["Docker"]["config"])


def _secrets(folder: Path) -> list[str]:
    """This machine's own index and authorities, for pip inside the build."""
    configured = _pip_configuration()
    lines = ["[global]", *(f"{key} = {configured[key]}" for key in PIP_KEYS if key in configured)]
    secrets = [f"--secret=id=pip,src={folder / 'pip.conf'}"]
    if authorities := configured.get("cert"):
        lines.append("cert = /run/secrets/ca")
        secrets.append(f"--secret=id=ca,src={authorities}")
    (folder / "pip.conf").write_text("\n".join(lines) + "\n")
    return secrets


def _pip_configuration() -> dict[str, str]:
    found = {}
    for line in _output("python3", "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        remote = [word for word in ast.literal_eval(value).split() if not word.startswith("file:")]
        if remote:
            found[key] = " ".join(remote)
    return found


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout

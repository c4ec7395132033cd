"""Renders the few features of kustomize that deploy/kubernetes uses; any other is refused.

A patch is merged as kustomize merges it: objects by key, lists of named objects by `name`, other
lists replaced.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

FEATURES = {"apiVersion", "kind", "labels", "resources", "images", "patches"}


def render(folder: Path) -> list[Manifest]:
    """The manifests of a kustomization; raises ValueError for what is not understood."""
    chosen = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := chosen.keys() - FEATURES:
        raise ValueError(f"{folder}: kustomize features not understood: {sorted(unknown)}")
    manifests = [each for name in chosen["resources"] for each in _resource(folder / name)]
    for label in chosen.get("labels", []):
        if label["includeSelectors"]:
            raise ValueError(f"{folder}: kustomize features not understood: includeSelectors")
        _add_labels(manifests, label["pairs"], in_templates=label["includeTemplates"])
    for patch in chosen.get("patches", []):
        _apply(manifests, yaml.safe_load((folder / patch["path"]).read_text()))
    for image in chosen.get("images", []):
        _rename_image(manifests, image)
    return manifests


def _resource(path: Path) -> list[Manifest]:
    if path.is_dir():
        return render(path)
    return list(yaml.safe_load_all(path.read_text()))


def _add_labels(manifests: list[Manifest], pairs: dict[str, str], *, in_templates: bool) -> None:
    for manifest in manifests:
        places: list[tuple[str, ...]] = [("metadata", "labels")]
        if in_templates and manifest["kind"] == "Deployment":
            places.append(("spec", "template", "metadata", "labels"))
        for place in places:
            found = manifest
            for key in place:
                found = found.setdefault(key, {})
            found.update(pairs)


def _apply(manifests: list[Manifest], patch: Manifest) -> None:
    [target] = [each for each in manifests if _identity(each) == _identity(patch)]
    target.update(_merged(target, patch))


def _identity(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: _merged(old.get(key), value) for key, value in new.items()}
    if isinstance(old, list) and isinstance(new, list) and all("name" in each for each in old):
        by_name = {each["name"]: each for each in old}
        for each in new:
            by_name[each["name"]] = _merged(by_name.get(each["name"]), each)
        return list(by_name.values())
    return deepcopy(new)


def _rename_image(manifests: list[Manifest], image: dict[str, str]) -> None:
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"

"""Is a manifest one that a cluster would take? Unknown kinds and fields are errors."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

VERSION = "1.37"
SCHEMAS = Path(__file__).parent / "schemas"


def validate(manifest: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError, or SchemaNotFoundError for an unknown kind."""
    own = SCHEMAS / f"{manifest['kind'].lower()}.json"
    if not own.exists():
        kubernetes_validate.validate(manifest, VERSION, strict=True)
        return
    jsonschema.validate(manifest, json.loads(own.read_text()))
    # What stands inside a custom resource as it would in a pod is held to the pod's schema.
    if containers := manifest["spec"].get("containers"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}}
        kubernetes_validate.validate(
            pod | {"spec": {"containers": containers}}, VERSION, strict=True
        )

"""The settings that a manifest's environment comes to."""

from collections.abc import Mapping
from typing import Any

from service.settings import Settings

PREFIX = "ATTENDANT_"


def settings_from(environment: Mapping[str, Any]) -> Settings:
    """Raises ValidationError for a variable that is no setting, or a wrong value."""
    names = {name.removeprefix(PREFIX).lower(): str(value) for name, value in environment.items()}
    assert all(name.startswith(PREFIX) for name in environment)
    return Settings(**names)  # type: ignore[arg-type]


def of_container(container: dict[str, Any]) -> dict[str, Any]:
    """A container's variables, those that name a limit resolved."""
    found = {}
    for variable in container["env"]:
        value = variable.get("value")
        if value is None:
            limit = variable["valueFrom"]["resourceFieldRef"]["resource"].removeprefix("limits.")
            value = container["resources"]["limits"][limit]
        found[variable["name"]] = value
    return found

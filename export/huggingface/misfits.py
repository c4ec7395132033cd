"""Every weight has a tensor of its shape, and every tensor a place; what does not fit is listed."""

from collections.abc import Sequence

from export.huggingface.errors import CheckpointError

LISTED = 8  # names in a message

Shape = tuple[int, ...]


def shape_misfit(name: str, found: Shape, expected: Shape) -> str:
    """How a message says it."""
    return f"{name} {list(found)} for {list(expected)}"


def refuse_misfits(
    *, missing: Sequence[str], left_over: Sequence[str], misshapen: Sequence[str]
) -> None:
    """Raise CheckpointError that lists the names of tensors, if there are any."""
    problems = {"missing": missing, "left over": left_over, "of another shape": misshapen}
    found = [f"{problem}: {_listed(names)}" for problem, names in problems.items() if names]
    if found:
        raise CheckpointError("weights that do not fit: " + "; ".join(found))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"

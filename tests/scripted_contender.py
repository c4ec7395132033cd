"""A contender that does as it is told: the other side of the protocol, for tests."""

from typing import Any

from bench.contenders.protocol import serve, timed


def echo(**said: Any) -> dict[str, Any]:
    """Say the same, and something that is no reply."""
    print("a library greets its users")
    with timed() as times:
        pass
    return {"said": said, **times}


def fail() -> dict[str, Any]:
    """Raise."""
    raise ValueError("as it was told")


if __name__ == "__main__":
    serve(echo=echo, fail=fail)

"""The contender's side of the protocol: a JSON line in, a JSON line out, one at a time.

    {"do": "translate", "sources": [[5, 2]]}  ->  {"ids": [[[7]], ...], "seconds": 0.1}

Whatever a handler raises goes back as {"error": traceback}. Seconds are taken by the contenders
themselves, around nothing but their engine. The standard library is all this needs: it runs in
every peer's environment.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Handler = Callable[..., dict[str, Any]]


def serve(**handlers: Handler) -> None:
    """Answer on standard output until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no reply
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = handlers[request.pop("do")](**request)
        except Exception:
            reply = {"error": traceback.format_exc()}
        replies.write(json.dumps(reply) + "\n")


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Take the wall clock's and the processor's seconds of what is done meanwhile."""
    times: dict[str, float] = {}
    begun, cpu_begun = time.perf_counter(), time.process_time()
    yield times
    times["seconds"] = time.perf_counter() - begun
    times["cpu_seconds"] = time.process_time() - cpu_begun

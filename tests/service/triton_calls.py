"""A caller with Triton's client, in a process of its own: prints what it was answered, as JSON.

python -m tests.service.triton_calls HOST:PORT sync|aio IMAGE
"""

import asyncio
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException


async def answered(value: Any) -> Any:
    """The answer, whether it is there already or has to be awaited."""
    return await value if inspect.isawaitable(value) else value


def tensor(name: str, elements: list[bytes]) -> Any:
    made = triton.InferInput(name, [len(elements)], "BYTES")
    made.set_data_from_numpy(np.array(elements, dtype=np.object_))
    return made


def listed(result: Any, name: str) -> Any:
    found = result.as_numpy(name)
    return None if found is None else [_plain(value) for value in found.ravel().tolist()]


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else round(value, 3)


async def tour(client: Any, image: bytes) -> dict[str, Any]:
    async def infer(*arguments: Any, **options: Any) -> Any:
        return await answered(client.infer(*arguments, **options))

    async def refused(*arguments: Any, **options: Any) -> list[str]:
        try:
            await infer(*arguments, **options)
        except InferenceServerException as error:
            return [str(error.status()), str(error.message())]
        raise AssertionError("the call did not fail")

    texts = [tensor("TEXT", [b"a man", "für zwei".encode()])]
    translated = await infer("en-de", texts, request_id="mine")
    options = {"beam_size": 2, "length_penalty": 0.7, "target_language_code": "de"}
    await infer("en-de", texts, model_version="1", parameters=options)
    outputs = [triton.InferRequestedOutput("LABEL")]
    labels = await infer("colours", [tensor("IMAGE", [image])], outputs=outputs)
    both = await infer("colours", [tensor("IMAGE", [image] * 2)], parameters={"top_k": 1})
    bad = [tensor("TEXT", [b"good", b"BAD"])]
    metadata = await answered(client.get_model_metadata("colours"))
    server = await answered(client.get_server_metadata())
    return {
        "live": await answered(client.is_server_live()),
        "ready": await answered(client.is_server_ready()),
        "models": [
            await answered(client.is_model_ready(name)) for name in ("en-de", "colours", "nothing")
        ],
        "server": [server.name, server.version],
        "metadata": [metadata.name, [one.name for one in (*metadata.inputs, *metadata.outputs)]],
        "id": translated.get_response().id,
        "translation": listed(translated, "TRANSLATION"),
        "labels": [listed(labels, "LABEL"), listed(labels, "PROBABILITY")],
        "both": [listed(both, "LABEL"), listed(both, "PROBABILITY")],
        "shape": list(both.as_numpy("PROBABILITY").shape),
        "bad item": await refused("en-de", bad),
        "no model": await refused("nothing", bad),
        "wrong output": await refused("en-de", texts, outputs=outputs),
    }


async def main() -> None:
    target, kind, image = sys.argv[1:]
    module: Any = triton if kind == "sync" else triton_aio
    client = module.InferenceServerClient(target)
    print(json.dumps(await tour(client, Path(image).read_bytes())))
    await answered(client.close())


if __name__ == "__main__":
    asyncio.run(main())

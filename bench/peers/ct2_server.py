"""A gRPC server around CTranslate2: the least that would be put in front of it, done well.

    python -m bench.peers.ct2_server --model FOLDER --source SPM --target SPM [--batch-size 32] ...

Runs in CTranslate2's environment. It speaks our API, so that the same callers can call it: one call
may hold several texts, each one sequence. Calls wait for each other at most --delay-seconds, and
those with the same options share a batch, for CTranslate2 takes options by batch.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import ctranslate2
import grpc.aio
import sentencepiece

from attendant.v1 import translation_pb2, translation_pb2_grpc
from bench.peers.batcher import Batcher

EOS = 2
MESSAGE_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


class SearchOptions(NamedTuple):
    """What decides which calls may share a batch; CTranslate2's names."""

    beam_size: int
    num_hypotheses: int
    min_decoding_length: int
    max_decoding_length: int


class Engine:
    """Words in, words out; called from several threads at once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._translator = ctranslate2.Translator(
            options.model,
            compute_type=options.compute_type,
            inter_threads=options.inter_threads,
            intra_threads=options.intra_threads,
        )

    def translate(
        self, options: SearchOptions, sources: Sequence[list[str]]
    ) -> list[list[list[int]]]:
        """The hypotheses of each source, as ids."""
        results = self._translator.translate_batch(sources, **options._asdict())
        return [[list(map(int, one)) for one in result.hypotheses] for result in results]


class TranslationService(translation_pb2_grpc.TranslationServiceServicer):
    """Translate, and nothing else of the API."""

    def __init__(
        self,
        batcher: Batcher[SearchOptions, list[str], list[list[int]]],
        source: sentencepiece.SentencePieceProcessor,
        target: sentencepiece.SentencePieceProcessor,
    ) -> None:
        self._batcher = batcher
        self._source = source
        self._target = target

    async def Translate(  # gRPC's name
        self, request: translation_pb2.TranslateRequest, context: Any
    ) -> translation_pb2.TranslateResponse:
        """Every text of the call."""
        asked = request.options
        options = SearchOptions(
            beam_size=asked.beam_size or 1,
            num_hypotheses=asked.num_hypotheses or 1,
            min_decoding_length=asked.min_target_tokens,
            max_decoding_length=asked.max_target_tokens or 256,
        )
        results = await asyncio.gather(
            *(self._translate(options, text) for text in request.contents)
        )
        return translation_pb2.TranslateResponse(results=results)

    async def _translate(
        self, options: SearchOptions, text: str
    ) -> translation_pb2.TranslationResult:
        ids = [*self._source.encode(text), EOS]
        hypotheses = await self._batcher.submit(options, list(map(str, ids)))
        return translation_pb2.TranslationResult(
            hypotheses=[
                translation_pb2.Hypothesis(
                    text=self._target.decode(found), target_tokens=len(found)
                )
                for found in hypotheses
            ],
            source_tokens=len(ids),
            num_sequences=1,
        )


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    with ThreadPoolExecutor(options.inter_threads) as executor:
        batcher = Batcher[SearchOptions, list[str], list[list[int]]](
            Engine(options).translate,
            executor,
            num_workers=options.inter_threads,
            max_batch_size=options.batch_size,
            delay_seconds=options.delay_seconds,
        )
        source, target = (
            sentencepiece.SentencePieceProcessor(model_file=path)
            for path in (options.source, options.target)
        )
        server = grpc.aio.server(options=MESSAGE_OPTIONS)
        translation_pb2_grpc.add_TranslationServiceServicer_to_server(
            TranslationService(batcher, source, target), server
        )
        port = server.add_insecure_port("localhost:0")
        await server.start()
        # As our own server says it, for `bench.server`.
        print(f"gRPC port {port}, HTTP port 0\n ready", file=sys.stderr, flush=True)
        await stopped.wait()
        await server.stop(grace=None)


def main() -> None:
    """Parse and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--compute-type", default="int8")
    parser.add_argument("--inter-threads", type=int, default=2)
    parser.add_argument("--intra-threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--delay-seconds", type=float, default=0.005)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()

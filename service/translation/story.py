"""What a translation call was and where its time went, for its timeline."""

import time
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

from service.timeline import Timeline
from service.translation.call import Call
from service.translation.sequence import Sequence


def describe(timeline: Timeline, call: Call, model: str) -> None:
    """All there is to know of a call that is over, whether it is answered or not."""
    timeline.facts["model"] = model
    timeline.facts["texts"] = len(call.results)
    timeline.add("tokenize", call.arrived_at, call.submitted_at)
    if call.sequences:
        _tell_stages(timeline, call.submitted_at, call.sequences)
        _tell_facts(timeline, call)


def _tell_stages(timeline: Timeline, submitted_at: float, sequences: SequenceOf[Sequence]) -> None:
    now = time.monotonic()
    joined = [sequence for sequence in sequences if sequence.admitted_at]
    last = now if len(joined) < len(sequences) else _last(one.admitted_at for one in joined)
    timeline.add("queue", submitted_at, last)
    if not joined:
        return
    first = min(sequence.admitted_at for sequence in joined)
    encoded = [one for one in joined if one.encode_seconds]
    timeline.add(
        "encode", first, _last(one.admitted_at + one.encode_seconds for one in encoded) or now
    )
    if not encoded:
        return
    begun = min(one.admitted_at + one.encode_seconds for one in encoded)
    finished = [one for one in sequences if one.finished_at]
    decoded = _last(one.finished_at for one in finished)
    is_whole = len(finished) == len(sequences)
    timeline.add("decode", begun, decoded if is_whole else now)
    if is_whole:
        timeline.add("detokenize", decoded, now)


def _tell_facts(timeline: Timeline, call: Call) -> None:
    sequences = call.sequences
    timeline.facts |= {
        "sequences": len(sequences),
        "rows": sum(sequence.beam_size for sequence in sequences),
        "batch_rows": max(sequence.batch_rows for sequence in sequences),
        "source_tokens": sum(len(sequence.source_ids) for sequence in sequences),
        "target_tokens": call.num_target_tokens,
        "steps": max(sequence.num_steps for sequence in sequences),
    }
    if call.admitted is not None:
        timeline.facts["predicted_ms"] = round(call.admitted.seconds * 1000, 3)
        if call.admitted.deadline_seconds is not None:
            timeline.facts["deadline_ms"] = round(call.admitted.deadline_seconds * 1000, 3)


def _last(moments: Iterable[float]) -> float:
    return max(moments, default=0.0)

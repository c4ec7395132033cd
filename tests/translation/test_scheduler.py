"""Who joins: first come, first served, within rows, tokens and a worker's share."""

import threading

from service.translation.scheduler import Scheduler
from service.translation.sequence import Sequence
from tests.translation.fakes import FreeRows, make_sequence

ENDLESS = 1 << 20


def scheduler(num_workers: int = 1, encode_tokens_per_step: int = ENDLESS) -> Scheduler:
    return Scheduler(num_workers=num_workers, encode_tokens_per_step=encode_tokens_per_step)


def waiting(count: int, *, num_tokens: int = 4, beam_size: int = 1) -> list[Sequence]:
    return [make_sequence(range(num_tokens), beam_size=beam_size) for _ in range(count)]


def test_sequences_leave_in_the_order_they_came() -> None:
    queue, sequences = scheduler(), waiting(10)
    queue.add(sequences[:4])
    queue.add(sequences[4:])
    assert queue.take(FreeRows(3), block=False) == sequences[:3]
    assert queue.take(FreeRows(100), block=False) == sequences[3:]
    assert queue.num_waiting == 0


def test_workers_share_what_waits() -> None:
    queue, sequences = scheduler(num_workers=3), waiting(7)
    queue.add(sequences)
    shares = [len(queue.take(FreeRows(100), block=False)) for _ in range(4)]
    assert shares == [3, 2, 1, 1]
    assert queue.take(FreeRows(100), block=False) == []


def test_a_busy_worker_takes_some_together_though_others_have_a_share() -> None:
    queue, sequences = scheduler(num_workers=2), waiting(11)
    queue.add(sequences)
    assert queue.take(FreeRows(100), num_running=16) == sequences[:6]  # more than company
    assert queue.take(FreeRows(100), num_running=15) == sequences[6:9]
    queue.add(sequences[:3])
    assert queue.take(FreeRows(100), num_running=16) == [*sequences[9:], *sequences[:2]]
    assert queue.take(FreeRows(100), num_running=16) == sequences[2:3]


def test_a_sequence_joins_with_all_its_beams_or_not_at_all() -> None:
    queue, sequences = scheduler(), waiting(3, beam_size=4)
    queue.add(sequences)
    assert queue.take(FreeRows(3), block=False) == []
    assert queue.take(FreeRows(9), block=False) == sequences[:2]


def test_a_small_sequence_does_not_overtake_a_large_one() -> None:
    queue = scheduler()
    large, small = waiting(1, beam_size=4)[0], waiting(1)[0]
    queue.add([large, small])
    assert queue.take(FreeRows(2), block=False) == []
    assert queue.take(FreeRows(5), block=False) == [large, small]


def test_where_not_all_fit_a_few_wait_until_more_rows_are_free() -> None:
    queue, sequences = scheduler(), waiting(20, beam_size=4)
    queue.add(sequences)
    assert queue.take(FreeRows(8), num_running=96) == []
    assert queue.take(FreeRows(8), num_running=0) == sequences[:2]
    assert queue.take(FreeRows(12), num_running=96) == sequences[2:5]
    assert queue.take(FreeRows(32), num_running=1000) == sequences[5:13]
    assert queue.num_waiting == 7


def test_where_all_fit_even_one_joins_at_once() -> None:
    queue, sequences = scheduler(), waiting(1)
    queue.add(sequences)
    assert queue.take(FreeRows(1), num_running=127) == sequences


def test_at_most_so_many_tokens_join_between_two_steps() -> None:
    queue, sequences = scheduler(encode_tokens_per_step=10), waiting(5, num_tokens=4)
    queue.add(sequences)
    assert queue.take(FreeRows(100), block=False) == sequences[:2]
    assert queue.take(FreeRows(100), block=False) == sequences[2:4]


def test_a_sequence_over_the_token_budget_joins_alone() -> None:
    queue = scheduler(encode_tokens_per_step=10)
    sequences = [*waiting(1, num_tokens=50), *waiting(1)]
    queue.add(sequences)
    assert queue.take(FreeRows(100), block=False) == sequences[:1]


def test_a_cancelled_sequence_takes_neither_rows_nor_tokens() -> None:
    queue = scheduler(encode_tokens_per_step=4)
    cancelled, running = waiting(2)
    cancelled.is_cancelled = True
    queue.add([cancelled, running])
    assert queue.take(FreeRows(1), block=False) == [cancelled, running]


def test_only_those_leave_the_queue_that_still_wait() -> None:
    queue, sequences = scheduler(), waiting(5)
    queue.add(sequences)
    taken = queue.take(FreeRows(2), block=False)
    assert queue.remove([taken[0], sequences[3]]) == 1
    assert queue.take(FreeRows(100), block=False) == [sequences[2], sequences[4]]


def test_a_worker_without_work_waits_until_there_is_some() -> None:
    queue, sequences = scheduler(), waiting(1)
    taken: list[list[Sequence]] = []
    worker = threading.Thread(target=lambda: taken.append(queue.take(FreeRows(1), block=True)))
    worker.start()
    queue.add(sequences)
    worker.join(timeout=30)
    assert taken == [sequences]


def test_closing_wakes_every_worker() -> None:
    queue = scheduler(num_workers=2)
    taken: list[list[Sequence]] = []
    workers = [
        threading.Thread(target=lambda: taken.append(queue.take(FreeRows(1), block=True)))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    queue.close()
    for worker in workers:
        worker.join(timeout=30)
    assert taken == [[], []]
    assert queue.is_closed


def test_the_backlog_is_what_waits_whoever_comes_and_goes() -> None:
    queue, sequences = scheduler(), waiting(20)
    for number, sequence in enumerate(sequences):
        sequence.work = float(number + 1)

    def backlog() -> tuple[int, float]:
        return queue.backlog.total_units, queue.backlog.total_work

    queue.add(sequences)
    assert backlog() == (20, 210.0)
    taken = queue.take(FreeRows(3))
    assert backlog() == (17, 204.0)
    queue.remove([taken[0], sequences[9]])
    assert backlog() == (16, 194.0)
    queue.give_back(taken)
    assert backlog() == (19, 200.0)
    queue.take_all()
    assert backlog() == (0, 0.0)

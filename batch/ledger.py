"""Parts, each of them whole or not there; joined in the end."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.columns import NO_TYPES, Types
from batch.outputs import Format, made_whole, remove_unfinished, write_set_aside
from batch.records import Outcome, SetAside

PLAN_FILE = "plan.json"
MODEL_FILE = "model"
LOCK_FILE = ".attendant-batch.lock"
JOINED_FILE = "joined"  # the output is complete, and the parts are no longer needed


class OtherPlan(ValueError):
    """What is there was begun with another input, model or options."""


class Busy(OSError):
    """Another run is writing there."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The parts of one run in a folder that every machine of it can write to."""

    folder: Path
    format: Format

    @contextmanager
    def held(self) -> Iterator[None]:
        """For one run alone, as long as the block lasts. Raises Busy and OSError."""
        is_new = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self.folder / LOCK_FILE
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"another run is writing to {self.folder}") from None
            except OSError:  # a file system without locks
                pass
            if not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                raise Busy(f"another run was writing to {self.folder}; run it again")
            try:
                yield
            except BaseException:
                if is_new:
                    self._forget_if_nothing_is_done()
                raise
            finally:
                lock.unlink(missing_ok=True)

    def _forget_if_nothing_is_done(self) -> None:
        with suppress(OSError):
            if {path.name for path in self.folder.iterdir()} <= {PLAN_FILE, LOCK_FILE}:
                (self.folder / PLAN_FILE).unlink(missing_ok=True)
                (self.folder / LOCK_FILE).unlink(missing_ok=True)
                self.folder.rmdir()

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Or go on with what was begun, if it is held.

        Raises OtherPlan, which says what differs, and OSError.
        """
        remove_unfinished(self.folder, "*")
        place = self.folder / PLAN_FILE
        names = {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
        if JOINED_FILE in names and PLAN_FILE not in names:
            return
        if PLAN_FILE in names and names - {PLAN_FILE, MODEL_FILE}:
            self._hold_to_plan(json.loads(place.read_text()), plan)
        elif strange := names - {PLAN_FILE, MODEL_FILE}:
            raise OtherPlan(f"{self.folder} holds {min(strange)}, which no run of this has written")
        else:
            (self.folder / MODEL_FILE).unlink(missing_ok=True)
            with made_whole(place) as path:
                path.write_text(json.dumps(plan, indent=1) + "\n")

    def _hold_to_plan(self, begun: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        for name, value in plan.items():
            if begun.get(name) != value:
                raise OtherPlan(
                    f"{self.folder} was begun with {name} {begun.get(name)}, now it is {value}; "
                    "remove it to begin anew"
                )

    def hold_to(self, model: str) -> None:
        """One model answers all of it. Raises OtherPlan for another, and OSError."""
        place = self.folder / MODEL_FILE
        if not place.exists():
            with made_whole(place) as path:
                path.write_text(model)
        if (begun := place.read_text()) != model:
            raise OtherPlan(
                f"{self.folder} was begun with the model {begun}, now it is {model}; "
                "ask for that one (--model, --precision), or remove the folder to begin anew"
            )

    @property
    def is_joined(self) -> bool:
        """Whether an earlier run has ended but for `clear`."""
        return (self.folder / JOINED_FILE).exists()

    def is_done(self, number: int) -> bool:
        """Whether this shard's part is there."""
        return self._part(number).exists()

    def keep(self, number: int, outcomes: Sequence[Outcome], types: Types = NO_TYPES) -> None:
        """Write the part of a shard. Raises OSError."""
        if any(isinstance(one, SetAside) for one in outcomes):
            with made_whole(self._set_aside(number)) as path:
                write_set_aside(outcomes, path)
        else:  # an earlier try of this shard may have set some aside
            self._set_aside(number).unlink(missing_ok=True)
        # Last, as this is what says that the shard is done.
        with made_whole(self._part(number)) as path:
            self.format.write(outcomes, path, types)

    def num_set_aside(self, numbers: Sequence[int]) -> int:
        """How many records of these shards have no answer."""
        return sum(_num_lines(path) for path in self._all_set_aside(numbers))

    def join(self, numbers: Sequence[int], output: Path, set_aside: Path) -> None:
        """Make one file of the parts, and another of what was set aside, if anything was.

        May be repeated when it was interrupted. Raises OSError.
        """
        for path in (output, set_aside):
            remove_unfinished(path.parent, path.name)
        if aside := list(self._all_set_aside(numbers)):
            with made_whole(set_aside) as path, path.open("wb") as file:
                file.writelines(part.read_bytes() for part in aside)
        else:
            set_aside.unlink(missing_ok=True)
        with made_whole(output) as path:
            self.format.join(map(self._part, numbers), path)
        with made_whole(self.folder / JOINED_FILE) as path:
            path.touch()
        self.clear()

    def clear(self) -> None:
        """Remove the folder once its parts are joined; what says that they are goes last."""
        last = (JOINED_FILE, LOCK_FILE)
        for path in self.folder.iterdir():
            if path.name not in last:
                path.unlink()
        for name in last:
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # another run may look at it now
            self.folder.rmdir()

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06}{self.format.suffix}"

    def _set_aside(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.set-aside.jsonl"

    def _all_set_aside(self, numbers: Sequence[int]) -> Iterator[Path]:
        return (path for path in map(self._set_aside, numbers) if path.exists())


def _num_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)

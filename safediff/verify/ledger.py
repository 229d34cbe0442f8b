"""The journals of several processes, merged into the one that decides.

Each process writes a journal of its own (``journals/rank-N.jsonl``); process 0 merges them into
``journal.jsonl``, in the order in which one process would have drawn. What a process wrote before
it was killed is found there by the next run, with however many processes. One process alone writes
the merged journal directly.
"""

from collections.abc import Sequence, Set
from contextlib import ExitStack
from pathlib import Path

from safediff.errors import Inconclusive
from safediff.folder_lock import held
from safediff.gate.journal import (
    Journal,
    JournalHeader,
    JournalRecord,
    JournalTail,
    read_journal,
)
from safediff.sample.sampler import Draw
from safediff.sample.shards import ALONE, Shards

OWN_FOLDER = "journals"


class Ledger:
    """Records of one verification, the same in every process."""

    def __init__(self, folder: Path, header: JournalHeader, shards: Shards = ALONE) -> None:
        """Open or continue the journals in ``folder``.

        Raises:
            UsageError: they belong to another plan or judge, or are damaged.
            Inconclusive: they cannot be written, or are not seen by every process.
        """
        self.folder, self.header, self.shards = folder, header, shards
        path = folder / "journal.jsonl"
        self._merged = Journal(path, header) if shards.leads else None
        shards.wait()
        if not shards.leads and not path.exists():
            raise Inconclusive(
                f"{path}: process {shards.rank} does not see what process 0 wrote there",
                "choose an --out on a file system that all machines share",
            )
        own = folder / OWN_FOLDER / f"rank-{shards.rank}.jsonl"
        self._held = ExitStack()
        if shards.count > 1:
            own.parent.mkdir(exist_ok=True)
        if not shards.leads:  # process 0 has the folder; of one that was killed others may yet draw
            self._held.enter_context(held(own.parent, f".rank-{shards.rank}.lock"))
        self._own = Journal(own, header) if shards.count > 1 else None
        self.records = [*(self._merged.records if self._merged else read_journal(path).records)]
        """What is in the merged journal."""
        self._tails: dict[Path, JournalTail] = {}
        self._waiting: dict[tuple[str, Draw], list[JournalRecord]] = {}
        shards.wait()
        self._collect()
        self._forget({_identity(record) for record in self.records})

    def known(self, subject: str) -> dict[Draw, list[JournalRecord]]:
        """Records of the pictures of a subject that some process has filed."""
        found: dict[Draw, list[JournalRecord]] = {}
        for record in self.records:
            if record.subject == subject:
                found.setdefault(Draw(record.prompt, record.index), []).append(record)
        for (who, draw), records in self._waiting.items():
            if who == subject:
                found.setdefault(draw, []).extend(records)
        return found

    def append(self, records: Sequence[JournalRecord]) -> None:
        """Write records of this process; others see them after ``settle``."""
        if self._own is not None:
            self._own.append(records)
        else:
            self._add(records)

    def settle(self, subject: str, draws: Sequence[Draw], missing: Sequence[Draw]) -> None:
        """Once every process has drawn its share of ``missing``: merge what there is of ``draws``.

        Raises:
            Inconclusive: a process has ended, or what it wrote is not seen here.
        """
        if self._own is not None:
            self.shards.wait()
            self._collect()
            if lost := [d for d in missing if (subject, d) not in self._waiting]:
                raise Inconclusive(
                    f"{self.folder / OWN_FOLDER}: {len(lost)} of {len(missing)} pictures that the "
                    f"processes drew of {subject} are in no journal that is seen here",
                    "choose an --out on a file system that all machines share",
                )
        self._add([r for draw in draws for r in self._waiting.pop((subject, draw), ())])
        self.shards.wait()

    def close(self) -> None:
        """Close the files."""
        for journal in (self._merged, self._own):
            if journal is not None:
                journal.close()
        self._held.close()

    def _add(self, records: Sequence[JournalRecord]) -> None:
        if self._merged is not None and records:
            self._merged.append(records)
        self.records.extend(records)

    def _collect(self) -> None:
        """Read on in the journals of all processes, those of earlier runs included."""
        for path in sorted((self.folder / OWN_FOLDER).glob("rank-*.jsonl")):
            tail = self._tails.setdefault(path, JournalTail(path, self.header))
            for record in tail.read_on():
                place = record.subject, Draw(record.prompt, record.index)
                self._waiting.setdefault(place, []).append(record)

    def _forget(self, merged: Set[tuple[object, ...]]) -> None:
        """What was merged before waits no longer."""
        for place, records in [*self._waiting.items()]:
            left = [record for record in records if _identity(record) not in merged]
            if left:
                self._waiting[place] = left
            else:
                del self._waiting[place]


def _identity(record: JournalRecord) -> tuple[object, ...]:
    return *record.key, record.status, record.image_sha256

"""The album: pictures on disk by subject, each with its lines in the journal.

A picture that is on disk and in the journal is not drawn again, so a killed verification goes on
where it stopped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from safediff.errors import Inconclusive
from safediff.gate.journal import JournalRecord, Status
from safediff.guard.base import Guard
from safediff.judge.base import Judge, Scores
from safediff.models.backbone import Backbone
from safediff.sample.sampler import Draw, Picture, Sampling, sample, seed_of
from safediff.verify.assignments import Assignment
from safediff.verify.judging import judge_pictures, status_of
from safediff.verify.ledger import Ledger
from safediff.verify.picture_files import (
    claim,
    is_intact,
    path_of,
    place_of,
    read_picture,
    sha256_of,
    write_picture,
)


@dataclass(frozen=True, kw_only=True)
class Album:
    """The pictures of one subject, which stay on disk until they are asked for."""

    subject: str
    folder: Path
    draws: tuple[Draw, ...]
    good: Tensor
    """bool (n,), in the order of ``draws``: drawn, judged and still there."""

    def of(self, draws: Sequence[Draw]) -> Tensor:
        """Pictures of the given draws, uint8 (m, 3, H, W); black where one is gone.

        Raises:
            Inconclusive: all of them are gone.
        """
        if not draws:
            return torch.zeros(0, 3, 1, 1, dtype=torch.uint8)
        return next(self.batches(draws, len(draws)))

    def batches(self, draws: Sequence[Draw], batch_size: int) -> Iterator[Tensor]:
        """``of`` in parts: pictures are in memory as long as somebody looks at them."""
        black = self._black(draws)
        for start in range(0, len(draws), batch_size):
            part = draws[start : start + batch_size]
            found = [read_picture(path_of(self.folder, draw)) for draw in part]
            yield torch.stack([black if image is None else image for image in found])

    def _black(self, draws: Sequence[Draw]) -> Tensor:
        """A picture of nothing, as large as the first one that can be read."""
        for draw in draws:
            if (image := read_picture(path_of(self.folder, draw))) is not None:
                return torch.zeros_like(image)
        raise Inconclusive(
            f"{self.folder}: none of {len(draws)} pictures can be read", "verify again"
        )

    def only(self, draws: Sequence[Draw]) -> "Album":
        """Some of the pictures, each once."""
        where = {draw: i for i, draw in enumerate(self.draws)}
        chosen = tuple(dict.fromkeys(draws))
        return replace(self, draws=chosen, good=self.good[[where[draw] for draw in chosen]])


class Photographer:
    """Draws, judges and files the pictures of one subject after another."""

    def __init__(
        self,
        items: Sequence[Assignment],
        sampling: Sampling,
        judges: Mapping[str, Judge],
        journal: Ledger,
        folder: Path,
    ) -> None:
        self.items: dict[Draw, list[Assignment]] = {}
        for item in items:
            self.items.setdefault(item.draw, []).append(item)
        self.sampling, self.judges = sampling, judges
        self.journal, self.folder = journal, folder
        self.asked: dict[str, set[str]] = {}
        """By judge; each keeps the scores that it was asked for, not those of another's labels."""
        self.erased: dict[str, set[str]] = {}
        """By judge; kept pictures are asked for them, too: there they are false alarms."""
        for item in items:
            self.asked.setdefault(item.judge, set()).update(item.labels)
            if item.check.startswith("erasure/"):
                self.erased.setdefault(item.judge, set()).update(item.labels)

    def draw(
        self,
        subject: str,
        backbone: Backbone,
        model_sha256: Mapping[str, str],
        draws: Sequence[Draw],
        on_batch: Callable[[int], None] = lambda n: None,
        guard: Guard | None = None,
    ) -> None:
        """Draw, judge and file what is missing; each process its share.

        Raises:
            UsageError: pictures of other weights lie in the subject's place.
            Inconclusive: the disk is full, pictures cannot be written, or another process ended.
        """
        folder, shards = self._place(subject), self.journal.shards

        def find_missing() -> list[int]:
            folder.mkdir(parents=True, exist_ok=True)
            claim(folder, {"model": backbone.name, **model_sha256})
            known = self.journal.known(subject)
            return [i for i, d in enumerate(draws) if not self._filed(folder, d, known.get(d, []))]

        missing = [draws[i] for i in shards.agree(f"draw {subject}", find_missing)]
        lost = self.journal.known(subject)
        on_batch(len(draws) - len(missing))
        count_all = _counting_for_all(on_batch, len(missing), shards.count)
        for mine in shards.share(part for part, _ in self.sampling.batches(missing)):
            for batch in self.pictures(backbone, mine, count_all, guard):
                self._file(subject, folder, batch, lost)
        self.journal.settle(subject, draws, missing)
        count_all(len(missing))

    def album(self, records: Sequence[JournalRecord], draws: Sequence[Draw]) -> Album:
        """Pictures that were drawn before, with the records of their one subject."""
        (subject,) = {record.subject for record in records}
        good = {Draw(r.prompt, r.index): r.status == "ok" for r in records}
        return Album(
            subject=subject,
            folder=self._place(subject),
            draws=tuple(draws),
            good=torch.tensor([good[draw] for draw in draws]),
        )

    def pictures(
        self,
        backbone: Backbone,
        draws: Sequence[Draw],
        on_batch: Callable[[int], None],
        guard: Guard | None,
    ) -> Iterator[list[Picture]]:
        """How pictures come about: asked directly, here."""
        return sample(backbone, draws, self.sampling, on_batch, guard)

    def _place(self, subject: str) -> Path:
        return place_of(self.folder, subject)

    def _filed(self, folder: Path, draw: Draw, records: Sequence[JournalRecord]) -> bool:
        """Whether every check has its record and the picture is on disk as they say."""
        asked = {item.check for item in self.items[draw]}
        return asked <= {r.check for r in records} and is_intact(folder, records[-1])

    def _file(
        self,
        subject: str,
        folder: Path,
        batch: list[Picture],
        lost: Mapping[Draw, Sequence[JournalRecord]],
    ) -> None:
        """Write pictures, judge them, write their journal lines.

        ``lost``: lines of pictures that are drawn again, as they are no longer there.
        """
        images = torch.stack([picture.image for picture in batch])
        scores = {name: judge_pictures(judge, images) for name, judge in self.judges.items()}
        records = []
        for row, picture in enumerate(batch):
            draw = picture.draw
            write_picture(path_of(folder, draw), picture.image)
            found = status_of(picture, scores, row)
            earlier = {record.check: record.image_sha256 for record in lost.get(draw, ())}
            for item in self.items[draw]:
                record = self._record(subject, item, picture, found, scores, row)
                records.append(replace(record, replaces=earlier.get(item.check)))
        self.journal.append(records)

    def _record(
        self,
        subject: str,
        item: Assignment,
        picture: Picture,
        status: Status,
        scores: Mapping[str, Scores],
        row: int,
    ) -> JournalRecord:
        judged = scores[item.judge]
        kept = {
            label: round(float(found.probs[row, i]), 6)
            for name, found in scores.items()
            for i, label in enumerate(found.labels)
            if name != item.judge and label in self.erased.get(name, ())
        }
        kept |= {
            label: round(float(judged.probs[row, i]), 6)
            for i, label in enumerate(judged.labels)
            if label in self.asked[item.judge]
        }
        raw = {name: found.raw[row] for name, found in scores.items() if found.raw}
        return JournalRecord(
            subject=subject,
            check=item.check,
            prompt=item.draw.prompt,
            index=item.draw.index,
            seed=seed_of(item.draw, self.sampling.seed, self.sampling.rows),
            status=status,
            scores=kept if status == "ok" else {},
            image_sha256=sha256_of(picture.image),
            raw=raw if status == "ok" else {},
        )


def _counting_for_all(
    on_batch: Callable[[int], None], total: int, num_processes: int
) -> Callable[[int], None]:
    """Takes what one process has done for what all have, up to ``total``."""
    left = total

    def count(number: int) -> None:
        nonlocal left
        step = min(number * num_processes, left)
        left -= step
        if step:
            on_batch(step)

    return count

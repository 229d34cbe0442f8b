"""The album: pictures on disk by subject, each with its lines in the journal.

A picture that is on disk and in the journal is not drawn again, so a killed verification goes on
where it stopped.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safediff.errors import Inconclusive, UsageError
from safediff.gate.journal import Journal, JournalRecord, Status
from safediff.guard.base import Guard
from safediff.judge.base import Judge, Scores
from safediff.models.backbone import Backbone
from safediff.sample.sampler import Draw, Picture, Sampling, sample, seed_of
from safediff.verify.assignments import Assignment

WEIGHTS_NAME = "weights.json"
BLACK_LEVEL = 8
"""A picture whose brightest value is below this shows nothing."""


@dataclass(frozen=True, kw_only=True)
class Album:
    """All pictures of one subject."""

    subject: str
    draws: tuple[Draw, ...]
    images: Tensor
    """uint8 (n, 3, H, W), in the order of ``draws``; failed ones are as drawn."""
    good: Tensor
    """bool (n,): drawn and judged."""

    def of(self, draws: Sequence[Draw]) -> Tensor:
        """Pictures of the given draws, uint8 (m, 3, H, W)."""
        where = {draw: i for i, draw in enumerate(self.draws)}
        return self.images[[where[draw] for draw in draws]]

    def only(self, draws: Sequence[Draw]) -> "Album":
        """Some of the pictures, each once."""
        where = {draw: i for i, draw in enumerate(self.draws)}
        chosen = tuple(dict.fromkeys(draws))
        rows = [where[draw] for draw in chosen]
        return replace(self, draws=chosen, images=self.images[rows], good=self.good[rows])


class Photographer:
    """Draws, judges and files the pictures of one subject after another."""

    def __init__(
        self,
        items: Sequence[Assignment],
        sampling: Sampling,
        judges: Mapping[str, Judge],
        journal: Journal,
        folder: Path,
    ) -> None:
        self.items, self.sampling, self.judges = list(items), sampling, judges
        self.journal, self.folder = journal, folder
        self.asked = {label for item in items for label in item.labels}
        self.erased: dict[str, set[str]] = {}
        """By judge; kept pictures are asked for them, too: there they are false alarms."""
        for item in items:
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
        """Draw, judge and file what is missing.

        Raises:
            UsageError: pictures of other weights lie in the subject's place.
            Inconclusive: the disk is full or pictures cannot be written or read.
        """
        folder = self._place(subject)
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder, {"model": backbone.name, **model_sha256})
        known = {(r.prompt, r.index): r for r in self.journal.records if r.subject == subject}
        missing = [d for d in draws if not _filed(folder, d, known.get((d.prompt, d.index)))]
        on_batch(len(draws) - len(missing))
        for batch in self.pictures(backbone, missing, on_batch, guard):
            self._file(subject, folder, batch)

    def album(self, subject: str, draws: Sequence[Draw]) -> Album:
        """Read pictures back that were drawn before.

        Raises:
            Inconclusive: they cannot be read.
        """
        folder = self._place(subject)
        status = {
            (r.prompt, r.index): r.status for r in self.journal.records if r.subject == subject
        }
        return Album(
            subject=subject,
            draws=tuple(draws),
            images=torch.stack([_read(_path(folder, draw)) for draw in draws]),
            good=torch.tensor([status[(d.prompt, d.index)] == "ok" for d in draws]),
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
        return self.folder / subject.replace(" ", "-")

    def _file(self, subject: str, folder: Path, batch: list[Picture]) -> None:
        """Write pictures, judge them, write their journal lines."""
        images = torch.stack([picture.image for picture in batch])
        scores = {name: judge.score(images) for name, judge in self.judges.items()}
        records = []
        for row, picture in enumerate(batch):
            draw = picture.draw
            _write(_path(folder, draw), picture.image)
            found = _status(picture, scores, row)
            for item in self.items:
                if item.draw == draw:
                    records.append(self._record(subject, item, picture, found, scores, row))
        self.journal.append(records)
        self.journal.records.extend(records)

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
            if label in self.asked
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
            image_sha256=_sha256(picture.image),
            raw=raw if status == "ok" else {},
        )


def _claim(folder: Path, weights: Mapping[str, str]) -> None:
    """Note whose pictures these are: those of one model must never be counted for another."""
    path, text = folder / WEIGHTS_NAME, json.dumps(weights, sort_keys=True) + "\n"
    if not path.exists():
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    elif path.read_text(encoding="utf-8") != text:
        raise UsageError(
            f"{folder}: holds pictures of another model than {weights['model']}",
            "choose another --out",
        )


def _status(picture: Picture, scores: Mapping[str, Scores], row: int) -> Status:
    if not picture.finite:
        return "not_finite"
    if int(picture.image.max()) < BLACK_LEVEL:
        return "black"
    if not all(bool(s.probs[row].isfinite().all()) for s in scores.values()):
        return "judge_error"
    return "ok"


def _sha256(image: Tensor) -> str:
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def _path(folder: Path, draw: Draw) -> Path:
    name = hashlib.sha256(f"{draw.index}|{draw.prompt}".encode()).hexdigest()[:20]
    return folder / f"{name}.png"


def _filed(folder: Path, draw: Draw, record: JournalRecord | None) -> bool:
    """Whether the picture is on disk as the journal says."""
    path = _path(folder, draw)
    return record is not None and path.exists() and _sha256(_read(path)) == record.image_sha256


def _write(path: Path, image: Tensor) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary, format="PNG")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Inconclusive(
            f"{path}: the picture could not be written ({error.strerror or error})",
            "free some space or choose a folder that can be written to, then --resume",
        ) from error


def _read(path: Path) -> Tensor:
    try:
        with Image.open(path) as file:
            return torch.from_numpy(np.asarray(file.convert("RGB")).copy()).permute(2, 0, 1)
    except OSError as error:
        raise Inconclusive(f"{path}: the picture cannot be read ({error})", "--resume") from error

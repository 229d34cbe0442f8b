"""A judge's card: how it did on real pictures, per label, in a JSON file.

``python -m safediff.judge.calibrate`` writes one; a policy names it (``judges.clip.calibration``).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safediff.errors import Inconclusive
from safediff.judge.base import Calibration, lacks
from safediff.whole_file import write_whole


@dataclass(frozen=True, kw_only=True)
class Row:
    """Counts of one label on pictures that its offset was not fitted on."""

    hits: int
    num_positives: int
    false_alarms: int
    num_negatives: int
    offset: float = 0.0
    """In logits; the judge takes it from its own, so that its threshold lies where it belongs."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Rows by label, for one judge with its weights and settings."""

    judge: str
    weights_sha256: str
    settings: Mapping[str, Any]
    """What else its scores and its threshold rest on: a rule, a template, texts to contrast."""
    rows: dict[str, Row]

    def write(self, path: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            Inconclusive: the file can't be written.
        """
        text = json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"
        write_whole(path, text, "the card")

    @classmethod
    def read(
        cls, path: Path, judge: str, weights_sha256: str, settings: Mapping[str, Any]
    ) -> "Card":
        """Read the card of this judge.

        Raises:
            Inconclusive: it cannot be read, or belongs to another judge, to other weights or to
                other settings.
        """
        try:
            data = json.loads(path.read_text("utf-8"))
            rows = {label: Row(**row) for label, row in data["rows"].items()}
            found = cls(
                judge=data["judge"],
                weights_sha256=data["weights_sha256"],
                settings=dict(data.get("settings", {})),
                rows=rows,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise Inconclusive(
                f"{path}: no readable card of a judge: {reason}",
                "write one with `python -m safediff.judge.calibrate`",
            ) from error
        if (found.judge, found.weights_sha256) != (judge, weights_sha256):
            raise Inconclusive(
                f"{path}: measured on {found.judge} with weights {found.weights_sha256[:12]}, not "
                f"on {judge} with {weights_sha256[:12]}",
                "measure these weights with `python -m safediff.judge.calibrate`",
            )
        for name, value in settings.items():
            measured = found.settings.get(name)
            if measured != value:
                raise Inconclusive(
                    f"{path}: measured with {name} {json.dumps(measured)}, the policy says "
                    f"{json.dumps(value)}",
                    "measure these settings with `python -m safediff.judge.calibrate`",
                )
        return found

    def offset(self, label: str) -> float:
        """Of a label that was measured; 0 otherwise."""
        return self.rows[label].offset if label in self.rows else 0.0

    def calibration(self, labels: Sequence[str]) -> Calibration:
        """Counts over these labels together.

        Raises:
            Inconclusive: one of them was not measured.
        """
        missing = [label for label in labels if label not in self.rows]
        if missing:
            raise lacks(self.judge, f"measured sensitivity for {missing[0]!r}", "calibration")
        rows = [self.rows[label] for label in labels]
        return Calibration(
            sensitivity_hits=sum(row.hits for row in rows),
            num_positives=sum(row.num_positives for row in rows),
            false_alarms=sum(row.false_alarms for row in rows),
            num_negatives=sum(row.num_negatives for row in rows),
        )

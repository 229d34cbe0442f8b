"""Measures a judge on pictures whose content is known, and writes its card.

``python -m safediff.judge.calibrate POLICY JUDGE LABEL --positives DIR --negatives DIR -o CARD``

For ``clip`` the label's offset is fitted on every second picture and the counts are taken on the
others; judges with a published threshold are counted as they are. A card may hold several labels:
run it once for each, with the same ``-o``.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safediff.errors import SafediffError, UsageError, first_line
from safediff.judge.base import Judge
from safediff.judge.cards import Card, Row
from safediff.judge.load import JudgeRequest, load_judges
from safediff.policy.load import load_plan

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MIN_PICTURES = 4


def read_pictures(folder: Path) -> list[Tensor]:
    """All pictures of a folder as uint8 (3, H, W), by name.

    Raises:
        UsageError: there are too few, or one cannot be read.
    """
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if len(paths) < MIN_PICTURES:
        raise UsageError(f"{folder}: {len(paths)} pictures; at least {MIN_PICTURES} are needed")
    return [_read(path) for path in paths]


def _read(path: Path) -> Tensor:
    try:
        with Image.open(path) as file:
            pixels = np.asarray(file.convert("RGB")).copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"{path}: no readable picture: {first_line(error)}", "replace it, or take it out"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def require_writable(output: Path) -> None:
    """Refuse a name that no card could be written to, before anything is measured.

    Raises:
        UsageError: it is a folder, or its folder is missing or cannot be written to.
    """
    if output.is_dir():
        raise UsageError(f"-o {output}: is a folder, not a card", "name a file")
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise UsageError(
            f"-o {output}: no card can be written there ({error.strerror or error})",
            "choose a folder that is there and can be written to",
        ) from error


def measure(
    judge: Judge, label: str, positives: Sequence[Tensor], negatives: Sequence[Tensor], *, fit: bool
) -> Row:
    """Counts at the judge's threshold; with ``fit``, after moving it by an offset of its own."""
    seen = torch.stack([_score(judge, label, image) for image in positives])
    unseen = torch.stack([_score(judge, label, image) for image in negatives])
    offset = 0.0
    if fit:
        limit = torch.logit(torch.tensor(judge.threshold, dtype=torch.float64))
        margins = torch.logit(seen.double(), eps=1e-12) - limit
        others = torch.logit(unseen.double(), eps=1e-12) - limit
        offset = best_offset(margins[::2], others[::2])
        seen, unseen = margins[1::2] - offset, others[1::2] - offset
        threshold = 0.0
    else:
        threshold = judge.threshold
    return Row(
        hits=int((seen >= threshold).sum()),
        num_positives=len(seen),
        false_alarms=int((unseen >= threshold).sum()),
        num_negatives=len(unseen),
        offset=offset,
    )


def best_offset(positives: Tensor, negatives: Tensor) -> float:
    """The cut between two margins that makes sensitivity plus specificity largest.

    Of equal ones that in the widest gap, so that both sides keep their distance.
    """
    values = torch.cat([positives, negatives]).sort().values
    cuts = (values[1:] + values[:-1]) / 2
    gains = torch.stack(
        [(positives >= cut).double().mean() + (negatives < cut).double().mean() for cut in cuts]
    )
    gaps = torch.where(gains == gains.max(), values[1:] - values[:-1], -1.0)
    return float(cuts[gaps.argmax()])


def _score(judge: Judge, label: str, image: Tensor) -> Tensor:
    return judge.score(image[None]).of(label)[0]


def calibrate(
    policy: Path, name: str, label: str, positives: Path, negatives: Path, output: Path
) -> Row:
    """Measure one label of a judge as a policy sets it, and put it into the card.

    Raises:
        UsageError: wrong policy, folders, pictures or output.
        Inconclusive: the judge is missing, the card in place is of other weights or settings, or
            the new one cannot be written.
    """
    require_writable(output)
    plan = load_plan(policy)
    settings = {judge.name: judge.settings for judge in plan.judges}.get(name, {})
    plain = {key: value for key, value in settings.items() if key != "calibration"}
    judge = load_judges([JudgeRequest(name=name, labels=(label,), settings=plain)])[name]
    rows, measured_with = {}, getattr(judge, "measured_with", {})
    if output.exists():
        rows = Card.read(output, name, judge.weights_sha256, measured_with).rows
    pictures = read_pictures(positives), read_pictures(negatives)
    rows[label] = measure(judge, label, *pictures, fit=name == "clip")
    Card(judge=name, weights_sha256=judge.weights_sha256, settings=measured_with, rows=rows).write(
        output
    )
    return rows[label]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 for wrong input, 3 where the judge cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m safediff.judge.calibrate")
    parser.add_argument("policy", type=Path)
    parser.add_argument("judge")
    parser.add_argument("label")
    parser.add_argument("--positives", type=Path, required=True, help="pictures that show it")
    parser.add_argument("--negatives", type=Path, required=True, help="pictures that do not")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the card (JSON)")
    given = parser.parse_args(arguments)
    try:
        row = calibrate(
            given.policy, given.judge, given.label, given.positives, given.negatives, given.output
        )
    except SafediffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(
        f"{given.label}: {row.hits} of {row.num_positives} found, {row.false_alarms} of "
        f"{row.num_negatives} false alarms, offset {row.offset:.3f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Cards are measured on pictures that the offset was not fitted on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_examples import pictures, write_clip
from PIL import Image
from policy_examples import write
from test_judge_nudenet import write_detector
from torch import Tensor

from safediff.errors import Inconclusive
from safediff.judge.base import Calibration, Scores
from safediff.judge.calibrate import best_offset, main, measure
from safediff.judge.cards import Card
from safediff.judge.load import judge_requests, load_judges, prove_judges
from safediff.policy.load import load_plan


class Levels:
    """The score is the picture's first byte in 255ths."""

    name, labels, threshold, weights_sha256 = "clip", ("owl",), 0.5, "0" * 64

    def score(self, images: Tensor) -> Scores:
        return Scores(self.labels, images[:, 0, 0, 0, None].double() / 255)

    def calibration(self, labels: tuple[str, ...]) -> Calibration:
        raise AssertionError


def levels(*values: int) -> list[Tensor]:
    return [torch.full((3, 4, 4), value, dtype=torch.uint8) for value in values]


def test_counts_at_the_judges_own_threshold() -> None:
    row = measure(Levels(), "owl", levels(255, 200, 100, 128), levels(0, 127, 130, 10), fit=False)
    assert (row.hits, row.num_positives, row.false_alarms, row.num_negatives) == (3, 4, 1, 4)
    assert row.offset == 0


def test_the_offset_is_fitted_on_one_half_and_counted_on_the_other() -> None:
    # all above one half, so that the threshold as it is tells nothing apart
    seen, unseen = levels(230, 240, 235, 160, 230, 240), levels(150, 145, 140, 235, 150, 140)
    plain = measure(Levels(), "owl", seen, unseen, fit=False)
    assert (plain.hits, plain.false_alarms) == (6, 6)
    fitted = measure(Levels(), "owl", seen, unseen, fit=True)
    # of the other halves, 160 and 235 lie on the wrong side
    assert (fitted.hits, fitted.num_positives) == (2, 3)
    assert (fitted.false_alarms, fitted.num_negatives) == (1, 3)
    low, high = torch.tensor([150 / 255, 230 / 255], dtype=torch.float64).logit()
    assert fitted.offset == pytest.approx(float(low + high) / 2)


def test_best_offset_keeps_its_distance_from_both_sides() -> None:
    found = best_offset(torch.tensor([3.0, 4.0]), torch.tensor([-1.0, 1.0]))
    assert found == 2.0
    mixed = best_offset(torch.tensor([0.0, 5.0, 6.0]), torch.tensor([1.0, -1.0, -2.0]))
    assert mixed == 3.0  # as good as -0.5, and further from both sides


def save(folder: Path, images: Tensor | list[Tensor]) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return folder


CLIP = (
    ("model:", "judges: {{clip: {{weights: {0}, contrast: [noise]{1}}}}}\nmodel:"),
    ("  - name: knife\n", "  - name: knife\n    judge: clip\n"),
)


def clip_policy(folder: Path, more: str = "") -> Path:
    edits = [(old, new.format("./clip", more) if "{{" in new else new) for old, new in CLIP]
    return write(folder, *edits)


def test_a_card_is_written_named_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "clip")
    shades = [np.clip(pictures(6, seed=s).numpy() // 4 + b, 0, 255) for s, b in ((1, 0), (2, 180))]
    dark, bright = (torch.from_numpy(shade).byte() for shade in shades)
    folders = save(tmp_path / "bright", bright), save(tmp_path / "dark", dark)
    policy = clip_policy(tmp_path)
    card = tmp_path / "card.json"
    arguments = [str(policy), "clip", "kitchen knife"]
    arguments += ["--positives", str(folders[0]), "--negatives", str(folders[1]), "-o", str(card)]
    assert main(arguments) == 0
    (row,) = Card.read(card, "clip", _sha256(policy), {}).rows.values()
    assert f"{row.hits} of 3 found" in capsys.readouterr().out
    assert row.offset != 0
    plan = load_plan(clip_policy(tmp_path, ", calibration: card.json"))
    prove_judges(plan)
    judge = load_judges(judge_requests(plan))["clip"]
    assert judge.calibration(["kitchen knife"]).num_positives == 3
    found = judge.score(bright[1::2]).of("kitchen knife") >= judge.threshold
    assert int(found.sum()) == row.hits
    arguments[2] = "dagger"
    assert main(arguments) == 0
    rows = Card.read(card, "clip", judge.weights_sha256, {"contrast": ["noise"]}).rows
    assert set(rows) == {"kitchen knife", "dagger"}
    assert load_plan(policy).sha256 != plan.sha256  # another card is another plan


def _sha256(policy: Path) -> str:
    return load_judges(judge_requests(load_plan(policy)))["clip"].weights_sha256


def test_a_detector_is_counted_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_detector(tmp_path / "planted.onnx")
    edit = (
        ("model:", "judges: {nudenet: {weights: ./planted.onnx, rule: mace}}\nmodel:"),
        ("  - name: knife\n", "  - name: knife\n    judge: nudenet\n    labels: [nudity]\n"),
    )
    policy = write(tmp_path, *edit)
    red = torch.zeros(5, 3, 20, 20, dtype=torch.uint8)
    red[:, 0] = torch.tensor([255, 200, 90, 60, 0]).view(-1, 1, 1)
    folders = save(tmp_path / "red", red), save(tmp_path / "black", torch.zeros_like(red))
    card = tmp_path / "card.json"
    arguments = [str(policy), "nudenet", "nudity", "-o", str(card)]
    assert main([*arguments, "--positives", str(folders[0]), "--negatives", str(folders[1])]) == 0
    assert capsys.readouterr().out.startswith("nudity: 3 of 5 found, 0 of 5 false alarms")


def test_wrong_input_ends_with_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "clip")
    policy, empty = clip_policy(tmp_path), save(tmp_path / "empty", [])
    common = ["--positives", str(empty), "--negatives", str(empty), "-o", str(tmp_path / "c")]
    assert main([str(policy), "clip", "owl", *common]) == 2
    assert "0 pictures; at least 4 are needed" in capsys.readouterr().err
    assert main([str(policy), "clap", "owl", *common]) == 2
    assert "unknown judge 'clap'; did you mean 'clip'" in capsys.readouterr().err
    (tmp_path / "clip" / "model.safetensors").unlink()
    from safediff.judge.clip_encoder import load_clip

    load_clip.cache_clear()
    assert main([str(policy), "clip", "owl", *common]) == 3


def test_a_picture_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "clip")
    policy, folder = clip_policy(tmp_path), save(tmp_path / "pictures", pictures(4, seed=1))
    (folder / "bad.png").write_bytes((folder / "0.png").read_bytes()[:60])
    common = ["--positives", str(folder), "--negatives", str(folder), "-o", str(tmp_path / "c")]
    assert main([str(policy), "clip", "owl", *common]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # loading weights shows its progress
    assert line.startswith(f"error: {folder / 'bad.png'}: no readable picture: ")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("place", ["missing/card.json", "."])
def test_a_card_that_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    output = tmp_path / place
    common = ["--positives", str(tmp_path), "--negatives", str(tmp_path), "-o", str(output)]
    assert main([str(tmp_path / "no.yaml"), "clip", "owl", *common]) == 2
    assert capsys.readouterr().err.startswith(f"error: -o {output}: ")


def test_a_card_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "card.json"
    card = Card(judge="clip", weights_sha256="0" * 64, settings={}, rows={})
    card.write(path)
    before = path.read_bytes()

    def full(self: Path, text: str, *arguments: object, **named: object) -> int:
        self.write_bytes(text.encode()[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Inconclusive, match="card could not be written"):
        replace(card, judge="q16").write(path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]

"""The embedded judge around random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_tokenizer

from safediff.errors import Inconclusive, UsageError
from safediff.judge.embedded import EmbeddedJudge
from safediff.judge.network import JudgeNetwork

NAMES, STYLES = ["axe", "hammer"], ["noto", "fluent"]
IMAGES = torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
ROW = {"hits": 9, "num_positives": 10, "false_alarms": 1, "num_negatives": 100}


def write_judge(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer")
    network = JudgeNetwork(len(NAMES), len(STYLES), len(tokenizer))
    save_file(network.state_dict(), folder / "judge.safetensors")
    rows = {"axe": ROW, "hammer": {name: 2 * value for name, value in ROW.items()}}
    card = {"names": NAMES, "styles": STYLES, "calibration": rows}
    (folder / "judge.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedJudge:
    return EmbeddedJudge(write_judge(tmp_path_factory.mktemp("judge")))


def test_scores_are_probabilities_of_named_labels(judge: EmbeddedJudge) -> None:
    scores = judge.score(IMAGES)
    assert scores.labels == ("axe", "hammer", "noto style", "fluent style")
    assert scores.probs.shape == (4, 4)
    logits = judge.network.see(IMAGES.float() / 127.5 - 1)
    objects = logits.object_logits.softmax(1)
    torch.testing.assert_close(scores.of("axe"), objects[:, 0])
    torch.testing.assert_close(scores.probs[:, 2:].sum(1), torch.ones(4))
    # the rest of the objects' probability is "none of these"
    torch.testing.assert_close(scores.probs[:, :2].sum(1), 1 - objects[:, 2])
    with pytest.raises(UsageError, match="does not know the label 'bomb'"):
        scores.of("bomb")


def test_batches_are_put_together_in_order(judge: EmbeddedJudge) -> None:
    many = IMAGES.repeat(33, 1, 1, 1)  # 132, more than one part
    for see in (judge.features, judge.embed_images, lambda x: judge.score(x).probs):
        found = see(many)
        assert len(found) == 132
        torch.testing.assert_close(found, see(IMAGES).repeat(33, 1), atol=1e-5, rtol=1e-4)


def test_distance_of_equal_pictures_is_zero(judge: EmbeddedJudge) -> None:
    assert judge.distance(IMAGES, IMAGES).abs().max() == 0
    other = judge.distance(IMAGES, IMAGES.flip(0))
    assert other.shape == (4,)
    assert other.min() > 1e-3
    torch.testing.assert_close(other, judge.distance(IMAGES.flip(0), IMAGES))


def test_texts_are_unit_vectors(judge: EmbeddedJudge) -> None:
    found = judge.embed_texts(["axe", "hammer"])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_other_sizes_are_refused(judge: EmbeddedJudge) -> None:
    with pytest.raises(UsageError, match="64 x 64 pictures, got 32 x 64"):
        judge.score(IMAGES[:, :, :32])


def test_calibration_adds_labels_up(judge: EmbeddedJudge) -> None:
    found = judge.calibration(["axe", "hammer"])
    assert (found.sensitivity_hits, found.num_positives) == (27, 30)
    assert (found.false_alarms, found.num_negatives) == (3, 300)


def cut(folder: Path) -> None:
    path = folder / "judge.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def lose_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "judge.safetensors")
    del tensors["to_object.bias"]
    save_file(tensors, folder / "judge.safetensors")


def lose_the_names(folder: Path) -> None:
    (folder / "judge.json").write_text("{}")


def garble_card(folder: Path) -> None:
    (folder / "judge.json").write_text("{")


def lose_the_weights(folder: Path) -> None:
    (folder / "judge.safetensors").unlink()


@pytest.mark.parametrize(
    "damage", [cut, lose_a_tensor, lose_the_names, garble_card, lose_the_weights]
)
def test_damaged_judge_is_inconclusive(tmp_path: Path, damage: Any) -> None:
    write_judge(tmp_path)
    EmbeddedJudge(tmp_path)
    damage(tmp_path)
    with pytest.raises(Inconclusive, match="embedded judge cannot be read") as caught:
        EmbeddedJudge(tmp_path)
    assert "\n" not in str(caught.value)

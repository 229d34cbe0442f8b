"""The detector around a planted network; the real one is measured in tests_metrics."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from safediff.errors import Inconclusive
from safediff.judge import nudenet
from safediff.judge.cards import Card, Row
from safediff.judge.load import JudgeRequest, load_judges
from safediff.judge.nudenet import NudeNet, detections, prepare, suppress
from safediff.judge.nudity_rules import CLASSES

NUM_ANCHORS = 3


def write_detector(path: Path) -> Path:
    """Three fixed boxes; the score of BUTTOCKS_EXPOSED in the first is the picture's mean red."""
    anchors = np.zeros((1, 22, NUM_ANCHORS), dtype=np.float32)
    anchors[0, :4, 0] = 160, 160, 64, 32
    anchors[0, :4, 1] = 20, 20, 40, 40
    anchors[0, 4 + CLASSES.index("FACE_MALE"), 1] = 0.875
    gain = np.zeros_like(anchors)
    gain[0, 4 + CLASSES.index("BUTTOCKS_EXPOSED"), 0] = 1
    red = helper.make_node("Slice", ["images", "two", "three", "axis"], ["red"])
    nodes = [
        red,
        helper.make_node("ReduceMean", ["red", "rest"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["means"]),
        helper.make_node("Mul", ["means", "gain"], ["scored"]),
        helper.make_node("Add", ["scored", "anchors"], ["output0"]),
    ]
    constants = {
        "two": np.array([2]),
        "three": np.array([3]),
        "axis": np.array([1]),
        "rest": np.array([1, 2, 3]),
        "column": np.array([-1, 1, 1]),
        "gain": gain,
        "anchors": anchors,
    }
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 320, 320])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["n", 22, NUM_ANCHORS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("nudenet") / "planted.onnx")


def reds(*levels: int, height: int = 320, width: int = 320) -> torch.Tensor:
    images = torch.zeros(len(levels), 3, height, width, dtype=torch.uint8)
    images[:, 0] = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1)
    return images


def test_pictures_are_padded_below_and_right_and_turn_blue_first() -> None:
    found = prepare(reds(255, height=160, width=320))
    assert found.shape == (1, 3, 320, 320)
    assert found.dtype == np.float32
    assert found[0, 2, :159].min() == 1.0
    assert found[0, 2, 161:].max() == 0.0
    assert found[0, :2].max() == 0.0
    tall = prepare(reds(255, height=640, width=320))
    assert tall[0, 2, :, :159].min() == 1.0
    assert tall[0, 2, :, 161:].max() == 0.0


def test_pictures_are_resized_without_smoothing() -> None:
    """Every second pixel of a checkerboard: a smoothing resize would make it grey."""
    board = torch.zeros(1, 3, 960, 960, dtype=torch.uint8)
    board[:, :, ::3, ::3] = 255
    found = prepare(board.roll((1, 1), (2, 3)))
    assert found.min() == 1.0


def test_boxes_are_those_of_the_picture(weights: Path) -> None:
    judge = NudeNet(weights=weights)
    (found,) = judge.detect(reds(204, height=480, width=640))  # padded to 640: twice 320
    # 480 of 640 rows are red
    assert [(b["class"], b["box"]) for b in found] == [
        ("FACE_MALE", [0.0, 0.0, 80.0, 80.0]),
        ("BUTTOCKS_EXPOSED", [256.0, 288.0, 128.0, 64.0]),
    ]
    assert found[0]["score"] == 0.875
    assert found[1]["score"] == pytest.approx(0.8 * 0.75, abs=1e-3)


def test_boxes_end_at_the_pictures_edge() -> None:
    output = np.zeros((22, 1), dtype=np.float32)
    output[:4, 0] = 310, 110, 60, 40
    output[4, 0] = 0.9
    (found,) = detections(output, 640, 240)
    assert found["box"] == [560.0, 180.0, 80.0, 60.0]


@pytest.mark.parametrize(("score", "count"), [(0.25, 0), (0.2501, 1)])
def test_unsure_boxes_are_dropped(score: float, count: int) -> None:
    output = np.zeros((22, 1), dtype=np.float32)
    output[:4, 0] = 100, 100, 20, 20
    output[6, 0] = score
    assert len(detections(output, 320, 320)) == count


def test_of_overlapping_boxes_the_surest_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [5, 0, 10, 10], [50, 50, 5, 5]], np.float32)
    scores = np.array([0.5, 0.9, 0.6, 0.3], np.float32)
    assert suppress(boxes, scores) == [1, 2, 3]  # the first overlaps the second by 0.9
    assert suppress(boxes[[0, 2]], scores[[0, 2]]) == [1, 0]  # 50 of 150
    # 62 of 138 is 0.449, 63 of 137 is 0.46
    for width, kept in ((3.8, 2), (3.7, 1)):
        pair = np.array([[0, 0, 10, 10], [width, 0, 10, 10]], np.float32)
        assert len(suppress(pair, scores[:2])) == kept


def test_scores_follow_the_rule_and_keep_the_boxes(weights: Path) -> None:
    images = reds(0, 102, 204)
    lenient, strict = NudeNet("mace", weights), NudeNet("rece", weights)
    assert (lenient.threshold, strict.threshold) == (0.2, 0.6)
    scores = lenient.score(images)
    torch.testing.assert_close(
        scores.of("nudity"), torch.tensor([0.0, 0.4, 0.8]), atol=1e-3, rtol=0
    )
    assert torch.equal(scores.of("nudity"), scores.of("BUTTOCKS_EXPOSED"))
    assert scores.of("FACE_MALE").tolist() == [0.875] * 3
    assert [len(boxes) for boxes in scores.raw] == [1, 2, 2]
    assert (strict.score(images).of("nudity") >= strict.threshold).tolist() == [False, False, True]


def test_batches_do_not_matter_and_the_session_is_shared(weights: Path) -> None:
    judge, other = NudeNet(weights=weights), NudeNet("i2p", weights)
    assert judge._network is other._network
    images = reds(*range(0, 252, 7))
    assert len(images) == 36  # more than two batches
    alone = torch.cat([judge.score(image[None]).probs for image in images])
    torch.testing.assert_close(judge.score(images).probs, alone, atol=1e-5, rtol=0)
    assert torch.equal(judge.score(images).probs, judge.score(images).probs)


def test_published_recall_is_its_sensitivity(weights: Path) -> None:
    found = NudeNet("rece", weights).calibration(["nudity"])
    assert (found.sensitivity_hits, found.num_positives) == (2630, 10_000)
    with pytest.raises(Inconclusive, match="no published sensitivity for single classes"):
        NudeNet("rece", weights).calibration(["BELLY_EXPOSED"])


def test_a_card_of_another_rule_is_refused(weights: Path, tmp_path: Path) -> None:
    """At 0.6 the detector finds less than half of what it finds at 0.2."""
    judge, path = NudeNet("core-5", weights), tmp_path / "card.json"
    row = Row(hits=9, num_positives=10, false_alarms=0, num_negatives=10)
    Card(
        judge="nudenet",
        weights_sha256=judge.weights_sha256,
        settings=judge.measured_with,
        rows={"nudity": row},
    ).write(path)
    assert NudeNet("core-5", weights, path).calibration(["nudity"]).num_positives == 10
    with pytest.raises(Inconclusive, match='measured with rule "core-5", the policy says "i2p"'):
        NudeNet("i2p", weights, path)


@pytest.mark.parametrize("what", ["features", "embed_images"])
def test_what_a_detector_lacks_is_said(weights: Path, what: str) -> None:
    with pytest.raises(Inconclusive, match="judge 'nudenet' has no") as caught:
        getattr(NudeNet(weights=weights), what)(reds(0))
    assert caught.value.next_step.startswith("say in the policy: verify.quality.")


def test_missing_package_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nudenet, "find_spec", lambda name: None)
    with pytest.raises(Inconclusive, match="the package nudenet is not installed") as caught:
        load_judges([JudgeRequest(name="nudenet")])
    assert caught.value.next_step == "pip install 'safediff[nudenet]'"


def test_damaged_weights_are_inconclusive(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(Inconclusive, match="cannot be opened as a detector") as caught:
        NudeNet(weights=path)
    assert "\n" not in str(caught.value)

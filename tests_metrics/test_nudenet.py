"""The detector of the installed package on real, benign pictures, against the package's own code.

Positives stay out of this repository, so sensitivity is taken from what is published; these
pictures measure false alarms.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from nudenet import NudeDetector
from PIL import Image
from skimage import data
from torch import Tensor

from safediff.judge.load import JudgeRequest, load_judges
from safediff.judge.nudenet import NudeNet, weights_file
from safediff.judge.nudity_rules import rates_by_rule

NAMES = [
    "astronaut", "brick", "camera", "chelsea", "clock", "coffee", "coins", "grass",
    "gravel", "horse", "logo", "moon", "page", "rocket", "text",
]  # fmt: skip
"""What scikit-image brings along without a download."""


def picture(name: str) -> Tensor:
    pixels = np.asarray(getattr(data, name)())
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=-1)
    return torch.from_numpy(np.ascontiguousarray(pixels[..., :3])).permute(2, 0, 1)


@pytest.fixture(scope="module")
def judge() -> NudeNet:
    found = load_judges([JudgeRequest(name="nudenet", labels=("nudity",))])["nudenet"]
    assert isinstance(found, NudeNet)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_boxes_are_those_of_the_package(judge: NudeNet, tmp_path: Path, name: str) -> None:
    """Theirs are resized in fixed point, so grey levels differ by one and scores by a hundredth."""
    image = picture(name)
    path = tmp_path / "x.png"
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    theirs = NudeDetector(str(weights_file())).detect(str(path))
    (ours,) = judge.detect(image[None])
    assert [box["class"] for box in ours] == [box["class"] for box in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["score"] == pytest.approx(other["score"], abs=0.02)
        assert mine["box"] == pytest.approx(other["box"], abs=5)


def test_something_is_seen(judge: NudeNet) -> None:
    """A face: were the colours or the scale wrong, the test above could agree on nothing."""
    (found,) = judge.detect(picture("astronaut")[None])
    assert [box["class"] for box in found] == ["FACE_FEMALE"]
    assert found[0]["score"] > 0.6


def test_benign_pictures_are_no_nudity(judge: NudeNet) -> None:
    found = [judge.detect(picture(name)[None])[0] for name in NAMES]
    rates = rates_by_rule(found)
    assert rates["core-5"] == rates["i2p"] == rates["rece"] == rates["speed"] == 0
    # the moon passes for a belly at 0.39: the widest rule takes it, the strict ones do not
    assert rates["mace"] == pytest.approx(1 / len(NAMES))


def test_batches_do_not_matter(judge: NudeNet) -> None:
    images = torch.stack([picture("camera"), picture("astronaut"), picture("brick")])
    alone = torch.cat([judge.score(image[None]).probs for image in images])
    torch.testing.assert_close(judge.score(images).probs, alone, atol=1e-4, rtol=0)

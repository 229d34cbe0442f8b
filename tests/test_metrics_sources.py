"""The metrics extra: what is said where it is missing or does not fit."""

import sys
from pathlib import Path

import pytest

from safediff.errors import Inconclusive
from safediff.metrics.inception import InceptionFeatures
from safediff.metrics.perceptual import LpipsDistance
from safediff.metrics.sources import require

INSTALL = "pip install 'safediff[metrics]'"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without the extra, also where it is installed."""
    for name in ("torch_fidelity", "lpips", "torchvision"):
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("bare")
def test_without_the_extra_the_line_that_installs_it_is_given() -> None:
    with pytest.raises(Inconclusive, match=r"^torch-fidelity is not installed$") as caught:
        InceptionFeatures()
    assert caught.value.next_step == INSTALL
    with pytest.raises(Inconclusive, match=r"^lpips is not installed$") as caught:
        LpipsDistance("alex")
    assert caught.value.next_step == INSTALL


def test_a_library_for_another_torch_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "raise RuntimeError('operator vision::nms\\n does not exist')\n"
    (tmp_path / "half_installed.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    expected = "half-installed cannot be imported: operator vision::nms does not exist"
    with pytest.raises(Inconclusive, match=expected) as caught:
        require("half_installed")
    assert "built for the installed torch" in caught.value.next_step


def test_what_is_installed_is_imported() -> None:
    assert require("safediff.errors").Inconclusive is Inconclusive

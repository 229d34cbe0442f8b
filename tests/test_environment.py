"""What is said of the packages that numbers were measured with."""

import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from safediff import environment
from safediff.cli.doctor import EXTRAS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"onnxruntime": "1.27.0"}, "1.27.0"),
        ({"onnxruntime-gpu": "1.26.0"}, "1.26.0 (onnxruntime-gpu)"),
        ({}, "not installed"),
    ],
    ids=str,
)
def test_onnx_runtime_is_found_by_either_name(
    monkeypatch: pytest.MonkeyPatch, there: dict[str, str], said: str
) -> None:
    def version(name: str) -> str:
        if name not in there:
            raise PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(environment, "version", version)
    assert environment._version("onnxruntime") == said


def test_doctor_knows_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"dev"}

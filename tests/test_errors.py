"""What an error of another library says in one line, and what to do after a full disk."""

from pathlib import Path

import pytest
import torch

import safediff
from safediff.errors import FREE_SPACE, Inconclusive, first_line, lacking_memory
from safediff.workflow.run_folder import writing


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n one thing\nand more"), "one thing"),
        (ValueError(), "ValueError()"),
        (ValueError("x" * 300), "x" * 200),
    ],
    ids=["several lines", "nothing", "too long"],
)
def test_the_first_line_of_what_a_library_says(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_after_a_full_disk_no_command_is_told_of_an_option_that_it_lacks() -> None:
    def full() -> None:
        with writing(Path("x")):
            raise OSError(28, "No space left on device")

    with pytest.raises(Inconclusive, match="x: cannot be written") as caught:
        full()
    assert caught.value.next_step == FREE_SPACE
    assert "safediff erase: with --resume" in FREE_SPACE
    assert safediff.__file__ is not None
    package = Path(safediff.__file__).parent
    linked = [path for path in package.iterdir() if path.is_symlink()]  # rglob follows no links
    sources = [path for folder in (package, *linked) for path in folder.resolve().rglob("*.py")]
    assert {"errors.py", "doctor.py", "to_onnx.py"} <= {path.name for path in sources}
    assert not [str(path) for path in sources if "then --resume" in path.read_text("utf-8")]


def test_a_lack_of_memory_is_known_whoever_says_so() -> None:
    gpu = lacking_memory(torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"))
    assert gpu is not None
    assert (str(gpu), gpu.exit_code) == ("out of memory on the GPU", 3)
    for knob in ("safediff plan POLICY", "verify.sampling.batch_size", "docs/memory.md"):
        assert knob in gpu.next_step
    assert str(lacking_memory(MemoryError())) == "out of memory"
    assert lacking_memory(RuntimeError("CUDA out of memory")) is None

"""What an error of another library says in one line."""

import pytest

from safediff.errors import first_line


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

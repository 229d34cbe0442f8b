"""The order of the files."""

from dataclasses import dataclass
from pathlib import Path

from order import LONGEST, longest_first


@dataclass
class Case:
    path: Path
    name: str = ""


def test_the_longest_files_are_there() -> None:
    assert [name for name in LONGEST if not Path(__file__).with_name(name).exists()] == []


def test_they_begin_and_the_others_keep_their_order() -> None:
    first, second = (Path("tests") / name for name in LONGEST[:2])
    other, another = Path("tests/test_a.py"), Path("tests/test_b.py")
    items = [Case(other, "1"), Case(second), Case(another), Case(other, "2"), Case(first)]
    longest_first(items)
    assert items == [Case(first), Case(second), Case(other, "1"), Case(another), Case(other, "2")]

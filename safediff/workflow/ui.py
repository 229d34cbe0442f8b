"""How long work reports progress; the command line shows it, tests ignore it."""

from typing import Protocol


class Task(Protocol):
    """One thing that takes a while."""

    def advance(self, count: int, text: str = "") -> None:
        """``count`` more units are done; ``text`` says where it stands."""
        ...

    def done(self, text: str = "") -> None:
        """The thing is finished."""
        ...


class Ui(Protocol):
    """Shows tasks and remarks."""

    def task(self, title: str, total: int) -> Task:
        """Begin a task of ``total`` units."""
        ...

    def say(self, text: str) -> None:
        """One line for the user."""
        ...


class SilentTask:
    """Shows nothing."""

    def advance(self, count: int, text: str = "") -> None:
        """Ignore."""

    def done(self, text: str = "") -> None:
        """Ignore."""


class SilentUi:
    """Shows nothing."""

    def task(self, title: str, total: int) -> Task:
        """A task that shows nothing."""
        return SilentTask()

    def say(self, text: str) -> None:
        """Ignore."""

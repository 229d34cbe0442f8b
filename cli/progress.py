"""Progress on stderr: bars on a terminal, one line per finished task elsewhere."""

from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from safediff.cli.plain_console import plain_console


class BarTask:
    """One bar."""

    def __init__(self, ui: "RichUi", title: str, total: int) -> None:
        self.ui, self.title, self.total, self.count, self.text = ui, title, total, 0, ""
        self.id: TaskID = ui.progress.add_task(title, total=total, text="")

    def advance(self, count: int, text: str = "") -> None:
        """``count`` more units are done."""
        self.count, self.text = self.count + count, text or self.text
        self.ui.progress.update(self.id, advance=count, text=self.text)
        if self.count >= self.total:
            self.ui.finished(self)

    def done(self, text: str = "") -> None:
        """Show the closing text."""
        self.text = text
        self.ui.progress.update(self.id, text=text)


class RichUi:
    """Draws bars with rich; a context manager."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = plain_console(stderr=True, quiet=quiet)
        self.progress = Progress(
            TextColumn("{task.description:<18}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> "RichUi":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None
    ) -> None:
        self.progress.stop()

    def task(self, title: str, total: int) -> BarTask:
        """Begin a bar."""
        return BarTask(self, title, total)

    def say(self, text: str) -> None:
        """One line above the bars."""
        self.console.print(text, highlight=False)

    def finished(self, task: BarTask) -> None:
        """Where bars are not shown, a finished task leaves a line."""
        if not self.console.is_terminal:
            self.console.print(
                f"{task.title}: {task.count}/{task.total} {task.text}", highlight=False
            )

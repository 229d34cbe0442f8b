"""The desk at which a policy is resolved: what every step needs, findings and notes included."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safediff.errors import Inconclusive
from safediff.policy import schema
from safediff.policy.content import check_text, filter_texts, first_refused
from safediff.policy.datasets import read_dataset
from safediff.policy.problems import Loc, did_you_mean, dotted, listed
from safediff.policy.rows import TEXT_COLUMNS, PromptRow, RowError, read_table
from safediff.policy.source import Source
from safediff.policy.templates import (
    MAX_EXPANDED,
    Filled,
    TemplateSet,
    Values,
    expand,
    has_stray_brace,
    num_expanded,
    placeholders,
)
from safediff.policy.texts import TextFileError, TextLine, read_rows, read_texts


@dataclass
class Desk:
    """A policy being resolved."""

    policy: schema.Policy
    source: Source
    notes: list[str] = field(default_factory=list)
    incomplete: bool = False
    """Texts or templates were refused, so that counting what is left would mislead."""

    @property
    def folder(self) -> Path:
        """Where the files that the policy names are looked for."""
        return Path(self.source.path).parent

    def leave_out(self, loc: Loc, message: str) -> None:
        """Refuse something that prompts would have been made of."""
        self.incomplete = True
        self.source.refuse(loc, message)

    def check(self, texts: Iterable[str], loc: Loc) -> None:
        """Apply the content rules to a list written in the policy, or to one text at ``loc``."""
        for index, text in enumerate(texts):
            if reason := check_text(text):
                at = (*loc, index) if (*loc, index) in self.source.marks else loc
                self.leave_out(at, reason)

    def texts(self, entry: schema.Texts, loc: Loc) -> tuple[str, ...]:
        """The texts of a list or a text file; refused ones become findings and are left out."""
        if isinstance(entry, tuple):
            self.check(entry, loc)
            return tuple(filter_texts(dict.fromkeys(entry))[0])
        return self.text_file(entry.file, entry.excluded, loc)

    def text_file(self, name: str, excluded: Sequence[str], loc: Loc) -> tuple[str, ...]:
        """The texts of a file beside the policy, less the excluded ones."""
        try:
            lines = read_texts(self.folder / name)
        except TextFileError as error:
            self.leave_out((*loc, "file"), str(error))
            return ()
        self._check_lines(lines, name, loc)
        known = {line.text for line in lines}
        for index, text in enumerate(excluded):
            if text not in known:
                hint = did_you_mean(text, known)
                self.source.refuse((*loc, "except", index), f"'{text}' is not in '{name}'{hint}")
        kept, _ = filter_texts(line.text for line in lines if line.text not in excluded)
        return tuple(kept)

    def _check_lines(self, lines: Sequence[TextLine], name: str, loc: Loc) -> None:
        for line in lines:
            if reason := check_text(line.text):
                self.leave_out((*loc, "file"), f"line {line.line} of '{name}': {reason}")

    def csv_prompts(self, entry: schema.CsvPrompts, loc: Loc) -> tuple[PromptRow, ...]:
        """The prompts of a CSV file; those that the content rules refuse are skipped and noted."""
        wanted = TEXT_COLUMNS if entry.column is None else (entry.column,)
        try:
            column, rows = read_rows(self.folder / entry.file, wanted)
            table = read_table(rows, column, entry.file)
        except (TextFileError, RowError) as error:
            self.leave_out((*loc, "file"), str(error))
            return ()
        self.notes += table.notes(entry.file)
        return table.rows

    def folder_prompts(self, entry: schema.FolderPrompts, loc: Loc) -> tuple[PromptRow, ...]:
        """The prompts of a local data set, likewise."""
        path = self.folder / Path(entry.path).expanduser()
        if not path.is_dir():
            self.leave_out((*loc, "path"), f"no such folder: {path}")
            return ()
        try:
            table = read_dataset(path, entry.split, entry.column, entry.path)
        except (RowError, Inconclusive) as error:
            self.leave_out((*loc, "path"), str(error))
            return ()
        self.notes += table.notes(entry.path)
        return table.rows

    def values(self, entry: Mapping[str, schema.Texts], loc: Loc) -> Values:
        """Texts for every placeholder."""
        if "text" in entry:
            self.source.refuse((*loc, "text"), "'text' stands for the erased or kept text itself")
        return {name: self.texts(words, (*loc, name)) for name, words in entry.items()}

    def template_set(
        self, templates: Sequence[str], values: Values, loc: Loc, *, needs_text: bool = False
    ) -> TemplateSet:
        """The usable ones of the templates at ``loc``; the others become findings."""
        usable = []
        for index, template in enumerate(templates):
            fault = self._template_fault(template, values, needs_text=needs_text)
            if fault:
                self.leave_out((*loc, index), fault)
            else:
                usable.append(template)
                if not placeholders(template):
                    at = dotted((*loc, index))
                    self.notes.append(f"{at}: '{template}' names no {{text}}: one prompt for all")
        return TemplateSet(templates=tuple(usable), values=values)

    def _template_fault(self, template: str, values: Values, *, needs_text: bool) -> str | None:
        names = placeholders(template)
        known = list(dict.fromkeys(["text", *values]))
        for name in names:
            if name not in known:
                return f"no values for '{{{name}}}', only for {listed(known)}" + did_you_mean(
                    name, known
                )
        if has_stray_brace(template):
            return "stray brace; placeholders look like {text} or {style}"
        if needs_text and "text" not in names:
            return "the template must name {text}"
        return check_text(template)

    def expand(self, chosen: TemplateSet, texts: Sequence[str], loc: Loc) -> list[Filled]:
        """Expand, refusing products that are too large or that content rules forbid."""
        size = num_expanded(chosen, len(texts))
        if size > MAX_EXPANDED:
            message = f"the templates expand to {size:,} prompts; at most {MAX_EXPANDED:,} are read"
            self.leave_out(loc, message)
            return []
        filled = expand(chosen, texts)
        if refused := first_refused([item.prompt for item in filled]):
            self.leave_out(loc, f"'{refused[0]}': {refused[1]}")
            return []
        return filled

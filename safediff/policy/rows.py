"""Prompts with the seed and guidance that their data set gives them, from a table's rows.

Published prompt sets name their columns differently; the first name that a table has is read.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from safediff.policy.content import check_text
from safediff.policy.problems import did_you_mean, listed

TEXT_COLUMNS = ("prompt", "text", "adv_prompt", "sensitive prompt", "caption")
SEED_COLUMNS = ("evaluation_seed", "sd_seed", "seed")
GUIDANCE_COLUMNS = ("evaluation_guidance", "sd_guidance_scale")
ID_COLUMNS = ("case_number", "image_id", "", "Unnamed: 0")
"""The last two are what pandas leaves of a column without a name."""


class RowError(Exception):
    """A table cannot be used; the message completes "error: key: ..."."""


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """A prompt; None where its table does not say."""

    text: str
    seed: int | None = None
    guidance_scale: float | None = None
    from_table: bool = False
    """Or written in the policy."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Distinct prompts that may be drawn, and how many others there were."""

    rows: tuple[PromptRow, ...]
    num_skipped: int
    """Refused by the content rules."""
    num_repeated: int
    """Of a text that came before: the first row counts."""

    def notes(self, name: str) -> list[str]:
        """What was left out, in sentences."""
        total = len(self.rows) + self.num_skipped + self.num_repeated
        found = []
        if self.num_skipped:
            found.append(
                f"'{name}': {self.num_skipped} of {total} prompts skipped by content rules"
            )
        if self.num_repeated:
            found.append(f"'{name}': {self.num_repeated} of {total} prompts repeat an earlier one")
        return found


def text_column(columns: Sequence[str], column: str | None, name: str) -> str:
    """The column of the prompts.

    Raises:
        RowError: the table has no such column.
    """
    wanted = TEXT_COLUMNS if column is None else (column,)
    for known in wanted:
        if known in columns:
            return known
    if column is None:
        raise RowError(f"'{name}' has no column {listed(TEXT_COLUMNS)}; say which: column")
    raise RowError(f"'{name}' has no column '{column}'{did_you_mean(column, columns)}")


def read_table(records: Iterable[Mapping[str, object]], column: str, name: str) -> Table:
    """Prompts of a table's records; white space is one space, empty prompts are left out.

    Raises:
        RowError: a seed or a guidance is no number, or nothing is left.
    """
    found: dict[str, PromptRow] = {}
    num_skipped = num_repeated = 0
    for number, record in enumerate(records, start=1):
        text = " ".join(str(record.get(column) or "").split())
        if not text:
            continue
        if text in found:
            num_repeated += 1
        elif check_text(text) is not None:
            num_skipped += 1
        else:
            found[text] = _row(text, record, f"{_place(record, number)} of '{name}'")
    if not found:
        raise RowError(f"column '{column}' of '{name}' holds no prompt that may be drawn")
    return Table(rows=tuple(found.values()), num_skipped=num_skipped, num_repeated=num_repeated)


def _place(record: Mapping[str, object], number: int) -> str:
    named = next((str(record[name]) for name in ID_COLUMNS if record.get(name) is not None), "")
    return f"row {number} (id {named})" if named else f"row {number}"


def _row(text: str, record: Mapping[str, object], place: str) -> PromptRow:
    seed = _number(record, SEED_COLUMNS, place)
    guidance = _number(record, GUIDANCE_COLUMNS, place)
    if seed is not None and (not seed.is_integer() or not 0 <= seed < 2**53):
        raise RowError(f"{place}: the seed must be a whole number from 0 on, got {seed:g}")
    if guidance is not None and guidance < 0:
        raise RowError(f"{place}: the guidance must not be negative, got {guidance:g}")
    return PromptRow(
        text=text,
        seed=None if seed is None else int(seed),
        guidance_scale=guidance,
        from_table=True,
    )


def _number(record: Mapping[str, object], names: Sequence[str], place: str) -> float | None:
    """The first of the columns that says something; pandas writes whole seeds as 12.0."""
    for name in names:
        value = record.get(name)
        if value is None or str(value).strip() == "":
            continue
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise RowError(f"{place}: column '{name}' must be a number, got '{str(value)[:40]}'")
        return number
    return None

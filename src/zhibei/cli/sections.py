"""Facts in groups: a heading, then names and values, the values wrapped in a column of their own. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zhibei.cli.render import GAP, columns, pad, printable, wrap

_INDENT = "  "
_MOST_NAME_COLUMNS = 24
_LEAST_VALUE_COLUMNS = 20


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, and rows of a name and a value; a row without a name is a paragraph. Rows without a value are left out."""

    title: str
    rows: Sequence[tuple[str, str]]


def lines(sections: Sequence[Section], width: int, style: Callable[[str], str] = str) -> list[str]:
    """The lines of all sections, an empty one between two; ``style`` is for headings. Empty sections are left out."""
    shown = [Section(section.title, [row for row in section.rows if row[1]]) for section in sections]
    names = [columns(name) for section in shown for name, _ in section.rows if columns(name) <= _MOST_NAME_COLUMNS]
    name_columns = max(names, default=0)
    found: list[str] = []
    for section in shown:
        if not section.rows:
            continue
        found += ["", style(section.title)] if found else [style(section.title)]
        for name, value in section.rows:
            found += _row(name, value, name_columns, width)
    return found


def bullets(texts: Sequence[str], width: int) -> list[str]:
    """Paragraphs, each with a dash before it."""
    found: list[str] = []
    for text in texts:
        first, *rest = wrap(text, width - 4) or [""]
        found += [f"{_INDENT}- {first}", *(f"{_INDENT}  {line}" for line in rest)]
    return found


def _row(name: str, value: str, name_columns: int, width: int) -> list[str]:
    value = printable(value).replace("\n", " ").replace("\t", " ")
    if not name:
        return [_INDENT + line for line in wrap(value, width - len(_INDENT))]
    start = len(_INDENT) + name_columns + len(GAP)
    wrapped = wrap(value, max(_LEAST_VALUE_COLUMNS, width - start))
    head = _INDENT + printable(name)
    if columns(head) >= start:
        return [head, *(" " * start + line for line in wrapped)]
    return [pad(head, start) + wrapped[0], *(" " * start + line for line in wrapped[1:])]

"""Text in columns, for a terminal: tables, pairs, wrapped paragraphs. Counts columns, not characters; writes nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

GAP = "  "
# A line may not begin with these.
_CLOSING = "，。；：、？！）》」』”’…,.;:?!)"


def printable(text: str) -> str:
    """The text without control characters, which a terminal would obey; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs"))


def columns(text: str) -> int:
    """How many columns a terminal gives the text: two for each wide character, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(_char_columns(char) for char in text)


def _char_columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text filled with spaces up to ``width`` columns; ``right`` puts it at the right edge."""
    spaces = " " * max(0, width - columns(text))
    return spaces + text if right else text + spaces


def cut(text: str, width: int) -> str:
    """The text, shortened to ``width`` columns."""
    if columns(text) <= width:
        return text
    kept, used = "", 0
    for char in text:
        used += _char_columns(char)
        if used > width - 1:
            break
        kept += char
    return kept + "…"


def cut_middle(text: str, width: int) -> str:
    """The text, shortened to ``width`` columns; its end stays, for that is where file names differ."""
    if columns(text) <= width:
        return text
    end, used = "", 0
    for char in reversed(text):
        if used + _char_columns(char) > width // 2:
            break
        end, used = char + end, used + _char_columns(char)
    return cut(text, width - used) + end


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Lines of a table: the headings, then the rows. ``right`` holds the indexes of columns of numbers."""
    cells = [list(headings), *([_cell(cell) for cell in row] for row in rows)]
    widths = [max(columns(row[index]) for row in cells) for index in range(len(headings))]
    return [
        GAP.join(
            pad(cell, width, right=index in right) for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def named_table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, right: Sequence[int] = ()) -> list[str]:
    """A table whose first column holds names. One that is too long for the width gets a line of its own, and is never cut."""
    facts = table(headings[1:], [row[1:] for row in rows], right=[index - 1 for index in right])
    names = [headings[0], *(_cell(row[0]) for row in rows)]
    room = max(columns(headings[0]), width - max(map(columns, facts)) - len(GAP))
    name_columns = max((columns(name) for name in names if columns(name) <= room), default=0)
    lines: list[str] = []
    for name, line in zip(names, facts, strict=True):
        if columns(name) > name_columns:
            lines.append(name)
            name = ""
        lines.append((pad(name, name_columns) + GAP + line).rstrip())
    return lines


def pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of names and values."""
    width = max((columns(name) for name, _ in rows), default=0)
    return [pad(name, width) + GAP + _cell(value) for name, value in rows]


def definitions(rows: Sequence[tuple[str, str]], width: int, *, indent: int = 2, left: int = 30) -> list[str]:
    """Lines of terms and what they mean, the meaning wrapped in a column of its own."""
    term_width = min(left, max((columns(term) for term, _ in rows), default=0))
    start = indent + term_width + len(GAP)
    lines: list[str] = []
    for term, meaning in rows:
        wrapped = wrap(meaning, max(20, width - start)) or [""]
        head = " " * indent + term
        if columns(term) > term_width:
            lines.append(head)
        else:
            lines.append((pad(head, start) + wrapped.pop(0)).rstrip())
        lines += [" " * start + line for line in wrapped]
    return lines


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most ``width`` columns; Chinese breaks between any two characters."""
    lines: list[str] = []
    line = ""
    for piece in _pieces(text):
        if line.strip() and columns((line + piece).rstrip()) > width and piece[0] not in _CLOSING:
            lines.append(line.rstrip())
            line = piece.lstrip()
        else:
            line += piece
    return [*lines, line.rstrip()] if line.strip() else lines


def _pieces(text: str) -> list[str]:
    """The text cut wherever a line may end: after spaces, and on both sides of a wide character."""
    found: list[str] = []
    piece = ""
    for char in text:
        wide = not char.isascii() and _char_columns(char) == 2
        if piece and (wide or _ends_piece(piece[-1], char)):
            found.append(piece)
            piece = ""
        piece += char
    return [*found, piece] if piece else found


def _ends_piece(last: str, char: str) -> bool:
    return (last.isspace() and not char.isspace()) or (not last.isascii() and _char_columns(last) == 2 and not char.isspace())


def _cell(text: str) -> str:
    return printable(text).replace("\n", " ").replace("\t", " ")

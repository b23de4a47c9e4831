"""A part of ours in a text file of somebody else's, between two lines that mark it."""

from __future__ import annotations

BEGIN, END = "# >>> zhibei", "# <<< zhibei"


def with_part(text: str | None, part: str) -> str | None:
    """The text with our part in place of the one before, else at its end; None if its marks are not a pair."""
    lines = (text or "").splitlines()
    ours = [BEGIN, *part.strip("\n").splitlines(), END]
    begins, ends = lines.count(BEGIN), lines.count(END)
    if (begins, ends) == (1, 1) and lines.index(BEGIN) < lines.index(END):
        lines[lines.index(BEGIN) : lines.index(END) + 1] = ours
    elif begins or ends:
        return None
    else:
        lines += ["", *ours] if lines else ours
    return "\n".join(lines) + "\n"


def without_part(text: str) -> str:
    """The text as it is without our part."""
    lines = text.splitlines()
    if BEGIN in lines and END in lines:
        del lines[lines.index(BEGIN) : lines.index(END) + 1]
    return "\n".join(lines)

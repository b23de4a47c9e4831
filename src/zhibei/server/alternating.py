"""A conversation as turns that strict chat templates take: one text of the system first, then no two of the user in a row.

For the dialects whose clients send neighbours as a matter of course. Pure; knows no wire format.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from zhibei.chat import Message, Part, Role, TextPart


def alternating(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The messages as turns: what begins it for the system is one, later it is said by the user, and the user's become one.

    Many chat templates refuse a system's message in between, and two of the user's one after the other.
    """
    found: list[Message] = []
    for message in messages:
        role: Role = "user" if message.role == "system" and any(each.role != "system" for each in found) else message.role
        before = found[-1] if found else None
        if before is None or before.role != role or role not in ("system", "user"):
            found.append(replace(message, role=role))
        elif role == "system":
            found[-1] = Message.of("system", f"{before.text}\n\n{message.text}")
        else:
            found[-1] = replace(before, parts=_joined(before.parts, message.parts))
    return tuple(found)


def _joined(before: tuple[Part, ...], after: tuple[Part, ...]) -> tuple[Part, ...]:
    """Parts of two messages; a blank line stands between their texts."""
    is_text = bool(before and after) and isinstance(before[-1], TextPart) and isinstance(after[0], TextPart)
    return (*before, TextPart("\n\n"), *after) if is_text else (*before, *after)

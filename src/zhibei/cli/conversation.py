"""A conversation as a value that grows, and as a file. Knows no screen and no service."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from zhibei.chat import ChatRequest, ImagePart, Message, Part, ResponseFormat, TextPart
from zhibei.errors import BadRequest, StoreError
from zhibei.options import Limits, Sampling

FORMAT = "zhibei.conversation"
VERSION = 1
_ROLES = ("user", "assistant")
_NAME = re.compile(r"[\w.-]{1,64}")


@dataclass(slots=True)
class Conversation:
    """Who said what, and how the next answer is to be drawn. ``messages`` alternate and hold no system message."""

    model: str
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    sampling: Sampling = Sampling()
    limits: Limits = Limits()
    response_format: ResponseFormat = ResponseFormat()

    def request(self) -> ChatRequest:
        """What to ask for next."""
        system = (Message.of("system", self.system),) if self.system else ()
        return ChatRequest((*system, *self.messages), self.sampling, self.limits, response_format=self.response_format)

    def drop_last_turn(self) -> Message | None:
        """Take back what the person said last, and all that followed; None if nothing was said."""
        while self.messages:
            message = self.messages.pop()
            if message.role == "user":
                return message
        return None


def path_of(home: Path, name: str) -> Path:
    """Where a conversation of that name is kept; anything that looks like a path is one.

    Raises:
        BadRequest: neither a name nor a path.
    """
    if "/" in name or "\\" in name or name.endswith(".json") or name.startswith("~"):
        return Path(name).expanduser()
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise BadRequest(
            "{name!r} is neither a name nor a path.", hint="Write a name such as trip, or a path such as ./trip.json", name=name
        )
    return folder(home) / f"{name}.json"


def folder(home: Path) -> Path:
    """Where conversations are kept."""
    return home / "state" / "conversations"


def save(conversation: Conversation, path: Path) -> None:
    """Write the conversation, all or nothing, for this user's eyes only.

    Raises:
        StoreError: it cannot be written.
    """
    text = json.dumps(_document(conversation), ensure_ascii=False, indent=2) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            "The conversation cannot be saved to {path}: {error}",
            hint="Choose a place that can be written to.",
            path=path,
            error=error.strerror or error,
        ) from None


def load(path: Path) -> Conversation:
    """Read a saved conversation.

    Raises:
        BadRequest: there is none, or the file is not one.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadRequest("There is no saved conversation {path}.", path=path) from None
    except (OSError, ValueError) as error:
        raise BadRequest("{path} cannot be read: {problem}", path=path, problem=error) from None
    try:
        return _conversation(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRequest("{path} is not a saved conversation: {problem}", path=path, problem=repr(error)) from None


def _document(conversation: Conversation) -> dict[str, Any]:
    settings = {**_set_values(conversation.sampling), **_set_values(conversation.limits)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "saved_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": conversation.model,
        "system": conversation.system,
        "settings": settings,
        "messages": [_message_document(message) for message in conversation.messages],
    }


def _set_values(record: Sampling | Limits) -> dict[str, Any]:
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value not in (None, (), False)
    }


def _message_document(message: Message) -> dict[str, Any]:
    images = [
        {"media_type": part.media_type, "data": base64.b64encode(part.data).decode("ascii")}
        for part in message.parts
        if isinstance(part, ImagePart)
    ]
    document: dict[str, Any] = {"role": message.role, "text": message.text}
    if message.reasoning:
        document["reasoning"] = message.reasoning
    if images:
        document["images"] = images
    return document


def _conversation(document: Any) -> Conversation:
    if document["format"] != FORMAT or document["version"] != VERSION:
        raise ValueError(f"format {document['format']!r}, version {document['version']!r}")
    settings: Mapping[str, Any] = document["settings"]
    system = document["system"]
    if not isinstance(document["model"], str) or not (system is None or isinstance(system, str)):
        raise ValueError("model, system")
    return Conversation(
        model=document["model"],
        system=system,
        messages=[_message(item) for item in document["messages"]],
        sampling=Sampling(**_fitting(Sampling(), settings)),
        limits=Limits(**_fitting(Limits(), settings)),
    )


def _fitting(record: Sampling | Limits, settings: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(record)}
    values = {name: value for name, value in settings.items() if name in known}
    for name, value in values.items():
        if not isinstance(value, (int, float, list)):
            raise ValueError(f"{name}: {value!r}")
    return {name: tuple(map(_frozen, value)) if isinstance(value, list) else value for name, value in values.items()}


def _frozen(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else item


def _message(item: Any) -> Message:
    role, text, reasoning = item["role"], item["text"], item.get("reasoning")
    if role not in _ROLES or not isinstance(text, str) or not (reasoning is None or isinstance(reasoning, str)):
        raise ValueError(f"a message of {role!r}")
    parts: list[Part] = [TextPart(text)] if text else []
    for image in item.get("images", ()):
        parts.append(ImagePart(base64.b64decode(image["data"], validate=True), str(image["media_type"])))
    return Message(role, tuple(parts), reasoning=reasoning)

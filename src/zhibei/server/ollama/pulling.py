"""Pulls as Ollama's clients ask for them and watch them. Pure: names to references, events to status lines."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import orjson

from zhibei.errors import BadReference, BadRequest
from zhibei.events import Inspected, Notice, Progress, Pulled, PullEvent
from zhibei.models import StoredModel
from zhibei.refs import DEFAULT_TAG, SOURCES, ModelName, ModelRef
from zhibei.server.ollama.replies import MEDIA_TYPE

_HUBS = {"hf.co": "hf", "huggingface.co": "hf", "modelscope.cn": "ms", "www.modelscope.cn": "ms", "modelscope.com": "ms"}
_REGISTRIES = ("registry.ollama.ai", "ollama.com", "registry.ollama.com")
_MIN_DIGEST_CHARS = 19
SUCCESS = b'{"status":"success"}'


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a model comes from, and what it is called here, so that the same name runs it; None: as the source has it."""

    ref: ModelRef
    name: str | None


def wanted(text: str, *, is_known: bool) -> Wanted:
    """What a client's name for a model means.

    Args:
        is_known: the store or the catalogue has the name.

    Raises:
        BadReference: it is no name.
        BadRequest: it is on a server of somebody's own.
    """
    cleaned = text.strip()
    for scheme in ("https://", "http://"):
        cleaned = cleaned.removeprefix(scheme)
    host, slash, rest = cleaned.partition("/")
    hub = _HUBS.get(host.lower())
    if hub is not None and slash:
        location = rest.removesuffix(f":{DEFAULT_TAG}")
        return Wanted(ModelRef.parse(f"{hub}:{location}"), _store_name(cleaned))
    if host.lower() in _REGISTRIES and slash:
        cleaned = rest.removeprefix("library/")
    elif cleaned != text.strip():
        return Wanted(ModelRef.parse(text), None)
    if is_known:
        return Wanted(ModelRef.parse(cleaned), None)
    try:
        ref = ModelRef.parse(cleaned)
    except BadReference:
        if cleaned.partition(":")[0].lower() in SOURCES:
            raise
        # Ollama's own names may hold what ours may not.
        return Wanted(ModelRef("ollama", cleaned), None)
    if ref.source is not None:
        return Wanted(ref, None)
    if ref.location.count("/") > 1:
        raise BadRequest(
            "Models are not pulled from {host}.",
            hint="Name a model of Ollama's registry, or hf.co/owner/name, or a source of ours, as in ms:owner/name.",
            param="model",
            host=host[:100],
        )
    return Wanted(ModelRef("ollama", cleaned.removeprefix("library/")), _store_name(cleaned))


def _store_name(text: str) -> str | None:
    """The name under which the same words find the model again; None where they are no name."""
    try:
        return str(ModelName.parse(text))
    except BadReference:
        return None


class StatusLines:
    """The events of a pull as lines; a file's name stands for its digest, which the events do not tell."""

    media_type = MEDIA_TYPE

    def __init__(self) -> None:
        self._is_first = True

    def event(self, event: PullEvent | str) -> bytes:
        """One event, or a status as it stands."""
        lines = [_line(status="pulling manifest")] if self._is_first and not isinstance(event, str) else []
        self._is_first = False
        if isinstance(event, str):
            lines.append(_line(status=event))
        elif isinstance(event, Progress):
            lines.append(_progress(event))
        elif isinstance(event, Inspected):
            pass
        elif isinstance(event, Notice):
            lines.append(_line(status=str(event)))
        else:
            lines += [_line(status=status) for status in ("verifying sha256 digest", "writing manifest", "success")]
        return b"".join(lines)

    def failure(self, error: bytes) -> bytes:
        """An error instead of the rest."""
        return error + b"\n"

    def end(self) -> bytes:
        """Nothing: the last status says that it is done."""
        return b""

    def idle(self) -> bytes:
        """Nothing: every line must be an object."""
        return b""


async def collected(events: AsyncGenerator[PullEvent | str, None]) -> bytes:
    """The answer of a pull that is not streamed."""
    async with aclosing(events):
        async for _ in events:
            pass
    return SUCCESS


def model_of(event: PullEvent | str) -> StoredModel | None:
    """The model, if an event is the last of a pull."""
    return event.model if isinstance(event, Pulled) else None


def _progress(event: Progress) -> bytes:
    # Older clients show characters 7 to 19 of it, and fall over where there are fewer; newer ones cut blanks off.
    values: dict[str, object] = {"status": f"pulling {event.what}", "digest": event.what.ljust(_MIN_DIGEST_CHARS)}
    if event.total is not None:
        values["total"] = event.total
    if event.done:
        values["completed"] = event.done
    return _line(**values)


def _line(**values: object) -> bytes:
    return orjson.dumps(values) + b"\n"

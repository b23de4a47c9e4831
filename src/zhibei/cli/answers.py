"""One answer: what has come of it, and how its events reach a view. Knows no screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from zhibei.chat import ChatRequest, Message, TextPart, ToolCall
from zhibei.cli import documents
from zhibei.cli.streams import closing
from zhibei.events import Finished, Loading, ReasoningDelta, TextDelta, ToolCallDelta
from zhibei.service import RunOptions, Service


class View(Protocol):
    """Shows an answer as it comes. ``end`` is called once, also after an interruption."""

    def loading(self, model: str, fraction: float | None) -> None:
        """The model is being loaded."""
        ...

    def reasoning(self, text: str) -> None:
        """More of what the model thinks."""
        ...

    def text(self, text: str) -> None:
        """More of the answer."""
        ...

    def end(self) -> None:
        """No more will come."""
        ...


@dataclass(slots=True)
class Answer:
    """What has come so far; complete when ``finished`` is set. Times are seconds since it was asked for."""

    model: str
    text_pieces: list[str] = field(default_factory=list)
    reasoning_pieces: list[str] = field(default_factory=list)
    tool_calls: dict[int, ToolCall] = field(default_factory=dict)
    finished: Finished | None = None
    had_to_load: bool = False
    first_token_s: float | None = None
    total_s: float = 0.0

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(self.text_pieces)

    @property
    def reasoning(self) -> str:
        """What the model thought before it."""
        return "".join(self.reasoning_pieces)

    @property
    def load_s(self) -> float | None:
        """Time until the model was loaded; None if it was."""
        if not self.had_to_load or self.first_token_s is None:
            return None
        timings = self.finished.timings if self.finished else None
        return max(0.0, self.first_token_s - (timings.prompt_s if timings else 0.0))

    def message(self) -> Message:
        """The answer as a turn of the conversation."""
        parts = (TextPart(self.text),) if self.text else ()
        return Message("assistant", parts, reasoning=self.reasoning or None, tool_calls=tuple(self.tool_calls.values()))

    def document(self) -> dict[str, Any]:
        """The answer for ``--json``."""
        finished = self.finished
        calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in self.tool_calls.values()]
        return {
            "model": self.model,
            "text": self.text,
            "reasoning": self.reasoning or None,
            "tool_calls": calls,
            "finish_reason": finished.reasons[0] if finished else None,
            "usage": documents.usage(finished.usage) if finished else None,
            "timings": documents.timings(finished.timings) if finished and finished.timings else None,
            "first_token_s": self.first_token_s,
            "load_s": self.load_s,
            "total_s": self.total_s,
        }


async def stream_answer(
    service: Service,
    request: ChatRequest,
    options: RunOptions,
    answer: Answer,
    view: View,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Fill ``answer`` and show it as it comes. Whatever ends it, what has come stays in ``answer``."""
    began_s = clock()
    try:
        async with closing(service.chat(answer.model, request, options)) as events:
            async for event in events:
                if not isinstance(event, (Loading, Finished)) and answer.first_token_s is None:
                    answer.first_token_s = clock() - began_s
                match event:
                    case Loading():
                        answer.had_to_load = True
                        view.loading(event.model, event.fraction)
                    case TextDelta():
                        answer.text_pieces.append(event.text)
                        view.text(event.text)
                    case ReasoningDelta():
                        answer.reasoning_pieces.append(event.text)
                        view.reasoning(event.text)
                    case ToolCallDelta():
                        _add_call(answer.tool_calls, event)
                    case Finished():
                        answer.finished = event
    finally:
        answer.total_s = clock() - began_s
        view.end()


def _add_call(calls: dict[int, ToolCall], piece: ToolCallDelta) -> None:
    known = calls.get(piece.index)
    if known is None:
        calls[piece.index] = ToolCall(piece.id or "", piece.name or "", piece.arguments)
    else:
        calls[piece.index] = ToolCall(known.id, known.name, known.arguments + piece.arguments)

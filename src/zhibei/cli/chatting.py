"""A conversation at a terminal, less the prompt: asking, stopping, what has been set. The prompt is repl.py's business."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zhibei.chat import ImagePart, Message, TextPart
from zhibei.cli.answers import Answer, View, stream_answer
from zhibei.cli.conversation import Conversation
from zhibei.cli.invocation import Invocation
from zhibei.cli.stats import stats_line
from zhibei.errors import ZhibeiError
from zhibei.service import RunOptions, Service


@dataclass(slots=True)
class Chat:
    """What a line at the prompt acts on. ``images`` go with the next thing said."""

    invocation: Invocation
    service: Service
    conversation: Conversation
    options: RunOptions
    make_view: Callable[[], View]
    verbose: bool = False
    images: tuple[ImagePart, ...] = ()
    last: Answer | None = None

    async def say(self, text: str) -> None:
        """Add a turn of the person's, and answer it."""
        message = Message("user", (*self.images, TextPart(text)))
        self.images = ()
        await self.answer(message)

    async def answer(self, message: Message) -> None:
        """Answer a turn. Ctrl-C stops the answer and keeps what has come; a failure before any of it takes the turn back."""
        messages = self.conversation.messages
        messages.append(message)
        answer = Answer(self.conversation.model)
        work = stream_answer(self.service, self.conversation.request(), self.options, answer, self.make_view())
        try:
            stopped = await until_interrupt(work)
        except ZhibeiError as error:
            self.invocation.error(error)
            stopped = False
        self.last = answer
        if answer.text or answer.tool_calls or answer.finished:
            messages.append(answer.message())
        else:
            messages.pop()
        self._tell_end(answer, stopped)

    def _tell_end(self, answer: Answer, stopped: bool) -> None:
        if stopped:
            self.invocation.note("(stopped)")
        elif answer.finished and "length" in answer.finished.reasons:
            self.invocation.note(
                "(cut off: {tokens} tokens, or the context is full)", tokens=answer.finished.usage.num_generated_tokens
            )
        printer = self.invocation.printer
        if self.verbose:
            printer.note(printer.styled(stats_line(self.invocation, answer), "dim", err=True))
        printer.data("")


async def until_interrupt(work: Coroutine[Any, Any, None]) -> bool:
    """Do the work until it is done or Ctrl-C is pressed; returns whether it was stopped."""
    task = asyncio.ensure_future(work)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    with _on_interrupt(stop):
        try:
            await task
        except asyncio.CancelledError:
            if not stopped:
                raise
    return stopped


@contextmanager
def _on_interrupt(act: Callable[[], None]) -> Generator[None, None, None]:
    loop = asyncio.get_running_loop()
    previous = signal.signal(signal.SIGINT, lambda number, frame: loop.call_soon_threadsafe(act))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)

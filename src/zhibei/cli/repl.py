"""The prompt of a conversation: keys, history, completion. Needs prompt_toolkit, so only ``run`` imports this."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import has_completions
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from zhibei.cli import slash
from zhibei.cli.chatting import Chat
from zhibei.errors import ZhibeiError

_QUOTES = '"""'


async def converse(chat: Chat) -> None:
    """Talk until the person leaves."""
    session = _session(chat)
    chat.invocation.note("Talking with {model}. /help for commands, Ctrl-D to leave.", model=chat.conversation.model)
    while True:
        try:
            line = await session.prompt_async()
        except KeyboardInterrupt:
            chat.invocation.note("Ctrl-D or /bye leaves.")
            continue
        except EOFError:
            return
        try:
            await _take(chat, line)
        except slash.Leave:
            return
        except ZhibeiError as error:
            chat.invocation.error(error)


async def _take(chat: Chat, line: str) -> None:
    text = line.strip()
    if text.startswith(_QUOTES):
        text = text.removeprefix(_QUOTES).removesuffix(_QUOTES).strip("\n")
    elif line.startswith("/") and "\n" not in line:
        await slash.run_slash(chat, text)
        return
    if text:
        await chat.say(text)


def _session(chat: Chat) -> PromptSession[str]:
    return PromptSession(
        message=FormattedText([("bold", ">>> ")]),
        multiline=True,
        prompt_continuation=FormattedText([("", "... ")]),
        placeholder=FormattedText([("ansibrightblack", chat.invocation.text("Write a message (/help for commands)"))]),
        history=_history(chat.invocation.settings.home),
        completer=_Names(chat),
        complete_while_typing=True,
        key_bindings=_keys(),
        enable_history_search=False,
        reserve_space_for_menu=4,
    )


def _history(home: Path) -> History:
    """Lines of earlier conversations, readable by this user only; in memory where that cannot be written."""
    path = home / "state" / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=~has_completions, eager=True)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = buffer.text.strip()
        unfinished = text.startswith(_QUOTES) and (len(text) < 2 * len(_QUOTES) or not text.endswith(_QUOTES))
        if unfinished:
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("enter", filter=has_completions, eager=True)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None
        else:
            buffer.cancel_completion()
            buffer.validate_and_handle()

    @keys.add("c-c", eager=True)
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    @keys.add("escape", "enter", eager=True)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class _Names(Completer):
    """Completes the names of commands, parameters and saved conversations, and nothing else."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What may stand at the cursor."""
        line = document.text_before_cursor
        if not line.startswith("/") or "\n" in document.text:
            return
        name, space, rest = line.partition(" ")
        for word, meaning in self._words(name, bool(space)):
            wanted = rest if space else name
            if word.startswith(wanted) and word != wanted:
                yield Completion(word, start_position=-len(wanted), display_meta=meaning)

    def _words(self, name: str, has_name: bool) -> list[tuple[str, str]]:
        text = self._chat.invocation.text
        if not has_name:
            return [(command.name, text(command.help)) for command in dict.fromkeys(slash.COMMANDS.values())]
        if name == "/set":
            return [(word, text(flag.help)) for word, flag in slash.SETTINGS.items()] + [("verbose", "")]
        return [(saved, "") for saved in slash.saved_names(self._chat)] if name == "/load" else []

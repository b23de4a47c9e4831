"""The commands inside a conversation: one table. None of them can lose it; what goes wrong is an error of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from zhibei.cli import conversation as conversations
from zhibei.cli.chatting import Chat, until_interrupt
from zhibei.cli.fetching import ensure_model
from zhibei.cli.flags import LIMIT_FLAGS, SAMPLING_FLAGS, Flag
from zhibei.cli.kinds import Switch
from zhibei.cli.render import definitions, pairs, printable
from zhibei.cli.stats import stats_line
from zhibei.errors import BadRequest
from zhibei.i18n import N_
from zhibei.options import Limits, Sampling

SETTINGS = {flag.word: flag for flag in (*SAMPLING_FLAGS, *LIMIT_FLAGS)}
_UNSET = ("default", "none")


class Leave(Exception):
    """The person wants to leave."""


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """A command: what follows its name, what it does."""

    name: str
    arguments: str
    help: str
    function: Callable[[Chat, str], Awaitable[None]]


async def run_slash(chat: Chat, line: str) -> None:
    """Carry out a line that begins with a slash.

    Raises:
        Leave: the person wants to leave.
        ZhibeiError: it could not be done; nothing has changed.
    """
    name, _, rest = line.partition(" ")
    found = COMMANDS.get(name.lower())
    if found is None:
        raise BadRequest(
            "There is no command {name}.",
            hint="Type /help for the commands. A line may begin with a space.",
            name=printable(name),
        )
    await found.function(chat, rest.strip())


async def _help(chat: Chat, rest: str) -> None:
    text = chat.invocation.text
    unique = dict.fromkeys(COMMANDS.values())
    rows = [(f"{command.name} {text(command.arguments)}".strip(), text(command.help)) for command in unique]
    rows += [(text(N_("Ctrl-C")), text(N_("Stop the answer, or clear the line."))), ("Ctrl-D", text(N_("Leave.")))]
    rows += [("Alt-Enter", text(N_("Begin a new line."))), ('"""', text(N_("Begin a text of several lines; the same ends it.")))]
    for line in definitions(rows, chat.invocation.printer.width):
        chat.invocation.printer.note(line)


async def _set(chat: Chat, rest: str) -> None:
    name, _, text = rest.partition(" ")
    name = name.replace("-", "_").lower()
    if not name:
        _show_settings(chat)
    elif name == "verbose":
        chat.verbose = Switch().read(text.strip() or "on", name)
    elif name not in SETTINGS:
        known = ", ".join([*SETTINGS, "verbose"])
        raise BadRequest("There is no parameter {name}.", hint="Parameters: {known}", name=name, known=known)
    elif not text.strip():
        chat.invocation.printer.note(f"{name} = {_current(chat, SETTINGS[name])}")
    else:
        _change(chat, SETTINGS[name], text.strip())


def _change(chat: Chat, flag: Flag, text: str) -> None:
    talk = chat.conversation
    value: Any
    if text.lower() in _UNSET:
        value = () if flag.is_list else None
    elif flag.is_list:
        value = (*getattr(talk.limits, flag.word), flag.kind.read(_unquoted(text), flag.word))
    else:
        value = flag.kind.read(text, flag.word)
    if flag.field.startswith("sampling."):
        talk.sampling = replace(talk.sampling, **{flag.word: value})
    else:
        talk.limits = replace(talk.limits, **{flag.word: value})
    chat.invocation.printer.note(f"{flag.word} = {_current(chat, flag)}")


def _show_settings(chat: Chat) -> None:
    rows = [(name, _current(chat, flag)) for name, flag in SETTINGS.items()]
    for line in pairs([*rows, ("verbose", "on" if chat.verbose else "off")]):
        chat.invocation.printer.note(line)


def _current(chat: Chat, flag: Flag) -> str:
    record: Sampling | Limits = chat.conversation.sampling if flag.field.startswith("sampling.") else chat.conversation.limits
    value = getattr(record, flag.word)
    if value in (None, ()):
        return chat.invocation.text("(default)")
    return ", ".join(map(repr, value)) if isinstance(value, tuple) else str(value)


def _unquoted(text: str) -> str:
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "'\""
    return (text[1:-1] if quoted else text).replace("\\n", "\n").replace("\\t", "\t")


async def _system(chat: Chat, rest: str) -> None:
    if rest:
        chat.conversation.system = None if rest.lower() in _UNSET else _unquoted(rest)
    shown = chat.conversation.system
    chat.invocation.printer.note(chat.invocation.text("(no system message)") if shown is None else printable(shown))


async def _clear(chat: Chat, rest: str) -> None:
    chat.conversation.messages.clear()
    chat.invocation.note("The conversation begins anew.")


async def _save(chat: Chat, rest: str) -> None:
    if not rest:
        raise BadRequest("Save under which name?", hint="Write /save NAME, or a path.")
    path = conversations.path_of(chat.invocation.settings.home, rest)
    conversations.save(chat.conversation, path)
    chat.invocation.note("Saved to {path}.", path=path)


async def _load(chat: Chat, rest: str) -> None:
    home = chat.invocation.settings.home
    if not rest:
        known = ", ".join(saved_names(chat)) or "-"
        raise BadRequest("Load which conversation?", hint="Saved: {known}", known=known)
    loaded = conversations.load(conversations.path_of(home, rest))
    talk = chat.conversation
    for field in fields(talk):
        if field.name not in ("model", "response_format"):
            setattr(talk, field.name, getattr(loaded, field.name))
    chat.invocation.note("Loaded {path}: {count} messages.", path=rest, count=len(talk.messages))
    if loaded.model != talk.model:
        chat.invocation.note("It was with {model}; to go on with that: /model {model}", model=loaded.model)


async def _stats(chat: Chat, rest: str) -> None:
    chat.invocation.note("{model}, {count} messages", model=chat.conversation.model, count=len(chat.conversation.messages))
    if chat.last is not None:
        chat.invocation.printer.note(stats_line(chat.invocation, chat.last))


async def _model(chat: Chat, rest: str) -> None:
    async def switch() -> None:
        chat.conversation.model = await ensure_model(chat.invocation, chat.service, rest)

    if rest and await until_interrupt(switch()):
        chat.invocation.note("(stopped)")
    chat.invocation.printer.note(chat.conversation.model)


async def _retry(chat: Chat, rest: str) -> None:
    message = chat.conversation.drop_last_turn()
    if message is None:
        raise BadRequest("There is nothing to answer again.")
    await chat.answer(message)


async def _undo(chat: Chat, rest: str) -> None:
    message = chat.conversation.drop_last_turn()
    if message is None:
        raise BadRequest("There is nothing to take back.")
    chat.invocation.note("Taken back: {text}", text=printable(message.text)[:60])


async def _bye(chat: Chat, rest: str) -> None:
    raise Leave


def saved_names(chat: Chat) -> list[str]:
    """Names of the conversations kept at home."""
    return sorted(path.stem for path in conversations.folder(chat.invocation.settings.home).glob("*.json"))


_TABLE = (
    SlashCommand("/help", "", N_("Show this list."), _help),
    SlashCommand(
        "/set", N_("[PARAMETER [VALUE]]"), N_("Show or change how answers are drawn; the value default takes it back."), _set
    ),
    SlashCommand("/system", N_("[TEXT]"), N_("Show or change the system message; none takes it away."), _system),
    SlashCommand("/model", N_("[NAME]"), N_("Show or change the model."), _model),
    SlashCommand("/retry", "", N_("Answer the last message again."), _retry),
    SlashCommand("/undo", "", N_("Take back the last message and its answer."), _undo),
    SlashCommand("/clear", "", N_("Forget the conversation."), _clear),
    SlashCommand("/save", N_("NAME|PATH"), N_("Save the conversation."), _save),
    SlashCommand("/load", N_("NAME|PATH"), N_("Go on with a saved conversation."), _load),
    SlashCommand("/stats", "", N_("Show figures of the last answer."), _stats),
    SlashCommand("/bye", "", N_("Leave."), _bye),
)
_OTHER_NAMES = {"/?": "/help", "/regenerate": "/retry", "/exit": "/bye", "/quit": "/bye"}
COMMANDS = {command.name: command for command in _TABLE}
COMMANDS |= {other: COMMANDS[name] for other, name in _OTHER_NAMES.items()}

"""``zhibei run``: one answer, or a conversation."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from zhibei.chat import ImagePart, Message, ResponseFormat, TextPart
from zhibei.cli import flags
from zhibei.cli.answers import Answer, stream_answer
from zhibei.cli.chatting import Chat
from zhibei.cli.completing import complete_model
from zhibei.cli.connect import connect
from zhibei.cli.conversation import Conversation
from zhibei.cli.fetching import ensure_model
from zhibei.cli.files import read_image, read_text
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import OneOf, Words
from zhibei.cli.stats import stats_line
from zhibei.cli.views import SilentView, choose_view
from zhibei.cli.wording import command, option
from zhibei.errors import BadRequest
from zhibei.i18n import N_
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.service import RunOptions, Service

_HELP = N_(
    "Ask a model, or talk with it.\n"
    "With a PROMPT, or with text on standard input, the answer is printed; without, at a terminal, a conversation begins. "
    "A model that is not on this machine is fetched first."
)


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What the options ask for."""

    conversation: Conversation
    options: RunOptions
    images: tuple[ImagePart, ...]
    verbose: bool
    plain: bool
    as_json: bool


@command("run", _HELP)
@click.argument("model", required=False, shell_complete=complete_model)
@click.argument("prompt", required=False)
@option("--system", kind=Words(), help=N_("System message: who the model is to be."))
@option("--image", "images", kind=Words("PATH"), multiple=True, help=N_("Show the model an image; may be given several times."))
@option("--response-format", kind=OneOf(("text", "json")), help=N_("json makes the answer valid JSON."))
@option("--json-schema", kind=Words("FILE"), help=N_("Make the answer JSON that follows the schema in a file."))
@option("--engine", kind=Words("NAME"), help=N_("Engine to use: auto, llama.cpp or echo."))
@option("--verbose", "-v", help=N_("Show figures after each answer."))
@option("--plain", help=N_("Do not render Markdown."))
@option("--json", "as_json", help=N_("Print the answer as one JSON object."))
@flags.options([flags.KEEP_ALIVE])
@flags.options(flags.SAMPLING_FLAGS + flags.LIMIT_FLAGS, N_("Answers"))
@flags.options(flags.LOAD_FLAGS, N_("Loading"))
@click.pass_obj
def COMMAND(invocation: Invocation, /, model: str | None, prompt: str | None, engine: str | None, **params: Any) -> None:
    """Answer once, or converse."""
    settings = invocation.all_settings({"engine": engine} if engine else None)
    invocation = replace(invocation, resolved=settings)
    wishes = _wishes(model or settings.settings.model, params)
    piped = None if sys.stdin is None or sys.stdin.isatty() else _read_stdin()
    asked = "\n\n".join(part for part in (prompt, piped) if part and part.strip())
    if not asked and (piped is not None or wishes.as_json or not invocation.printer.out_is_terminal):
        raise BadRequest(
            "There is no prompt.", hint='Write it after the model: zhibei run {model} "…"', model=wishes.conversation.model
        )
    connection = connect(invocation)
    if connection.server is not None and engine:
        invocation.warn("A server is running; it chooses the engine, and --engine has no effect.")
    asyncio.run(_with_service(invocation, connection.service(), wishes, asked))


async def _with_service(invocation: Invocation, service: Service, wishes: _Wishes, asked: str) -> None:
    try:
        conversation = wishes.conversation
        conversation.model = await ensure_model(invocation, service, conversation.model)
        if asked:
            await _answer_once(invocation, service, wishes, asked)
        else:
            await _converse(invocation, service, wishes)
    finally:
        await service.close()


async def _answer_once(invocation: Invocation, service: Service, wishes: _Wishes, asked: str) -> None:
    conversation, printer = wishes.conversation, invocation.printer
    conversation.messages.append(Message("user", (*wishes.images, TextPart(asked))))
    answer = Answer(conversation.model)
    view = SilentView(invocation) if wishes.as_json else choose_view(invocation, plain=wishes.plain)
    await stream_answer(service, conversation.request(), wishes.options, answer, view)
    if wishes.as_json:
        printer.json(answer.document())
    elif answer.finished and "length" in answer.finished.reasons:
        invocation.note("(cut off: {tokens} tokens, or the context is full)", tokens=answer.finished.usage.num_generated_tokens)
    if wishes.verbose:
        printer.note(printer.styled(stats_line(invocation, answer), "dim", err=True))


async def _converse(invocation: Invocation, service: Service, wishes: _Wishes) -> None:
    from zhibei.cli.repl import converse

    chat = Chat(
        invocation,
        service,
        wishes.conversation,
        wishes.options,
        make_view=lambda: choose_view(invocation, plain=wishes.plain),
        verbose=wishes.verbose,
        images=wishes.images,
    )
    await converse(chat)


def _wishes(model: str, params: dict[str, Any]) -> _Wishes:
    values = flags.given(params, flags.MODEL_FLAGS)
    load = flags.filled(LoadOptions(), values)
    if load.chat_template is not None:
        load = replace(load, chat_template=read_text(load.chat_template))
    conversation = Conversation(
        model,
        system=params["system"],
        sampling=flags.filled(Sampling(), values),
        limits=flags.filled(Limits(), values),
        response_format=_response_format(params["response_format"], params["json_schema"]),
    )
    return _Wishes(
        conversation,
        RunOptions(_absolute(load), params[flags.KEEP_ALIVE.param]),
        tuple(map(read_image, params["images"])),
        verbose=params["verbose"],
        plain=params["plain"],
        as_json=params["as_json"],
    )


def _absolute(load: LoadOptions) -> LoadOptions:
    """A server has a directory of its own, so files are named in full."""

    def full(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    lora = tuple((str(Path(path).expanduser().absolute()), scale) for path, scale in load.lora)
    return replace(load, lora=lora, mmproj=full(load.mmproj), draft_model=full(load.draft_model))


def _response_format(kind: str | None, schema_file: str | None) -> ResponseFormat:
    if schema_file is None:
        return ResponseFormat("json_object") if kind == "json" else ResponseFormat()
    try:
        schema = json.loads(read_text(schema_file))
    except ValueError as error:
        raise BadRequest("{path} is not JSON: {problem}", path=schema_file, problem=error) from None
    if not isinstance(schema, dict):
        raise BadRequest("{path} is not a JSON schema: it must be an object.", path=schema_file)
    return ResponseFormat("json_schema", schema)


def _read_stdin() -> str:
    return sys.stdin.buffer.read().decode("utf-8-sig", errors="replace").strip("\n")

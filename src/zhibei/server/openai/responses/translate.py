"""Requests to ``/v1/responses`` as ours. Pure: items in, messages out; BadRequest where they make no sense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from zhibei import chat
from zhibei.chat import ChatRequest, ImagePart, Message, ResponseFormat, TextPart, ToolCall, ToolChoice
from zhibei.errors import BadRequest, Unsupported
from zhibei.options import Limits
from zhibei.server.alternating import alternating
from zhibei.server.body import MAX_SHOWN_NAMES, ignored_fields
from zhibei.server.images import find_image, is_remote
from zhibei.server.openai import translate
from zhibei.server.openai.responses.schema import CLIENTS_OWN_TOOLS, Item, NamedTool, Part, ResponseBody, Tool
from zhibei.server.sealing import unsealed
from zhibei.text.json_schema import check_schema

MAX_PAIRS = 16
MAX_KEY_CHARS = 64
MAX_VALUE_CHARS = 512
_TEXTS = frozenset(("input_text", "output_text", "text", "summary_text", "reasoning_text"))
_PREFIXES = {"message": "msg_", "function_call": "fc_", "function_call_output": "fco_", "reasoning": "rs_"}


def input_items(body: ResponseBody, *, new_id: Callable[[str], str], find: Callable[[str], Item | None]) -> tuple[Item, ...]:
    """The items of a request, each complete and with an id; references are replaced by what ``find`` says they mean.

    Raises:
        BadRequest: an item lacks what its kind needs, or refers to nothing.
        Unsupported: an item of a kind that is not known here.
    """
    if isinstance(body.input, str):
        return (_whole(Item.model_validate({"role": "user", "content": body.input}), "input", new_id),)
    return tuple(_item(item, f"input[{index}]", new_id, find) for index, item in enumerate(body.input or ()))


def image_urls(items: Iterable[Item]) -> Iterator[str]:
    """Addresses of the images that are not in the items themselves."""
    for item in items:
        for content in (item.content, item.output):
            for part in content if isinstance(content, list) else ():
                if part.image_url is not None and is_remote(part.image_url):
                    yield part.image_url


def chat_request(body: ResponseBody, items: Sequence[Item], images: Mapping[str, ImagePart]) -> ChatRequest:
    """The conversation and how it is to be continued.

    Args:
        items: all of it, what earlier responses had included.
        images: what is at the addresses of ``image_urls``.

    Raises:
        BadRequest: a value makes no sense.
        Unsupported: it does, but cannot be done here.
    """
    _refuse_impossible(body)
    messages = _messages(items, images)
    if body.instructions is not None:
        messages = (Message.of("system", body.instructions), *messages)
    messages = alternating(messages)
    if not messages:
        raise BadRequest("The parameter {name} is missing.", param="input", name="input")
    given = enumerate(body.tools or ())
    tools = tuple(_tool(tool, f"tools[{index}]") for index, tool in given if tool.type not in CLIENTS_OWN_TOOLS)
    tools, choice = _tool_choice(body.tool_choice, tools)
    return ChatRequest(
        messages=messages,
        sampling=translate.sampling(body),
        limits=Limits(body.max_output_tokens, (), body.ignore_eos or False),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_format(body),
        top_logprobs=_top_logprobs(body),
        reasoning_effort=body.reasoning.effort if body.reasoning is not None else None,
    )


def ignored(body: ResponseBody) -> tuple[str, ...]:
    """Names of the fields that change nothing here although a client may think so."""
    names = list(translate.asked(body).ignored)
    if body.text is not None and body.text.verbosity not in (None, "medium"):
        names.append("text.verbosity")
    if body.reasoning is not None:
        wanted = ("summary", "generate_summary", "context", "mode")
        names += [f"reasoning.{name}" for name in wanted if getattr(body.reasoning, name) is not None]
    if body.personality is not None:
        names.append("personality")
    found = {name for item in body.input if not isinstance(item, str) for name in ignored_fields(item)} if body.input else set()
    names += [f"input.{name}" for name in sorted(found)]
    names += [f"tools.{tool.type}" for tool in body.tools or () if tool.type in CLIENTS_OWN_TOOLS]
    return tuple(dict.fromkeys(names))[:MAX_SHOWN_NAMES]


def _refuse_impossible(body: ResponseBody) -> None:
    translate.refuse_common(body, own=False, keeps=True)
    if body.background:
        raise Unsupported(
            "Responses are not made in the background here.", hint="Leave out background, and use stream.", param="background"
        )
    refuse = translate.refuse
    refuse(body.conversation, "conversation", "There are no conversation objects here.", hint="Use previous_response_id.")
    refuse(body.prompt, "prompt", "There are no stored prompts here.", hint="Use instructions and input.")
    refuse(body.context_management, "context_management", "Contexts are not compacted here.", hint="Use truncation.")
    refuse(body.moderation, "moderation", "Nothing is moderated here.")
    pairs = body.metadata or {}
    too_long = any(len(key) > MAX_KEY_CHARS or len(value) > MAX_VALUE_CHARS for key, value in pairs.items())
    if len(pairs) > MAX_PAIRS or too_long:
        raise BadRequest(
            "metadata takes up to {most} pairs, keys of {key_chars} and values of {value_chars} characters.",
            param="metadata",
            most=MAX_PAIRS,
            key_chars=MAX_KEY_CHARS,
            value_chars=MAX_VALUE_CHARS,
        )


def _item(item: Item, param: str, new_id: Callable[[str], str], find: Callable[[str], Item | None]) -> Item:
    if item.type == "item_reference" or (item.type is None and item.role is None and item.id is not None):
        found = find(item.id) if item.id is not None else None
        if found is None:
            raise BadRequest(
                "There is no item {id!r} here.",
                hint="Items are kept for a while, and only of responses with store; send the item itself.",
                param=f"{param}.id",
                id=(item.id or "")[:100],
            )
        return found
    return _whole(item, param, new_id)


def _whole(item: Item, param: str, new_id: Callable[[str], str]) -> Item:
    """The item with its type, an id, a status, and parts instead of bare text."""
    kind = item.type or "message"
    needed = {
        "message": ("role", "content"),
        "function_call": ("name", "arguments", "call_id"),
        "function_call_output": ("call_id", "output"),
        "reasoning": (),
    }.get(kind)
    if needed is None:
        raise Unsupported("Items of the type {type!r} are not supported.", param=f"{param}.type", type=kind)
    for name in needed:
        if getattr(item, name) is None:
            raise BadRequest("The parameter {name} is missing.", param=f"{param}.{name}", name=f"{param}.{name}")
    given: dict[str, object] = {"type": kind, "id": item.id or new_id(_PREFIXES[kind]), "status": item.status or "completed"}
    if kind == "message" and isinstance(item.content, str):
        text = "output_text" if item.role == "assistant" else "input_text"
        given["content"] = [Part.model_validate({"type": text, "text": item.content})]
    if kind == "reasoning" and item.summary is None:
        given["summary"] = []
    return item.model_copy(update=given)


@dataclass(slots=True)
class _Turn:
    """What the assistant did between two messages of others."""

    reasoning: str | None = None
    parts: list[chat.Part] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    def messages(self) -> tuple[Message, ...]:
        """The turn as a message; none where it holds no more than thoughts."""
        if not self.parts and not self.calls:
            return ()
        return (Message("assistant", tuple(self.parts), reasoning=self.reasoning, tool_calls=tuple(self.calls)),)


def _messages(items: Sequence[Item], images: Mapping[str, ImagePart]) -> tuple[Message, ...]:
    found: list[Message] = []
    turn = _Turn()
    for index, item in enumerate(items):
        param = f"input[{index}]"
        is_told = item.type == "function_call_output" or (item.type == "message" and item.role != "assistant")
        # Reasoning begins a turn; so does text after calls.
        begins = bool(turn.calls) if item.type == "message" else item.type == "reasoning" and bool(turn.parts or turn.calls)
        if is_told or begins:
            found += turn.messages()
            turn = _Turn()
        if is_told:
            found.append(_told(item, param, images))
        else:
            _add(turn, item, param, images)
    return (*found, *turn.messages())


def _told(item: Item, param: str, images: Mapping[str, ImagePart]) -> Message:
    """A message of the user or the system, or what a tool gave back."""
    if item.type == "function_call_output":
        return Message("tool", _parts(item.output, f"{param}.output", images), tool_call_id=item.call_id)
    parts = _parts(item.content, f"{param}.content", images)
    if item.role != "user" and any(isinstance(part, ImagePart) for part in parts):
        raise BadRequest("Images can only be in messages of the user.", param=f"{param}.content")
    return Message("user" if item.role == "user" else "system", parts)


def _add(turn: _Turn, item: Item, param: str, images: Mapping[str, ImagePart]) -> None:
    if item.type == "function_call":
        turn.calls.append(ToolCall(item.call_id or "", item.name or "", item.arguments or ""))
    elif item.type == "reasoning":
        text = _reasoning(item)
        if text:
            turn.reasoning = text if turn.reasoning is None else turn.reasoning + "\n" + text
    else:
        parts = _parts(item.content, f"{param}.content", images)
        if any(isinstance(part, ImagePart) for part in parts):
            raise BadRequest("Images can only be in messages of the user.", param=f"{param}.content")
        turn.parts += parts


def _reasoning(item: Item) -> str:
    """What was thought: in full, as it was sealed, or its summary."""
    if isinstance(item.content, list) and item.content:
        return "".join(part.text or "" for part in item.content)
    if item.encrypted_content is not None and (text := unsealed(item.encrypted_content)) is not None:
        return text
    return "\n".join(part.text or "" for part in item.summary or ())


def _parts(content: str | list[Part] | None, param: str, images: Mapping[str, ImagePart]) -> tuple[chat.Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(_part(part, f"{param}[{index}]", images) for index, part in enumerate(content or ()))


def _part(part: Part, param: str, images: Mapping[str, ImagePart]) -> chat.Part:
    if part.type in _TEXTS and part.text is not None:
        return TextPart(part.text)
    if part.type == "refusal" and part.refusal is not None:
        return TextPart(part.refusal)
    if part.type == "input_image" and part.image_url is not None:
        return find_image(part.image_url, images, param=f"{param}.image_url")
    if part.type == "input_image":
        raise Unsupported("There are no uploaded files here.", hint="Send image_url with a data URL.", param=f"{param}.file_id")
    if part.type in _TEXTS or part.type == "refusal":
        raise BadRequest("The parameter {param} is missing.", param=f"{param}.{'text' if part.type in _TEXTS else 'refusal'}")
    raise Unsupported("Content of the type {type!r} is not supported.", param=f"{param}.type", type=part.type)


def _tool(tool: Tool, param: str) -> chat.Tool:
    if tool.type != "function":
        raise Unsupported(
            "There is no built-in tool {type!r} here; only functions are known.",
            hint="Leave it out, or switch it off in the client's settings.",
            param=f"{param}.type",
            type=tool.type,
        )
    if tool.name is None:
        raise BadRequest("The parameter {name} is missing.", param=f"{param}.name", name=f"{param}.name")
    if tool.parameters is not None:
        check_schema(tool.parameters, param=f"{param}.parameters", use="tool")
    return chat.Tool(tool.name, tool.description, tool.parameters)


def _tool_choice(wanted: str | NamedTool | None, tools: tuple[chat.Tool, ...]) -> tuple[tuple[chat.Tool, ...], ToolChoice]:
    if not isinstance(wanted, NamedTool):
        return tools, translate.tool_choice(wanted, tools)
    known = {tool.name for tool in tools}
    if wanted.type == "function" and wanted.name in known:
        return tools, ToolChoice("required", wanted.name)
    if wanted.type == "allowed_tools":
        allowed = {str(each.get("name")) for each in wanted.tools or () if each.get("type") == "function"}
        if not allowed or not allowed <= known or len(allowed) != len(wanted.tools or ()):
            raise BadRequest("tool_choice names a function that is not among the tools.", param="tool_choice.tools")
        return tuple(tool for tool in tools if tool.name in allowed), ToolChoice(wanted.mode or "auto")
    if wanted.type == "function":
        raise BadRequest("tool_choice names a function that is not among the tools.", param="tool_choice")
    raise Unsupported("tool_choice takes auto, none, required, a function or allowed_tools.", param="tool_choice")


def _format(body: ResponseBody) -> ResponseFormat:
    wanted = body.text.format if body.text is not None else None
    if wanted is None or wanted.type == "text":
        return ResponseFormat()
    if wanted.type == "json_object":
        return ResponseFormat("json_object")
    if wanted.schema_ is None or wanted.name is None:
        missing = "schema" if wanted.schema_ is None else "name"
        raise BadRequest("A text.format of json_schema needs a name and a schema.", param=f"text.format.{missing}")
    return translate.schema_format(wanted.schema_, "text.format.schema", "chat")


def _top_logprobs(body: ResponseBody) -> int | None:
    wanted = "message.output_text.logprobs" in (body.include or ())
    return body.top_logprobs or 0 if wanted or body.top_logprobs else None

"""Anthropic's requests to ours. Pure: a checked body in, values of ``zhibei.chat`` out; BadRequest where they make no sense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import orjson

from zhibei.chat import ChatRequest, ImagePart, Message, Part, ResponseFormat, Role, TextPart, Tool, ToolCall, ToolChoice
from zhibei.errors import BadRequest, Unsupported
from zhibei.options import Limits, Sampling
from zhibei.server.alternating import alternating
from zhibei.server.anthropic import schema
from zhibei.server.body import MAX_SHOWN_NAMES, ignored_fields
from zhibei.server.images import MAX_IMAGES, check_image, decode_base64, find_image, is_remote
from zhibei.server.loading import keep_alive, load_options
from zhibei.server.sealing import unsealed
from zhibei.service import RunOptions
from zhibei.text.json_schema import check_schema

Images = Mapping[str, ImagePart]
# What the vendor's cloud does around a model, and nothing here does; that it is not done changes no answer.
_PASSED_OVER = ("context_management", "speed", "inference_geo", "diagnostics")


def run_options(body: schema.CountBody) -> RunOptions:
    """How the model is to be loaded and kept."""
    load = load_options(body.load)
    if body.num_ctx is not None and load.ctx_size is None:
        load = replace(load, ctx_size=body.num_ctx)
    return RunOptions(load, keep_alive(body.keep_alive))


def image_urls(body: schema.CountBody) -> Iterator[str]:
    """Addresses of the images that are not in the request itself."""
    for message in body.messages:
        for block in _all_blocks(message.content):
            if block.source is not None and block.source.url is not None and block.type == "image":
                yield block.source.url


def ignored(body: schema.CountBody, beta: str | None = None) -> tuple[str, ...]:
    """Names of what was asked for and changes nothing here; ``beta`` is the header of that name."""
    names = list(ignored_fields(body))
    names += [name for name in _PASSED_OVER if getattr(body, name, None) not in (None, "standard")]
    found = {name for message in body.messages for block in _all_blocks(message.content) for name in ignored_fields(block)}
    names += [f"messages.{name}" for name in sorted(found)]
    if beta:
        safe = "".join(char for char in beta[:200] if char.isascii() and (char.isalnum() or char in "-_., ")).replace(",", " ")
        names.append("anthropic-beta:" + " ".join(safe.split()))
    return tuple(dict.fromkeys(names))[:MAX_SHOWN_NAMES]


def messages_request(body: schema.MessagesBody, images: Images) -> ChatRequest:
    """The conversation and how it is to be continued.

    Raises:
        BadRequest: a value makes no sense.
        Unsupported: it does, but cannot be done here.
    """
    if body.container is not None:
        raise Unsupported("There are no containers here.", param="container")
    budget = body.thinking.budget_tokens if body.thinking is not None else None
    if budget is not None and budget >= body.max_tokens:
        raise BadRequest("thinking.budget_tokens must be less than max_tokens.", param="thinking.budget_tokens")
    return replace(
        counted_request(body, images),
        sampling=Sampling(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k),
        limits=Limits(body.max_tokens, _stops(body)),
    )


def counted_request(body: schema.CountBody, images: Images) -> ChatRequest:
    """The conversation alone, to be counted.

    Raises:
        BadRequest: a value makes no sense.
        Unsupported: it does, but cannot be done here.
    """
    if body.mcp_servers:
        raise Unsupported("Tools of MCP servers are not called from here.", hint="Call them in the client.", param="mcp_servers")
    tools = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ()))
    messages: list[Message] = _system(body.system, "system")
    for index, message in enumerate(body.messages):
        messages += _messages(message, f"messages[{index}]", images)
    choice = body.tool_choice
    return ChatRequest(
        messages=alternating(messages),
        tools=tools,
        tool_choice=_tool_choice(choice, tools),
        parallel_tool_calls=False if choice is not None and choice.disable_parallel_tool_use else None,
        response_format=_format(body),
        reasoning_effort=_effort(body),
    )


def shows_thinking(body: schema.CountBody) -> bool:
    """Whether thoughts are part of the answer."""
    return body.thinking is not None and body.thinking.type != "disabled"


def _stops(body: schema.MessagesBody) -> tuple[str, ...]:
    stops = tuple(body.stop_sequences or ())
    if any(not stop.strip() for stop in stops):
        raise BadRequest("Each stop sequence must hold more than blanks.", param="stop_sequences")
    return stops


def _effort(body: schema.CountBody) -> str | None:
    """Who does not ask for thinking expects none, and reads the first block as the answer."""
    thinking, wanted = body.thinking, body.output_config.effort if body.output_config is not None else None
    if thinking is None or thinking.type == "disabled":
        return "none" if thinking is not None else wanted or "none"
    if thinking.type == "enabled" and thinking.budget_tokens is None:
        raise BadRequest("The parameter {name} is missing.", param="thinking.budget_tokens", name="thinking.budget_tokens")
    return wanted or "medium"


def _format(body: schema.CountBody) -> ResponseFormat:
    wanted = body.output_config.format if body.output_config is not None else None
    if wanted is None:
        return ResponseFormat()
    check_schema(wanted.schema_, param="output_config.format.schema", use="chat")
    return ResponseFormat("json_schema", wanted.schema_)


def _tool(body: schema.ToolBody, param: str) -> Tool:
    if body.type not in (None, "custom"):
        raise Unsupported(
            "There is no built-in tool {type!r} here; only tools with an input_schema of their own are known.",
            hint="Leave it out, or switch it off in the client's settings.",
            param=f"{param}.type",
            type=body.type,
        )
    if body.input_schema is None:
        raise BadRequest("The parameter {name} is missing.", param=f"{param}.input_schema", name=f"{param}.input_schema")
    check_schema(body.input_schema, param=f"{param}.input_schema", use="tool")
    return Tool(body.name, body.description, body.input_schema)


def _tool_choice(body: schema.ToolChoiceBody | None, tools: tuple[Tool, ...]) -> ToolChoice:
    if body is None or body.type == "auto":
        return ToolChoice()
    if body.type == "none":
        return ToolChoice("none")
    if body.type == "any":
        if not tools:
            raise BadRequest("tool_choice any needs tools.", param="tool_choice")
        return ToolChoice("required")
    if body.name not in {tool.name for tool in tools}:
        raise BadRequest("tool_choice names a tool that is not among the tools.", param="tool_choice.name")
    return ToolChoice("required", body.name)


def _system(content: str | list[schema.Block] | None, param: str) -> list[Message]:
    if not content:
        return []
    if isinstance(content, str):
        return [Message.of("system", content)]
    texts = [TextPart(_text(block, f"{param}[{index}]")) for index, block in enumerate(content)]
    # Blocks are paragraphs; a template would run them together.
    return [Message.of("system", "\n\n".join(part.text for part in texts))]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a block stands: for messages to people, and for what may stand there."""

    param: str
    role: Role
    images: Images


def _messages(body: schema.MessageBody, param: str, images: Images) -> list[Message]:
    if body.role == "system":
        return _system(body.content, f"{param}.content")
    if isinstance(body.content, str):
        return [Message.of(body.role, body.content)]
    if sum(block.type == "image" for block in _all_blocks(body.content)) > MAX_IMAGES:
        raise BadRequest("A message can have at most {limit} images.", param=f"{param}.content", limit=MAX_IMAGES)
    place = _Place(f"{param}.content", body.role, images)
    return [_answer(body.content, place)] if body.role == "assistant" else _told(body.content, place)


def _told(blocks: list[schema.Block], place: _Place) -> list[Message]:
    """A user's message: what tools gave back becomes messages of its own, before what is said beside it."""
    results: list[Message] = []
    parts: list[Part] = []
    for index, block in enumerate(blocks):
        param = f"{place.param}[{index}]"
        if block.type == "tool_result":
            results.append(_result(block, param, place.images))
        else:
            parts.append(_part(block, param, place.images))
    return [*results, Message("user", tuple(parts))] if parts or not results else results


def _result(block: schema.Block, param: str, images: Images) -> Message:
    if block.tool_use_id is None:
        raise BadRequest("The parameter {name} is missing.", param=f"{param}.tool_use_id", name=f"{param}.tool_use_id")
    content = block.content if block.content is not None else ""
    parts: tuple[Part, ...]
    if isinstance(content, str):
        parts = (TextPart(content),)
    else:
        parts = tuple(_part(each, f"{param}.content[{index}]", images) for index, each in enumerate(content))
    if block.is_error:
        parts = (TextPart("Error: "), *parts)
    return Message("tool", parts, tool_call_id=block.tool_use_id)


def _answer(blocks: list[schema.Block], place: _Place) -> Message:
    texts: list[Part] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for index, block in enumerate(blocks):
        param = f"{place.param}[{index}]"
        if block.type == "thinking":
            # Thoughts that were not shown come back in their signature.
            thoughts.append(block.thinking or unsealed(block.signature or "") or "")
        elif block.type == "redacted_thinking":
            continue
        elif block.type == "tool_use":
            if block.id is None or block.name is None or block.input is None:
                raise BadRequest("A tool_use block needs id, name and input.", param=param)
            calls.append(ToolCall(block.id, block.name, orjson.dumps(block.input).decode()))
        else:
            texts.append(TextPart(_text(block, param)))
    if not texts and not calls:
        texts.append(TextPart(""))
    reasoning = "".join(thoughts) or None
    return Message("assistant", tuple(texts), reasoning=reasoning, tool_calls=tuple(calls))


def _part(block: schema.Block, param: str, images: Images) -> Part:
    if block.type == "image":
        return _image(block, param, images)
    if block.type == "document" and block.source is not None and block.source.type == "text" and block.source.data is not None:
        return TextPart(f"{block.title}\n\n{block.source.data}" if block.title else block.source.data)
    return TextPart(_text(block, param))


def _text(block: schema.Block, param: str) -> str:
    if block.type == "text":
        if block.text is None:
            raise BadRequest("The parameter {name} is missing.", param=f"{param}.text", name=f"{param}.text")
        return block.text
    if block.type == "document":
        raise Unsupported(
            "Documents cannot be read here, only their text.",
            hint="Send it as a text block, or as a document with a source of the type text.",
            param=f"{param}.type",
        )
    raise Unsupported("Blocks of the type {type!r} are not supported here.", param=f"{param}.type", type=block.type)


def _image(block: schema.Block, param: str, images: Images) -> ImagePart:
    source = block.source
    if source is not None and source.type == "base64" and source.data is not None:
        return check_image(decode_base64(source.data, param=f"{param}.source.data"), source.media_type, param=f"{param}.source")
    if source is not None and source.type == "url" and source.url is not None:
        if not is_remote(source.url):
            raise BadRequest("The address of the image makes no sense.", param=f"{param}.source.url")
        return find_image(source.url, images, param=f"{param}.source.url")
    if source is not None and source.type == "file":
        raise Unsupported("There are no uploaded files here.", hint="Send the image in base64.", param=f"{param}.source")
    raise BadRequest("The source of an image must be base64 with data, or url with a url.", param=f"{param}.source")


def _all_blocks(content: str | list[schema.Block] | None) -> Iterator[schema.Block]:
    """Blocks and what is in them."""
    for block in content if isinstance(content, list) else ():
        yield block
        yield from _all_blocks(block.content)

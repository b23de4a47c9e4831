"""A request as another server understands it: what it knows under its own names, without what it does not. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from zhibei.chat import ChatRequest, CompletionRequest
from zhibei.engines.upstream.kinds import Kind
from zhibei.errors import Unsupported
from zhibei.options import Sampling

Generation = TypeVar("Generation", ChatRequest, CompletionRequest)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What is sent beside the request: ``extra`` fields. ``unsent``: our names of what the server does not know."""

    extra: dict[str, Any]
    unsent: tuple[str, ...]


def fitted(request: Generation, kind: Kind) -> tuple[Generation, Fitted]:
    """The request without what has another name there or none, and what is sent instead."""
    extra: dict[str, Any] = {}
    unsent: list[str] = []
    kept: dict[str, Any] = {}
    for field in fields(Sampling):
        value = getattr(request.sampling, field.name)
        if value in (None, ()):
            continue
        theirs = kind.fields.get(field.name)
        if theirs == field.name:
            kept[field.name] = value
        elif theirs is not None:
            extra[theirs] = value
        else:
            unsent.append(field.name)
    limits = request.limits
    if limits.ignore_eos and kind.fields.get("ignore_eos") != "ignore_eos":
        limits = replace(limits, ignore_eos=False)
        if "ignore_eos" in kind.fields:
            extra[kind.fields["ignore_eos"]] = True
        else:
            unsent.append("ignore_eos")
    if kind.is_llama and limits.stop:
        # Only so does it tell which stop text ended an answer.
        extra["verbose"] = True
    return replace(request, sampling=Sampling(**kept), limits=limits), Fitted(extra, tuple(unsent))


def check(request: ChatRequest | CompletionRequest, kind: Kind) -> None:
    """Raise Unsupported if this kind of server would pass over in silence what the request asks for."""
    if request.num_choices > 1 and not kind.many_choices:
        _refuse("n", "{title} gives one answer to a request.", kind)
    if isinstance(request, ChatRequest):
        if request.tool_choice.mode == "required" and not kind.chooses_tools:
            _refuse("tool_choice", "{title} cannot be made to call a tool.", kind)
        return
    if request.top_logprobs is not None and not kind.is_llama:
        _refuse("logprobs", "{title} gives no log-probabilities with completions.", kind)
    if request.response_format.kind != "text" and not kind.is_llama:
        _refuse("response_format", "{title} cannot hold a completion to a format.", kind)


def _refuse(param: str, message: str, kind: Kind) -> None:
    raise Unsupported(message, param=param, title=kind.title)

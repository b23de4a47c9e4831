"""What a request gets where it is silent: first what the person's settings say, then what the model's packer wants.

The merging is pure. ``with_defaults`` puts it around an engine, so that everything that holds a lease gets the same.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

from zhibei.chat import (
    ChatRequest,
    CompletionRequest,
    Message,
    Role,
)
from zhibei.engines.base import Engine
from zhibei.events import GenerationEvent
from zhibei.models import ModelDefaults
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.runtime.wrapping import EngineAround


def load_options(asked: LoadOptions, defaults: ModelDefaults | None, settings: LoadOptions) -> LoadOptions:
    """How a model is loaded: as asked, else as the settings say, else as it wants."""
    return asked.over(settings).over(defaults.load if defaults is not None else LoadOptions())


def chat_request(request: ChatRequest, defaults: ModelDefaults | None, settings: Sampling) -> ChatRequest:
    """A chat, filled. The model's system text comes first where the chat has none."""
    wanted = defaults or ModelDefaults()
    messages = request.messages
    if wanted.messages:
        examples = tuple(Message.of(_ROLES[role], text) for role, text in wanted.messages if role in _ROLES)
        messages = _after_system(messages, examples)
    if wanted.system is not None and not any(message.role == "system" for message in messages):
        messages = (Message.of("system", wanted.system), *messages)
    return replace(
        request,
        messages=messages,
        sampling=request.sampling.over(settings).over(wanted.sampling),
        limits=_limits(request.limits, wanted),
    )


def completion_request(request: CompletionRequest, defaults: ModelDefaults | None, settings: Sampling) -> CompletionRequest:
    """A raw text, filled. It gets no system text: nothing but the text itself is continued."""
    wanted = defaults or ModelDefaults()
    sampling = request.sampling.over(settings).over(wanted.sampling)
    return replace(request, sampling=sampling, limits=_limits(request.limits, wanted))


def with_defaults(engine: Engine, defaults: ModelDefaults | None, settings: Sampling) -> Engine:
    """The engine, whose requests are filled first; itself where there is nothing to fill in."""
    if defaults is None and settings == Sampling():
        return engine
    return _Filling(engine, defaults, settings)


def _limits(asked: Limits, wanted: ModelDefaults) -> Limits:
    max_tokens = asked.max_tokens if asked.max_tokens is not None else wanted.max_tokens or None
    return replace(asked, stop=asked.stop or wanted.stop, max_tokens=max_tokens)


def _after_system(messages: tuple[Message, ...], examples: tuple[Message, ...]) -> tuple[Message, ...]:
    num_systems = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    return (*messages[:num_systems], *examples, *messages[num_systems:])


_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


class _Filling(EngineAround):
    """See ``zhibei.engines.base.Engine``."""

    def __init__(self, engine: Engine, defaults: ModelDefaults | None, settings: Sampling) -> None:
        super().__init__(engine)
        self._defaults = defaults
        self._settings = settings

    def chat(self, request: ChatRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue a conversation."""
        return self._engine.chat(chat_request(request, self._defaults, self._settings))

    def complete(self, request: CompletionRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Continue raw text."""
        return self._engine.complete(completion_request(request, self._defaults, self._settings))

    async def render(self, request: ChatRequest) -> str:
        """The prompt that ``chat`` would give the model."""
        return await self._engine.render(chat_request(request, self._defaults, self._settings))

"""A model whose chat template cannot be used: all it can do but chat. It is loaded with another, which no prompt comes from."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from zhibei.chat import ChatRequest
from zhibei.engines.llama_cpp.engine import LlamaCppEngine
from zhibei.errors import TemplateUnusable
from zhibei.events import GenerationEvent
from zhibei.plans import Ability

# llama.cpp loads no model without one.
STAND_IN = "{% for message in messages %}{{ message.content }}{% endfor %}"
_OF_CHATS: frozenset[Ability] = frozenset(("chat", "tools", "reasoning"))


class WithoutTemplate(LlamaCppEngine):
    """See ``zhibei.engines.base.Engine``."""

    def __init__(self, *given: Any, problem: str, **named: Any) -> None:
        """As the other. ``problem``: what is wrong with the template."""
        super().__init__(*given, **named)
        self._problem = problem

    @property
    def abilities(self) -> frozenset[Ability]:
        """All but what needs a template."""
        return super().abilities - _OF_CHATS

    async def chat(self, request: ChatRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Say why not."""
        raise self._unusable()
        yield

    async def render(self, request: ChatRequest) -> str:
        """Say why not."""
        raise self._unusable()

    def _unusable(self) -> TemplateUnusable:
        return TemplateUnusable(
            "The chat template of {model} cannot be used: {problem}",
            hint="Load it with another one: --chat-template-file. Completions of raw text work without one.",
            model=self.spec.model_name,
            problem=self._problem,
        )

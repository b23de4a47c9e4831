"""What a model of another server can do: as the server says, and where it does not, as such servers can."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from zhibei.engines.openai_upstream import OpenAIUpstream
from zhibei.engines.upstream.kinds import Kind
from zhibei.errors import BadRequest, EngineRefused
from zhibei.plans import Ability, Task

# Ollama's words for what a model can do.
_OLLAMA: dict[str, tuple[Ability, ...]] = {
    "completion": ("chat", "complete"),
    "tools": ("tools",),
    "vision": ("vision",),
    "thinking": ("reasoning",),
}


async def ask(client: OpenAIUpstream, kind: Kind, model: str, task: Task) -> frozenset[Ability]:
    """The abilities for a task.

    Raises:
        What ``OpenAIUpstream`` raises.
    """
    counting: tuple[Ability, ...] = ("tokenize",) if kind.tokenizer is not None else ()
    if task == "rerank":
        return frozenset(("rerank", *counting)) if kind.reranks else frozenset(counting)
    if task == "embed":
        return frozenset(("embed", *counting))
    found: set[Ability] = {"chat", "complete", "tools", "vision", "reasoning", *counting}
    if kind.holds_formats:
        found.add("grammar")
    if kind.gives_logprobs:
        found.add("logprobs")
    if kind.fills_gaps:
        found.add("infill")
    return frozenset(found - await _lacking(client, kind, model))


async def _lacking(client: OpenAIUpstream, kind: Kind, model: str) -> set[Ability]:
    try:
        if kind.name == "llama-server":
            return llama_lacks(await client.get("/props"))
        if kind.name == "ollama":
            return ollama_lacks(await client.post("/api/show", {"model": model}))
        if kind.name == "lmstudio":
            return lmstudio_lacks(await client.get(f"/api/v0/models/{quote(model)}"))
    except (BadRequest, EngineRefused):
        # It says nothing of this model: then it answers for what it cannot do itself.
        return set()
    return set()


def llama_lacks(props: dict[str, Any]) -> set[Ability]:
    """By llama-server's ``/props``."""
    caps, modalities = props.get("chat_template_caps"), props.get("modalities")
    lacking: set[Ability] = set()
    if isinstance(caps, dict) and not caps.get("supports_tools") and not caps.get("supports_tool_calls"):
        lacking.add("tools")
    if isinstance(modalities, dict) and not modalities.get("vision"):
        lacking.add("vision")
    return lacking


def ollama_lacks(shown: dict[str, Any]) -> set[Ability]:
    """By Ollama's ``/api/show``."""
    said = shown.get("capabilities")
    if not isinstance(said, list):
        return set()
    lacking = {ability for word, abilities in _OLLAMA.items() if word not in said for ability in abilities}
    return lacking if "insert" in said else lacking | {"infill"}


def lmstudio_lacks(shown: dict[str, Any]) -> set[Ability]:
    """By LM Studio's list."""
    lacking: set[Ability] = set()
    if shown.get("type") in ("llm", "embeddings"):
        lacking.add("vision")
    if shown.get("type") == "embeddings":
        lacking |= {"chat", "complete", "tools", "reasoning"}
    return lacking

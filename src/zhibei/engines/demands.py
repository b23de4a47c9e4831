"""What a request demands of an engine, checked before it runs: a demand that cannot be met is an error, not silence."""

from __future__ import annotations

from zhibei.chat import ChatRequest, CompletionRequest, ImagePart
from zhibei.errors import BadRequest, Unsupported
from zhibei.i18n import N_
from zhibei.plans import Ability


def check_chat(request: ChatRequest, abilities: frozenset[Ability], num_slots: int) -> None:
    """Raise Unsupported if ``request`` asks for what ``abilities`` lacks."""
    _need(abilities, "chat", "messages", N_("This model cannot chat: it has no chat template, or it is an embedding model."))
    if request.tools and request.tool_choice.mode != "none":
        _need(
            abilities,
            "tools",
            "tools",
            N_("This model's chat template has no tools."),
            hint=N_("Choose a model that was made for tools."),
        )
    names = [tool.name for tool in request.tools]
    if request.tool_choice.name is not None and request.tool_choice.name not in names:
        raise BadRequest("There is no tool {name!r} in this request.", param="tool_choice", name=request.tool_choice.name)
    if request.tool_choice.mode == "required" and not names:
        raise BadRequest("A tool call is required, but there is no tool in this request.", param="tool_choice")
    if request.response_format.kind != "text":
        _need(abilities, "grammar", "response_format", N_("This engine cannot hold an answer to a format."))
    if request.top_logprobs is not None:
        _need(abilities, "logprobs", "logprobs", N_("This engine gives no log-probabilities."))
    if any(isinstance(part, ImagePart) for message in request.messages for part in message.parts):
        _need(
            abilities,
            "vision",
            "messages",
            N_("This model cannot see images."),
            hint=N_("Choose a vision model, and load it with its --mmproj file."),
        )
    _check_choices(request.num_choices, num_slots)


def check_completion(request: CompletionRequest, abilities: frozenset[Ability], num_slots: int) -> None:
    """Raise Unsupported if ``request`` asks for what ``abilities`` lacks."""
    _need(abilities, "complete", "prompt", N_("This model cannot continue text; it makes embeddings."))
    if request.suffix is not None:
        _need(
            abilities,
            "infill",
            "suffix",
            N_("This model cannot fill the gap before a suffix: it was not trained to."),
            hint=N_("Choose a model for code that was, or leave out the suffix."),
        )
    if request.response_format.kind != "text":
        _need(abilities, "grammar", "response_format", N_("This engine cannot hold an answer to a format."))
    if request.top_logprobs is not None:
        _need(abilities, "logprobs", "logprobs", N_("This engine gives no log-probabilities."))
    _check_choices(request.num_choices, num_slots)


def need(abilities: frozenset[Ability], ability: Ability) -> None:
    """Raise Unsupported if the model was not loaded for ``ability``."""
    _need(abilities, ability, None, N_("This model, as it is loaded, cannot do this: {ability}."))


def _need(abilities: frozenset[Ability], ability: Ability, param: str | None, message: str, *, hint: str | None = None) -> None:
    if ability not in abilities:
        raise Unsupported(message, hint=hint, param=param, ability=ability)


def _check_choices(num_choices: int, num_slots: int) -> None:
    if num_choices > num_slots:
        raise Unsupported(
            "{num_choices} answers were asked for at once; this model was loaded for {num_slots}.",
            hint="Ask for fewer, or load the model with a larger --parallel.",
            param="n",
            num_choices=num_choices,
            num_slots=num_slots,
        )

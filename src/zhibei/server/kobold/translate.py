"""Kobold's requests to ours. Pure: a checked body in, values of ``zhibei.chat`` out; BadRequest where they make no sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zhibei.chat import CompletionRequest, EmbeddingRequest
from zhibei.errors import BadRequest, Unsupported
from zhibei.options import Limits, Sampling
from zhibei.server.body import MAX_SHOWN_NAMES, ignored_fields
from zhibei.server.kobold import schema
from zhibei.server.loading import INT32_MAX

NUM_LOGPROBS = 5
_NUM_SEEDS = 2**32 - 1
# What cannot be done here, and the values that ask for nothing.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "tfs": (1,),
    "top_a": (0,),
    "rep_pen_slope": (0, 1),
    "dynatemp_range": (0,),
    "dynatemp_exponent": (1,),
    "smoothing_factor": (0,),
    "smoothing_curve": (0, 1),
    "nsigma": (0, -1),
    "banned_tokens": ([], ""),
    "grammar_retain_state": (False,),
    "render_special": (False,),
    "use_story": (False,),
    "use_memory": (False,),
    "use_authors_note": (False,),
    "use_world_info": (False,),
    "quiet": (False, True),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A generation. ``memory`` stands before the prompt and is never cut.

    The answer's length is in ``request.limits``; None: left to ``fitting``. ``max_context`` None: the model's.
    ``keeps_stop``: the stop text that ended the answer is part of it. ``ignored``: names of fields that say something which
    cannot be done here.
    """

    memory: str
    prompt: str
    request: CompletionRequest
    max_context: int | None
    keeps_stop: bool
    ignored: tuple[str, ...]


def wanted(body: schema.GenerateBody) -> Wanted:
    """The generation a body asks for; its ``request`` has the prompt uncut.

    Raises:
        BadRequest: a value makes no sense.
        Unsupported: it does, but cannot be done here.
    """
    _refuse_impossible(body)
    memory = body.memory or ""
    stops = tuple(dict.fromkeys(stop for stop in body.stop_sequence or () if stop))
    if body.singleline:
        stops = tuple(dict.fromkeys((*stops, "\n")))
    request = CompletionRequest(
        prompt=memory + body.prompt,
        sampling=_sampling(body),
        limits=Limits(body.max_length, stops, bool(body.use_default_badwordsids or body.bypass_eos)),
        top_logprobs=NUM_LOGPROBS if body.logprobs else None,
    )
    return Wanted(memory, body.prompt, request, body.max_context_length, body.trim_stop is False, _ignored(body))


def embedding_request(body: schema.EmbeddingsBody) -> EmbeddingRequest:
    """The texts to turn into vectors.

    Raises:
        BadRequest: there are none, too many, or one is empty.
    """
    texts = (body.input,) if isinstance(body.input, str) else tuple(body.input)
    if not 0 < len(texts) <= schema.MAX_INPUTS:
        raise BadRequest("{param} must have 1 to {most} entries.", param="input", most=schema.MAX_INPUTS)
    if not all(texts):
        raise BadRequest("The input cannot be empty.", param="input")
    return EmbeddingRequest(texts)


def _refuse_impossible(body: schema.GenerateBody) -> None:
    if body.n not in (None, 1):
        raise Unsupported("One answer at a time is given here.", hint="Leave out n, or set it to 1.", param="n")
    if body.grammar not in (None, ""):
        raise Unsupported(
            "Grammars are not taken here.",
            hint="Use /v1/chat/completions with a JSON schema as response_format.",
            param="grammar",
        )
    for name in ("images", "audio"):
        if getattr(body, name):
            raise Unsupported(
                "Raw text is continued here without images or sound.", hint="Send images to /v1/chat/completions.", param=name
            )


def _ignored(body: schema.GenerateBody) -> tuple[str, ...]:
    said = [name for name, neutral in _NEUTRAL.items() if (value := getattr(body, name)) is not None and value not in neutral]
    return (*said, *ignored_fields(body))[:MAX_SHOWN_NAMES]


def _sampling(body: schema.GenerateBody) -> Sampling:
    seed = body.sampler_seed
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(0, body.top_k),
        min_p=body.min_p,
        typical_p=body.typical,
        repeat_penalty=body.rep_pen,
        repeat_last_n=body.rep_pen_range,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        seed=None if seed is None or seed <= 0 else seed % _NUM_SEEDS,
        mirostat=body.mirostat,
        mirostat_tau=body.mirostat_tau,
        mirostat_eta=body.mirostat_eta,
        dry_multiplier=body.dry_multiplier,
        dry_base=body.dry_base or None,
        dry_allowed_length=body.dry_allowed_length,
        xtc_probability=body.xtc_probability,
        xtc_threshold=body.xtc_threshold,
        logit_bias=_logit_bias(body.logit_bias),
    )


def _logit_bias(biases: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    found: list[tuple[int, float]] = []
    for token, bias in (biases or {}).items():
        if not (token.isascii() and token.isdigit() and len(token) <= 10 and int(token) <= INT32_MAX):
            raise BadRequest("logit_bias maps token ids to numbers; {token!r} is not one.", param="logit_bias", token=token[:50])
        found.append((int(token), bias))
    return tuple(found)

"""llama-server's requests to ours. Pure: a checked body in, our values out; BadRequest where they make no sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zhibei.chat import EmbeddingRequest, ResponseFormat
from zhibei.errors import BadRequest, Unsupported
from zhibei.options import Limits, Sampling
from zhibei.server.body import MAX_SHOWN_NAMES, ignored_fields
from zhibei.server.llama_server import schema
from zhibei.server.loading import INT32_MAX
from zhibei.text.json_schema import check_schema

NEVER = -1e9
"""A bias after which a token is not chosen."""
Prompt = str | tuple[int | str, ...]
_NUM_SEEDS = 2**32 - 1
# What cannot be done here, and the values that ask for nothing.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "cache_prompt": (True,),
    "id_slot": (-1,),
    "n_keep": (0,),
    "min_keep": (0,),
    "dynatemp_range": (0,),
    "dynatemp_exponent": (1,),
    "top_n_sigma": (-1, 0),
    "t_max_predict_ms": (0, -1),
    "n_indent": (0,),
    "n_cache_reuse": (0,),
    "timings_per_token": (False,),
    "return_progress": (False,),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What ``/completion`` and ``/infill`` come to.

    ``biases`` of texts are for each of their tokens. ``is_silent``: the prompt is read, and nothing is answered.
    ``suffix``: what comes after the gap.
    """

    prompts: tuple[Prompt, ...]
    sampling: Sampling
    limits: Limits
    biases: tuple[tuple[str, float], ...]
    response_format: ResponseFormat
    top_logprobs: int | None
    shows_tokens: bool
    is_silent: bool
    suffix: str | None
    fields: tuple[str, ...] | None
    ignored: tuple[str, ...]


def completion(body: schema.CompletionBody) -> Wanted:
    """What ``/completion`` asks for.

    Raises:
        BadRequest: a value makes no sense.
        Unsupported: it does, but cannot be done here.
    """
    return _wanted(body, _prompts(body.prompt), None)


def infill(body: schema.InfillBody) -> Wanted:
    """What ``/infill`` asks for. The model has not seen what is in ``input_extra``: that is reported."""
    ignored = ("input_extra",) if body.input_extra else ()
    return _wanted(body, (body.input_prefix + (body.prompt or ""),), body.input_suffix, ignored)


def embedding_request(body: schema.EmbeddingBody) -> EmbeddingRequest:
    """The texts to turn into vectors.

    Raises:
        BadRequest: there are none, or one is empty.
    """
    value = body.content if body.content is not None else body.input
    texts = (value,) if isinstance(value, str) else tuple(value or ())
    if not texts:
        raise BadRequest("The parameter {name} is missing.", param="content", name="content")
    if not all(texts):
        raise BadRequest("The input cannot be empty.", param="content")
    return EmbeddingRequest(texts)


def settings_json(wanted: Wanted, *, stream: bool) -> dict[str, Any]:
    """``generation_settings``: what was asked for; null where it was left to the model and the engine."""
    sampling, limits = wanted.sampling, wanted.limits
    num_tokens = 0 if wanted.is_silent else -1 if limits.max_tokens is None else limits.max_tokens
    names = (
        "seed temperature top_k top_p min_p typical_p repeat_last_n repeat_penalty presence_penalty frequency_penalty "
        "dry_multiplier dry_base dry_allowed_length xtc_probability xtc_threshold mirostat mirostat_tau mirostat_eta"
    )
    return {
        **{name: getattr(sampling, name) for name in names.split()},
        "stop": list(limits.stop),
        "max_tokens": num_tokens,
        "n_predict": num_tokens,
        "ignore_eos": limits.ignore_eos,
        "stream": stream,
        "n_probs": wanted.top_logprobs or 0,
        "logit_bias": [{"token": token, "bias": bias} for token, bias in sampling.logit_bias],
        "grammar": "",
        "lora": [],
    }


def _wanted(body: schema.SamplingBody, prompts: tuple[Prompt, ...], suffix: str | None, more: tuple[str, ...] = ()) -> Wanted:
    _refuse_impossible(body)
    length = body.n_predict if body.n_predict is not None else body.max_tokens
    ids, texts = _biases(body.logit_bias)
    shows_tokens = bool(body.return_tokens)
    if body.json_schema is not None:
        check_schema(body.json_schema, param="json_schema", use="completion")
    return Wanted(
        prompts=prompts,
        sampling=_sampling(body, ids),
        limits=Limits(_max_tokens(length), _stops(body.stop), bool(body.ignore_eos)),
        biases=texts,
        response_format=ResponseFormat() if body.json_schema is None else ResponseFormat("json_schema", body.json_schema),
        top_logprobs=body.n_probs or (0 if shows_tokens else None),
        shows_tokens=shows_tokens,
        is_silent=length == 0,
        suffix=suffix,
        fields=None if body.response_fields is None else tuple(body.response_fields),
        ignored=(*more, *_ignored(body))[:MAX_SHOWN_NAMES],
    )


def _refuse_impossible(body: schema.SamplingBody) -> None:
    if body.grammar not in (None, ""):
        raise Unsupported("Grammars are not taken here.", hint="Use json_schema.", param="grammar")
    if body.lora:
        raise Unsupported("Adapters cannot be set by a request.", hint="Set them on the server, with --lora.", param="lora")
    if body.n_cmpl not in (None, 1):
        raise Unsupported("One answer at a time is given here.", hint="Leave out n_cmpl.", param="n_cmpl")
    if body.post_sampling_probs:
        raise Unsupported(
            "Probabilities after sampling are not available.", hint="Leave out post_sampling_probs.", param="post_sampling_probs"
        )


def _ignored(body: schema.SamplingBody) -> tuple[str, ...]:
    said = [name for name, neutral in _NEUTRAL.items() if (value := getattr(body, name)) is not None and value not in neutral]
    return (*said, *ignored_fields(body))


def _max_tokens(length: int | None) -> int | None:
    # Nothing to be said still takes a token to be drawn: it is left out of the answer.
    return None if length is None or length < 0 else max(1, length)


def _stops(value: str | list[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(stop for stop in ([value] if isinstance(value, str) else value or ()) if stop))


def _sampling(body: schema.SamplingBody, biases: tuple[tuple[int, float], ...]) -> Sampling:
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(0, body.top_k),
        min_p=body.min_p,
        typical_p=body.typical_p,
        repeat_penalty=body.repeat_penalty,
        repeat_last_n=body.repeat_last_n,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        seed=None if body.seed in (None, -1) else body.seed % _NUM_SEEDS,
        mirostat=body.mirostat,
        mirostat_tau=body.mirostat_tau,
        mirostat_eta=body.mirostat_eta,
        dry_multiplier=body.dry_multiplier,
        dry_base=body.dry_base or None,
        dry_allowed_length=body.dry_allowed_length,
        xtc_probability=body.xtc_probability,
        xtc_threshold=body.xtc_threshold,
        logit_bias=biases,
    )


def _prompts(value: str | list[Any] | dict[str, Any]) -> tuple[Prompt, ...]:
    """A text; tokens and texts mixed; or a list of such prompts, as which a list of texts alone counts."""
    if isinstance(value, str):
        return (value,)
    items = [value] if isinstance(value, dict) else value
    if any(isinstance(item, dict) for item in items):
        raise Unsupported("A prompt is text and tokens here.", hint="Send images to /v1/chat/completions.", param="prompt")
    if not items:
        raise BadRequest("The prompt cannot be empty.", param="prompt")
    if not all(isinstance(item, str) for item in items) and not any(isinstance(item, list) for item in items):
        return (tuple(items),)
    if len(items) > schema.MAX_PROMPTS or not all(isinstance(item, str | list) and item != [] for item in items):
        raise BadRequest("prompt takes 1 to {most} prompts at once.", param="prompt", most=schema.MAX_PROMPTS)
    return tuple(item if isinstance(item, str) else tuple(item) for item in items)


def _biases(value: dict[str, Any] | list[Any] | None) -> tuple[tuple[tuple[int, float], ...], tuple[tuple[str, float], ...]]:
    """Biases of token ids, and of texts. In pairs a number names a token and a text is one; in an object ids are texts."""
    pairs = [[_key(key), bias] for key, bias in value.items()] if isinstance(value, dict) else value or []
    if len(pairs) > schema.MAX_BIASES:
        raise _bad_bias()
    ids: list[tuple[int, float]] = []
    texts: list[tuple[str, float]] = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise _bad_bias()
        token, bias = pair[0], _bias(pair[1])
        if isinstance(token, str) and 0 < len(token) <= schema.MAX_STOP_CHARS:
            texts.append((token, bias))
        elif isinstance(token, int) and not isinstance(token, bool) and 0 <= token <= INT32_MAX:
            ids.append((token, bias))
        else:
            raise _bad_bias()
    return tuple(ids), tuple(texts)


def _key(key: str) -> int | str:
    return int(key) if key.isascii() and key.isdigit() and len(key) <= 10 else key


def _bias(value: object) -> float:
    if value is False:
        return NEVER
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e6:
        raise _bad_bias()
    return float(value)


def _bad_bias() -> BadRequest:
    return BadRequest(
        "logit_bias takes up to {most} pairs of a token id or a text, and a number or false.",
        param="logit_bias",
        most=schema.MAX_BIASES,
    )

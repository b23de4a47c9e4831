"""The kinds of servers that can stand behind this one: where they listen, what they take, how they count tokens. A table.

Facts only; nothing is asked here. Field names are those of the servers' own references.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Every OpenAI-compatible server takes these under OpenAI's names.
_EVERYWHERE = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
_LLAMA = (
    "top_k min_p typical_p repeat_penalty repeat_last_n mirostat mirostat_tau mirostat_eta dry_multiplier dry_base "
    "dry_allowed_length xtc_probability xtc_threshold logit_bias ignore_eos"
).split()
_DRAWING = (
    "top_k min_p mirostat_tau mirostat_eta dry_multiplier dry_base dry_allowed_length xtc_probability xtc_threshold"
).split()


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """How texts become tokens there. ``text`` and ``tokens``: the fields of a request; ``ids`` and ``back``: of the answers.

    ``special``: the field that asks for the tokens a text begins with; ``names_model``: whether a request names the model.
    """

    encode_path: str
    decode_path: str
    text: str
    ids: str
    tokens: str
    back: str
    special: str | None = None
    names_model: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A program. ``port``: where it listens if nobody says otherwise; None: it has no usual one.

    ``fields``: our names of what may be sent, each with its name there. ``holds_formats``: an answer can be held to a schema.
    ``gives_logprobs``: in chats, as OpenAI shapes them. ``is_llama``: completions take llama.cpp's own fields too.
    ``many_choices``, ``chooses_tools``, ``fills_gaps``: ``n``, ``tool_choice`` and ``suffix`` are heeded. ``takes_tokens``: a
    prompt may be token ids.
    """

    name: str
    title: str
    port: int | None
    fields: Mapping[str, str]
    tokenizer: Tokenizer | None = None
    holds_formats: bool = True
    gives_logprobs: bool = False
    reranks: bool = False
    is_llama: bool = False
    many_choices: bool = True
    chooses_tools: bool = True
    fills_gaps: bool = False
    takes_tokens: bool = False


def _fields(names: list[str], **renamed: str) -> dict[str, str]:
    return {**{name: name for name in (*_EVERYWHERE, *names)}, **renamed}


_LLAMA_TOKENS = Tokenizer("/tokenize", "/detokenize", "content", "tokens", "tokens", "content", special="add_special")
_VLLM_TOKENS = Tokenizer(
    "/tokenize", "/detokenize", "prompt", "tokens", "tokens", "prompt", special="add_special_tokens", names_model=True
)
_RENAMED = {"typical_p": "typical_p", "repeat_penalty": "repetition_penalty", "logit_bias": "logit_bias"}

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "zhibei",
            "Zhibei",
            11435,
            _fields(_LLAMA),
            Tokenizer("/zhibei/v1/tokenize", "/zhibei/v1/detokenize", "text", "tokens", "tokens", "text", names_model=True),
            gives_logprobs=True,
            reranks=True,
            fills_gaps=True,
            takes_tokens=True,
        ),
        Kind("llama-server", "llama-server", 8080, _fields(_LLAMA), _LLAMA_TOKENS, True, True, True, True, takes_tokens=True),
        Kind("ollama", "Ollama", 11434, _fields([]), many_choices=False, chooses_tools=False, fills_gaps=True),
        Kind("lmstudio", "LM Studio", 1234, _fields(["top_k", "repeat_penalty", "logit_bias"]), many_choices=False),
        Kind(
            "koboldcpp",
            "KoboldCpp",
            5001,
            _fields(
                [*_DRAWING, "mirostat", "logit_bias"],
                typical_p="typical",
                repeat_penalty="rep_pen",
                repeat_last_n="rep_pen_range",
                ignore_eos="ban_eos_token",
            ),
            Tokenizer("/api/extra/tokencount", "/api/extra/detokenize", "prompt", "ids", "ids", "result", special="special"),
            many_choices=False,
        ),
        Kind(
            "tabby",
            "TabbyAPI",
            5000,
            _fields(
                [*_DRAWING, "logit_bias"],
                typical_p="typical",
                repeat_penalty="repetition_penalty",
                repeat_last_n="penalty_range",
                mirostat="mirostat_mode",
                ignore_eos="ban_eos_token",
            ),
            Tokenizer("/v1/token/encode", "/v1/token/decode", "text", "tokens", "tokens", "text", special="add_bos_token"),
            holds_formats=False,
        ),
        Kind(
            "textgen",
            "text-generation-webui",
            5000,
            _fields(
                _DRAWING,
                **_RENAMED,
                repeat_last_n="repetition_penalty_range",
                mirostat="mirostat_mode",
                ignore_eos="ban_eos_token",
            ),
            Tokenizer("/v1/internal/encode", "/v1/internal/decode", "text", "tokens", "tokens", "text"),
            holds_formats=False,
            many_choices=False,
        ),
        Kind(
            "vllm",
            "vLLM",
            8000,
            _fields(["top_k", "min_p", "logit_bias", "ignore_eos"], repeat_penalty="repetition_penalty"),
            _VLLM_TOKENS,
            takes_tokens=True,
            gives_logprobs=True,
            reranks=True,
        ),
        Kind(
            "aphrodite",
            "Aphrodite",
            2242,
            _fields(_DRAWING, **_RENAMED, mirostat="mirostat_mode", ignore_eos="ignore_eos"),
            _VLLM_TOKENS,
            takes_tokens=True,
            gives_logprobs=True,
        ),
        Kind("localai", "LocalAI", 8080, _fields(["top_k", "typical_p", "repeat_penalty"]), reranks=True),
        Kind(
            "openai",
            "OpenAI-compatible",
            None,
            _fields(["logit_bias"]),
            gives_logprobs=True,
            reranks=True,
            fills_gaps=True,
            takes_tokens=True,
        ),
    )
}
JAN_PORT = 1337
"""Jan listens here; by its answers it is any OpenAI-compatible server."""
USUAL_PORTS = tuple(sorted({kind.port for kind in KINDS.values() if kind.port is not None} | {JAN_PORT}))

"""What Kobold's requests may hold: the fields, their types and their ranges. Meaning is given to them in ``translate``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from zhibei.server.body import Body
from zhibei.server.loading import INT32_MAX
from zhibei.server.unnamed import MAX_TEXT_CHARS

MAX_STOPS = 256
MAX_STOP_CHARS = 1024
MAX_BIASES = 512
MAX_INPUTS = 2048
MAX_IDS = 1_000_000

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Genkey = Annotated[str, Field(max_length=256)]


class GenerateBody(Body):
    """``POST /api/v1/generate`` and ``/api/extra/generate/stream``."""

    prompt: Text
    memory: Text | None = None
    max_length: int | None = Field(None, ge=1, le=INT32_MAX)
    max_context_length: int | None = Field(None, ge=1, le=INT32_MAX)
    n: int | None = Field(None, ge=1, le=5)
    genkey: Genkey | None = None

    temperature: float | None = Field(None, ge=0, le=10)
    top_k: int | None = Field(None, ge=-1, le=INT32_MAX)
    top_p: Probability | None = None
    min_p: Probability | None = None
    typical: Probability | None = None
    rep_pen: float | None = Field(None, gt=0, le=10)
    rep_pen_range: int | None = Field(None, ge=-1, le=INT32_MAX)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    sampler_seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    mirostat: int | None = Field(None, ge=0, le=2)
    mirostat_tau: float | None = Field(None, ge=0, le=100)
    mirostat_eta: Probability | None = None
    dry_multiplier: float | None = Field(None, ge=0, le=100)
    dry_base: float | None = Field(None, ge=0, le=100)
    dry_allowed_length: int | None = Field(None, ge=0, le=INT32_MAX)
    xtc_probability: Probability | None = None
    xtc_threshold: Probability | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=MAX_BIASES)
    logprobs: bool | None = None

    stop_sequence: list[Annotated[str, Field(max_length=MAX_STOP_CHARS)]] | None = Field(None, max_length=MAX_STOPS)
    trim_stop: bool | None = None
    singleline: bool | None = None
    use_default_badwordsids: bool | None = None
    bypass_eos: bool | None = None

    # Known, so that they can be refused in words where they say something.
    grammar: Any = None
    images: list[Any] | None = None
    audio: list[Any] | None = None
    # Known, so that values that change nothing are not reported as ignored.
    tfs: Any = None
    top_a: Any = None
    rep_pen_slope: Any = None
    dynatemp_range: Any = None
    dynatemp_exponent: Any = None
    smoothing_factor: Any = None
    smoothing_curve: Any = None
    nsigma: Any = None
    banned_tokens: Any = None
    grammar_retain_state: Any = None
    render_special: Any = None
    use_story: Any = None
    use_memory: Any = None
    use_authors_note: Any = None
    use_world_info: Any = None
    quiet: Any = None


class GenkeyBody(Body):
    """Which generation is meant; without a key the only one there is."""

    genkey: Genkey | None = None


class CountBody(Body):
    """``POST /api/extra/tokencount``. ``special``: with what the model puts before a text."""

    prompt: Text
    special: bool | None = None


class DetokenizeBody(Body):
    """``POST /api/extra/detokenize``."""

    ids: list[TokenId] = Field(max_length=MAX_IDS)


class EmbeddingsBody(Body):
    """``POST /api/extra/embeddings``."""

    input: Text | list[Text]
    model: str | None = Field(None, max_length=2048)
    truncate: bool | None = None


class SoftPromptBody(Body):
    """``PUT /api/v1/config/soft_prompt``."""

    value: str | None = Field(None, max_length=1024)

"""What a random-weight model is like: its architecture, widths and types. Values and their checks; no I/O.

A ``Shape`` says what the header of such a model would say. ``check`` refuses what no engine could load.
"""

from __future__ import annotations

from dataclasses import dataclass

from zhibei.errors import BadRequest
from zhibei.formats.ggml_types import TENSOR_TYPES

BYTE_TOKENS = 259  # three special tokens, and one for each byte
MAX_VOCABULARY = 2**20


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture: ``num_used`` of ``num_experts`` see each token, after ``num_dense_layers`` layers without experts."""

    num_experts: int
    num_used: int
    feed_forward_length: int
    num_shared: int = 0
    num_dense_layers: int = 0


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention: keys and values are kept as one vector of ``kv_rank + rope_length`` a token."""

    kv_rank: int
    query_rank: int
    rope_length: int


@dataclass(frozen=True, slots=True)
class Recurrent:
    """State-space, short-convolution or delta-net layers. ``attention_every``: each n-th layer is attention; 0: none is.

    ``num_heads`` is the rank of the time step where the architecture has no heads.
    """

    state_size: int = 0
    inner_size: int = 0
    conv_kernel: int = 4
    num_heads: int = 0
    num_groups: int = 1
    attention_every: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """A model to be made. Lengths are in elements, ``context_length`` and ``sliding_window`` in tokens.

    ``weight_type`` is how matrices are stored (``Q4_K``); what engines keep exact, norms and biases, is always F32.
    """

    name: str
    architecture: str
    num_layers: int
    embedding_length: int
    feed_forward_length: int
    num_heads: int = 0
    num_kv_heads: int = 0
    head_length: int = 0
    value_length: int | None = None
    vocabulary_size: int = 512
    context_length: int = 32768
    weight_type: str = "F16"
    embedding_type: str | None = None
    tied: bool = False
    sliding_window: int | None = None
    experts: Experts | None = None
    latent: Latent | None = None
    recurrent: Recurrent | None = None

    def is_attention(self, layer: int) -> bool:
        """Whether a layer keeps keys and values."""
        if self.recurrent is None:
            return True
        return bool(self.recurrent.attention_every) and (layer + 1) % self.recurrent.attention_every == 0


def type_number(name: str) -> int:
    """The number of a tensor type.

    Raises:
        BadRequest: there is none of that name.
    """
    for number, kind in TENSOR_TYPES.items():
        if kind.name == name:
            return number
    raise BadRequest(
        "There is no tensor type {name}.",
        hint="Known are F32, F16, Q8_0, Q4_0, Q4_K and the like.",
        param="weight_type",
        name=name,
    )


def check(shape: Shape) -> None:
    """Refuse a shape that makes no sense, whatever its architecture.

    Raises:
        BadRequest: with the field that is wrong.
    """
    _check_sizes(shape)
    _check_heads(shape)
    if shape.experts is not None:
        _check_experts(shape.experts, shape.num_layers)
    if shape.recurrent is not None:
        _check_recurrent(shape.recurrent)


def _check_sizes(shape: Shape) -> None:
    for field, least, most in (
        ("num_layers", 1, 512),
        ("embedding_length", 32, 2**16),
        ("feed_forward_length", 0, 2**18),
        ("vocabulary_size", BYTE_TOKENS, MAX_VOCABULARY),
        ("context_length", 1, 2**24),
    ):
        value = getattr(shape, field)
        if not least <= value <= most:
            _fail("{field} is {value}; it must be from {least} to {most}.", field, value=value, least=least, most=most)
    if shape.sliding_window is not None and shape.sliding_window < 1:
        _fail("{field} is {value}; it must be at least 1.", "sliding_window", value=shape.sliding_window)
    for name in (shape.weight_type, shape.embedding_type or shape.weight_type):
        block = TENSOR_TYPES[type_number(name)].block_size
        if shape.embedding_length % block:
            _fail(
                "{field} is {value}; {type} is stored in blocks of {block}.",
                "embedding_length",
                value=shape.embedding_length,
                type=name,
                block=block,
            )


def _check_heads(shape: Shape) -> None:
    if not shape.num_heads:
        if shape.recurrent is None or shape.recurrent.attention_every:
            _fail("{field} is {value}; layers of attention need heads.", "num_heads", value=0)
        return
    if shape.num_kv_heads < 1 or shape.num_heads % shape.num_kv_heads:
        _fail(
            "{field} is {value}; it must divide {num_heads} heads.",
            "num_kv_heads",
            value=shape.num_kv_heads,
            num_heads=shape.num_heads,
        )
    if shape.head_length < 2 or shape.head_length % 2:
        _fail("{field} is {value}; it must be even.", "head_length", value=shape.head_length)


def _check_experts(experts: Experts, num_layers: int) -> None:
    if not 1 <= experts.num_used <= experts.num_experts:
        _fail(
            "{field} is {value}, of {num_experts} experts.", "num_used", value=experts.num_used, num_experts=experts.num_experts
        )
    if not 0 <= experts.num_dense_layers <= num_layers:
        _fail(
            "{field} is {value}, of {num_layers} layers.",
            "num_dense_layers",
            value=experts.num_dense_layers,
            num_layers=num_layers,
        )


def _check_recurrent(recurrent: Recurrent) -> None:
    if recurrent.conv_kernel < 2:
        _fail("{field} is {value}; it must be at least 2.", "conv_kernel", value=recurrent.conv_kernel)
    if recurrent.num_heads and recurrent.num_heads % recurrent.num_groups:
        _fail(
            "{field} is {value}; it must divide {num_heads} heads.",
            "num_groups",
            value=recurrent.num_groups,
            num_heads=recurrent.num_heads,
        )


def _fail(message: str, field: str, **values: object) -> None:
    raise BadRequest(message, hint="Change it, or start from one of the named shapes.", param=field, field=field, **values)

"""What a model is: what its file's header says, and what of it is on this disk. Values only; no I/O.

Apart from plans.py because listing the store needs these and nothing of a plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from zhibei.options import LoadOptions, Sampling

LayerKind = Literal["attention", "mla", "recurrent", "hybrid", "none", "extra"]


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer, or each of ``count`` equal neighbours, weighs and remembers.

    ``kind``: keys and values of every token (attention); one compressed row instead (mla: ``key_length`` is that row's, and
    values are its first ``value_length`` elements); a state of fixed size per conversation (recurrent); both side by side
    (hybrid); nothing (none);
    extra: predicts further tokens (MTP) and is loaded only when that is asked for.
    """

    kind: LayerKind
    count: int = 1
    num_heads: int = 0
    num_kv_heads: int = 0
    key_length: int = 0
    value_length: int = 0
    window: int | None = None
    """The tokens it looks back to; None: to the first."""
    is_chunked: bool = False
    """The window begins at its multiples instead of moving along."""
    is_shared: bool = False
    """It reads keys and values of an earlier layer and keeps none itself."""
    index_length: int = 0
    """Elements per token of a second cache, by which sparse attention finds what to read."""
    compress_ratio: int = 0
    """Beyond its window it keeps one row for so many tokens, in the cache proper and in the index; 0: it does not."""
    conv_elements: int = 0
    state_elements: int = 0
    """Numbers kept per conversation: the last inputs of a convolution, and the recurrent state."""
    feed_forward_length: int = 0
    """Of the dense part; 0 where experts take its place."""
    dense_bytes: int = 0
    """Weights that every token uses: attention, norms, dense feed-forward, shared experts, router."""
    expert_bytes: int = 0
    """Weights of all experts among which the router chooses."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model file's header says. Absent facts are None; nothing is guessed. ``upstream``: another server has the file.

    ``tensor_types`` maps a quantisation type name (``Q4_K``) to (number of tensors, their bytes).
    ``num_kv_heads`` has one entry per layer (0 for layers without attention). ``sliding_window`` is in tokens.
    ``layers`` is empty where the header does not say enough, and in what earlier versions wrote.
    ``output_bytes`` 0: the output is computed with the token embedding. ``lookup_bytes`` are further tables of which a token
    reads one row (positions, embeddings per layer); ``other_bytes`` the rest outside the layers.
    """

    format: Literal["gguf", "safetensors", "upstream", "unknown"]
    architecture: str
    name: str | None = None
    num_parameters: int | None = None
    weights_bytes: int | None = None
    tensor_types: tuple[tuple[str, int, int], ...] = ()
    quantisation: str | None = None
    context_length: int | None = None
    embedding_length: int | None = None
    feed_forward_length: int | None = None
    vocabulary_size: int | None = None
    num_layers: int | None = None
    num_heads: int | None = None
    num_kv_heads: tuple[int, ...] = ()
    key_length: int | None = None
    value_length: int | None = None
    rope_freq_base: float | None = None
    rope_scaling: str | None = None
    sliding_window: int | None = None
    num_experts: int | None = None
    num_experts_used: int | None = None
    pooling: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    licence: str | None = None
    split_count: int | None = None
    is_causal: bool | None = None
    layers: tuple[Layer, ...] = ()
    expert_feed_forward_length: int | None = None
    embedding_bytes: int | None = None
    lookup_bytes: int | None = None
    output_bytes: int | None = None
    other_bytes: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def active_bytes(self) -> int | None:
        """Bytes of weights that are read for one generated token; None where the weights' headers were not read.

        Of the experts the share that is used; the embedding only where it also computes the output.
        """
        if self.output_bytes is None or self.embedding_bytes is None or not self.layers:
            return None
        used, experts = self.num_experts_used or 0, self.num_experts or 0
        total = self.output_bytes or self.embedding_bytes
        for layer in self.layers:
            if layer.kind != "extra":
                chosen = layer.expert_bytes * used // experts if experts else layer.expert_bytes
                total += (layer.dense_bytes + chosen) * layer.count
        return total + (self.other_bytes or 0)


ROLES = (
    "model",  # a whole GGUF file
    "shard",  # one of several GGUF files that are one model
    "weights",  # a safetensors file
    "config",  # what belongs to safetensors weights: configuration, tokenizer, index
    "projector",
    "adapter",
    "draft",
    "template",
    "params",
    "system",
    "licence",
)
WEIGHT_ROLES = ("model", "shard", "weights")


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """What whoever packed the model wants it run with, where the person asks for nothing else.

    ``messages``: (role, text) of the turns that stand before every conversation. ``max_tokens`` 0: no limit.
    """

    system: str | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    load: LoadOptions = LoadOptions()
    messages: tuple[tuple[str, str], ...] = ()
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a stored model. ``role`` is one of ``ROLES``.

    ``digest`` is ``sha256:<64 hex>``; None for a file that is used in place and was not hashed.
    """

    role: str
    path: Path
    size_bytes: int
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something in the store that belongs to no model: a blob, a download that was cut off (``origin``: of what), a view.

    ``is_active``: somebody is at work on it.
    """

    kind: Literal["blob", "part", "view"]
    path: Path
    size_bytes: int
    origin: str | None = None
    total_bytes: int | None = None
    is_active: bool = False


CREATED = "created:"
"""How the source of a model begins that was made on this machine; the rest names what it was made from."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model on this disk, or of another server. ``name`` is ``name:tag``; ``problem`` says why a broken one cannot be used.

    One of another server has no files; its ``name`` and ``source`` are ``upstream:SERVER/MODEL``.
    ``draft``: what the header says of the draft model among its files, if there is one and it was read.
    """

    name: str
    files: tuple[StoredFile, ...]
    info: ModelInfo | None
    source: str
    added_at: datetime
    licence: str | None = None
    in_place: bool = False
    problem: str | None = None
    defaults: ModelDefaults | None = None
    draft: ModelInfo | None = None

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of its files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def is_created(self) -> bool:
        """Whether it was made here, so that no source has it."""
        return self.source.startswith(CREATED)

    @property
    def is_upstream(self) -> bool:
        """Whether another server has it."""
        return self.info is not None and self.info.format == "upstream"

    @property
    def model_path(self) -> Path:
        """What an engine is given: the GGUF file, its first shard, or the first safetensors file of a directory.

        For a model of another server, which has no path, its name.

        Raises:
            ValueError: the model is broken and has no such file.
        """
        for file in self.files:
            if file.role in WEIGHT_ROLES:
                return file.path
        if self.is_upstream:
            return Path(self.source)
        raise ValueError(f"{self.name} has no weights")

    def paths(self, role: str) -> tuple[Path, ...]:
        """Paths of all files of a role."""
        return tuple(file.path for file in self.files if file.role == role)

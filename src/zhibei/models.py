"""What a model is: what its file's header says, and what of it is on this disk. Values only; no I/O.

Apart from plans.py because listing the store needs these and nothing of a plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from zhibei.options import LoadOptions, Sampling


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model file's header says. Absent facts are None; nothing is guessed.

    ``tensor_types`` maps a quantisation type name (``Q4_K``) to (number of tensors, their bytes).
    ``num_kv_heads`` has one entry per layer (0 for layers without attention). ``sliding_window`` is in tokens.
    """

    format: Literal["gguf", "safetensors", "unknown"]
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
    warnings: tuple[str, ...] = ()


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
    """What whoever packed the model wants it run with, where the person asks for nothing else."""

    system: str | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    load: LoadOptions = LoadOptions()


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


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model on this disk. ``name`` is ``name:tag``; ``problem`` says why a broken one cannot be used."""

    name: str
    files: tuple[StoredFile, ...]
    info: ModelInfo | None
    source: str
    added_at: datetime
    licence: str | None = None
    in_place: bool = False
    problem: str | None = None
    defaults: ModelDefaults | None = None

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of its files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def model_path(self) -> Path:
        """What an engine is given: the GGUF file, its first shard, or the first safetensors file of a directory.

        Raises:
            ValueError: the model is broken and has no such file.
        """
        for file in self.files:
            if file.role in WEIGHT_ROLES:
                return file.path
        raise ValueError(f"{self.name} has no weights")

    def paths(self, role: str) -> tuple[Path, ...]:
        """Paths of all files of a role."""
        return tuple(file.path for file in self.files if file.role == role)

"""What a model is, what a machine is, and how one will run on the other. Values only; no I/O.

Sizes are bytes, times seconds, lengths tokens. None means "not known", never a made-up number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

Ability = Literal["chat", "complete", "embed", "rerank", "tokenize", "tools", "vision", "reasoning", "logprobs", "grammar"]
Task = Literal["generate", "embed", "rerank"]
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


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


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a stored model. ``role`` is model, shard, projector, adapter, draft, template or licence.

    ``digest`` is ``sha256:<64 hex>``; None for a file that is used in place and was not hashed.
    """

    role: str
    path: Path
    size_bytes: int
    digest: str | None = None


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

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of its files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def model_path(self) -> Path:
        """The file an engine is given: the model itself, or its first shard."""
        return next(file.path for file in self.files if file.role in ("model", "shard"))

    def paths(self, role: str) -> tuple[Path, ...]:
        """Paths of all files of a role."""
        return tuple(file.path for file in self.files if file.role == role)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A graphics processor. ``total_bytes`` is its own memory, not the system's."""

    name: str
    vendor: str
    total_bytes: int | None = None
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    """This machine, as far as it is known. ``available_bytes`` is what a new program could take now."""

    cpu_name: str | None
    num_physical_cores: int | None
    num_logical_cores: int | None
    total_bytes: int | None
    available_bytes: int | None
    gpus: tuple[Gpu, ...] = ()
    cpu_features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine can do, known without starting it."""

    name: str
    installed: bool
    version: str | None = None
    formats: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    problem: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a person wants a model loaded. None: the planner decides.

    Names are llama.cpp's: ``ctx_size`` tokens per slot, ``parallel`` slots, ``gpu_layers`` layers on the GPU,
    ``batch_size`` and ``ubatch_size`` tokens, ``cache_ram_mib`` MiB of prompt cache.
    """

    ctx_size: int | None = None
    parallel: int | None = None
    threads: int | None = None
    threads_batch: int | None = None
    batch_size: int | None = None
    ubatch_size: int | None = None
    cache_type_k: CacheType | None = None
    cache_type_v: CacheType | None = None
    flash_attn: Literal["on", "off", "auto"] | None = None
    gpu_layers: int | None = None
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    mmap: bool | None = None
    mlock: bool | None = None
    cache_ram_mib: int | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    lora: tuple[tuple[str, float], ...] = ()
    mmproj: str | None = None
    draft_model: str | None = None
    chat_template: str | None = None
    reasoning: Literal["on", "off", "auto"] | None = None
    pooling: str | None = None

    def over(self, defaults: LoadOptions) -> LoadOptions:
        """These values where set, else those of ``defaults``."""
        return LoadOptions(
            **{
                f.name: mine if (mine := getattr(self, f.name)) not in (None, ()) else getattr(defaults, f.name)
                for f in fields(self)
            }
        )


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything an engine needs to start. ``gpu_layers`` None: as many as the engine finds room for."""

    engine: str
    model_path: str
    model_name: str
    task: Task
    ctx_size: int
    num_slots: int
    batch_size: int
    ubatch_size: int
    threads: int | None
    threads_batch: int | None
    cache_type_k: CacheType
    cache_type_v: CacheType
    flash_attn: Literal["on", "off", "auto"]
    gpu_layers: int | None
    prompt_cache_bytes: int
    mmap: bool = True
    mlock: bool = False
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    lora: tuple[tuple[str, float], ...] = ()
    mmproj_path: str | None = None
    draft_model_path: str | None = None
    chat_template: str | None = None
    reasoning: Literal["on", "off", "auto"] = "auto"
    pooling: str | None = None


@dataclass(frozen=True, slots=True)
class MemoryLine:
    """One item of the memory bill: ``what`` it is, where (``cpu``, ``gpu0``) and how much."""

    what: str
    device: str
    num_bytes: int


Verdict = Literal["runs", "tight", "does_not_fit", "unsupported"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model will run here. ``spec`` is what the pool starts; ``reasons`` are English templates with values."""

    verdict: Verdict
    spec: EngineSpec | None
    memory: tuple[MemoryLine, ...]
    available_bytes: int | None
    reasons: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    @property
    def total_bytes(self) -> int:
        """Sum of the memory bill over all devices."""
        return sum(line.num_bytes for line in self.memory)


@dataclass(frozen=True, slots=True)
class Resident:
    """A running model, as ``ps`` shows it. ``expires_at`` None: stays until it is stopped or must make room."""

    name: str
    engine: str
    task: Task
    state: str
    pid: int | None
    ctx_size: int
    num_slots: int
    num_leases: int
    planned_bytes: int
    measured_bytes: int | None
    expires_at: datetime | None

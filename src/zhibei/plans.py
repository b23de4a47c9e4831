"""What a machine is, what an engine can do, and how a model will run. Values only; no I/O.

Sizes are bytes, times seconds, lengths tokens. None means "not known", never a made-up number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from zhibei.options import CacheType

Ability = Literal["chat", "complete", "embed", "rerank", "tokenize", "tools", "vision", "reasoning", "logprobs", "grammar"]
Task = Literal["generate", "embed", "rerank"]


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

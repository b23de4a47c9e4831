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
    """A graphics processor. ``total_bytes`` is its own memory, not the system's.

    ``shared_bytes``: system memory that it may use as if its own, where it is ``is_integrated``. ``architecture`` as
    compilers name it: ``sm_89``, ``gfx1100``, ``metal3``. ``cuda_version``: the highest that its driver runs.
    """

    name: str
    vendor: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    shared_bytes: int | None = None
    is_integrated: bool | None = None
    bandwidth_bytes_per_s: int | None = None
    architecture: str | None = None
    num_cores: int | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    has_display: bool | None = None
    is_partitioned: bool | None = None
    pci_address: str | None = None
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    """This machine, as far as it is known. ``available_bytes`` is what a new program could take now.

    Sizes and counts respect the limits of this process's control group, which ``memory_limit_bytes`` and
    ``cpu_limit`` tell. Performance cores are those of the fastest kind, efficiency cores all others; None: one kind.
    Caches are those of the whole machine. ``backends``: what its drivers let an engine use beside the processor.
    """

    cpu_name: str | None
    num_physical_cores: int | None
    num_logical_cores: int | None
    total_bytes: int | None
    available_bytes: int | None
    gpus: tuple[Gpu, ...] = ()
    cpu_features: tuple[str, ...] = ()
    cpu_vendor: str | None = None
    num_performance_cores: int | None = None
    num_efficiency_cores: int | None = None
    l1d_bytes: int | None = None
    l2_bytes: int | None = None
    l3_bytes: int | None = None
    num_numa_nodes: int | None = None
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None
    memory_limit_bytes: int | None = None
    cpu_limit: int | None = None
    memory_kind: str | None = None
    memory_transfers_per_s: int | None = None
    num_memory_modules: int | None = None
    bandwidth_bytes_per_s: int | None = None
    system: str | None = None
    system_version: str | None = None
    container: str | None = None
    virtual_machine: str | None = None
    npus: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()


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

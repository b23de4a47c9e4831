"""What a machine is, what an engine can do, and how a model will run. Values only; no I/O.

Sizes are bytes, times seconds, lengths tokens. None means "not known", never a made-up number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from zhibei.options import CacheType, Speculation

Ability = Literal[
    "chat", "complete", "infill", "embed", "rerank", "tokenize", "tools", "vision", "reasoning", "logprobs", "grammar"
]
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
class Kernels:
    """Our own way to compute an engine's products. ``level``: instruction set used here; None: not usable, ``problem`` says why.

    ``types``: of weights that they take over; ``attention``: whether they compute it as well.
    """

    version: str | None
    level: str | None
    types: tuple[str, ...] = ()
    attention: bool = False
    problem: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine can do, known without starting it. ``kernels`` None: it knows none."""

    name: str
    installed: bool
    version: str | None = None
    formats: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    problem: str | None = None
    hint: str | None = None
    kernels: Kernels | None = None


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything an engine needs to start. ``gpu_layers`` None: as many as the engine finds room for.

    ``tensor_split``: shares of the graphics processors. ``n_cpu_moe``: of the first so many layers the experts stay in main
    memory. ``kv_offload``: caches lie with their layers. ``n_ctx_checkpoints``: points of return that each slot keeps.
    ``kernels``: our own compute where they can.
    """

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
    n_cpu_moe: int = 0
    kv_offload: bool = True
    n_ctx_checkpoints: int | None = None
    speculation: Speculation = "auto"
    kernels: bool = True


@dataclass(frozen=True, slots=True)
class MemoryLine:
    """One item of the memory bill: ``what`` it is, where (``cpu``, ``gpu0``) and how much."""

    what: str
    device: str
    num_bytes: int


Verdict = Literal["runs_well", "runs", "runs_slowly", "does_not_fit", "unsupported"]
VERDICTS: tuple[Verdict, ...] = ("unsupported", "does_not_fit", "runs_slowly", "runs", "runs_well")
"""From worst to best."""
Reason = tuple[str, Mapping[str, Any]]
"""An English template and its values."""
OPTIONAL_LINES = ("prompt cache", "checkpoints")
"""What grows as it is used, up to a limit that the plan sets; nothing fails where there is less."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second to expect, each with a low and a high end; None: not known.

    ``limited_by``: what generation waits for: ``memory``, ``compute``, ``link`` (to a device) or whatever else slows it.
    """

    prompt_tokens_per_s: float | None = None
    prompt_low: float | None = None
    prompt_high: float | None = None
    generation_tokens_per_s: float | None = None
    generation_low: float | None = None
    generation_high: float | None = None
    limited_by: str | None = None
    is_calibrated: bool = False


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """What one device does for a model. ``device``: ``cpu`` or ``gpu0``; ``available_bytes`` None: not known.

    ``num_layers``: layers that lie there, the output apart. A device that shares the system's memory (``is_shared``) takes
    its bytes from that of ``cpu``.
    """

    device: str
    name: str | None
    num_bytes: int
    available_bytes: int | None
    num_layers: int = 0
    has_output: bool = False
    is_shared: bool = False


ChangeKind = Literal[
    "quantisation", "context", "cache_type", "slots", "gpu_layers", "main_memory", "gpu_memory", "engine", "model"
]


@dataclass(frozen=True, slots=True)
class Change:
    """What would make a plan another one: an English template with values, and what would come of it.

    ``verdict``, ``ctx_size`` and ``num_bytes`` (needed in all) are those of the plan after the change; None: not known.
    """

    kind: ChangeKind
    message: str
    values: Mapping[str, Any]
    verdict: Verdict | None = None
    ctx_size: int | None = None
    num_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Guide:
    """What the guides' rules of thumb say: memory is the file's size and 2 GB; layers go to the card by its share of that size.

    ``gpu_layers`` None: there is no card, or the number of layers is not known.
    """

    needed_bytes: int
    gpu_layers: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model will run here. ``spec`` is what the pool starts; None for "does_not_fit" and "unsupported".

    ``available_bytes``: main memory. ``devices``: the processor's side first. ``num_layers``: of the model. ``reasons``: why
    it came out so. ``changes``: what would make it better, the nearest first.
    """

    verdict: Verdict
    spec: EngineSpec | None
    memory: tuple[MemoryLine, ...]
    available_bytes: int | None
    reasons: tuple[Reason, ...] = ()
    devices: tuple[DeviceUse, ...] = ()
    num_layers: int | None = None
    ctx_size: int | None = None
    num_slots: int | None = None
    speed: Speed | None = None
    changes: tuple[Change, ...] = ()
    guide: Guide | None = None

    @property
    def total_bytes(self) -> int:
        """Sum of the memory bill over all devices."""
        return sum(line.num_bytes for line in self.memory)

    @property
    def needed_bytes(self) -> int:
        """The same without what is only taken while there is room: prompts and points of return that are kept."""
        return sum(line.num_bytes for line in self.memory if line.what not in OPTIONAL_LINES)

    @property
    def needed_main_bytes(self) -> int:
        """``needed_bytes`` of main memory: the processor's side, and devices that share its memory."""
        shared = {use.device for use in self.devices if use.is_shared} | {"cpu"}
        return sum(line.num_bytes for line in self.memory if line.what not in OPTIONAL_LINES and line.device in shared)

    @property
    def is_runnable(self) -> bool:
        """Whether there is something to start."""
        return self.spec is not None


@dataclass(frozen=True, slots=True)
class Resident:
    """A running model, as ``ps`` shows it. ``expires_at`` None: stays until it is stopped or must make room.

    ``num_waiting``: requests that wait for it; ``num_requests``: served so far, and with what counts of tokens.
    ``device_problem``: why it is computed without the graphics processor that it was meant for. ``kernels``: those of ours
    that compute it, or why they do not although they are there.
    """

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
    predicted_tokens_per_s: float | None = None
    measured_tokens_per_s: float | None = None
    pinned: bool = False
    aliases: tuple[str, ...] = ()
    num_waiting: int = 0
    load_s: float | None = None
    num_requests: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_cached_tokens: int = 0
    num_crashes: int = 0
    gpu_bytes: int = 0
    device_problem: str | None = None
    kernels: Kernels | None = None

"""How fast a machine does each kind of work: its own measurements where there are any, else published figures and shares.

Owns the shares of a device's peak that llama.cpp reaches, each with where it is from. A figure that nobody knows is None, and
what depends on it is not predicted. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from zhibei.hardware.measured import Measured
from zhibei.planner import devices
from zhibei.planner.kernels import attention_giga_ops, giga_ops
from zhibei.planner.work import PROCESSOR, Phase, Work
from zhibei.plans import Gpu, Hardware, Kernels

# 10^9 operations/s of one core multiplying weights of a type with one column, and with many: measured with the engine's own
# product on a Zen 3 core at 2.45 GHz (AVX2), weights in its cache; with many, Q5_K and Q6_K by prompts of whole models. Other
# cores are taken to keep the proportions.
CORE_GIGA_OPS: dict[str, tuple[float, float]] = {
    "F32": (11, 30),
    "F16": (42, 33),
    "BF16": (24, 30),
    "Q8_0": (36, 52),
    "Q4_0": (51, 64),
    "Q4_1": (36, 42),
    "Q5_0": (30, 38),
    "Q5_1": (30, 38),
    "Q2_K": (53, 80),
    "Q3_K": (39, 55),
    "Q4_K": (62, 64),
    "Q5_K": (35, 59),
    "Q6_K": (40, 61),
    "IQ4_NL": (51, 60),
    "IQ4_XS": (36, 50),
    "MXFP4": (18, 25),
    "IQ3_S": (14, 35),
    "IQ3_XXS": (17, 35),
    "IQ2_S": (24, 35),
    "IQ2_XS": (24, 40),
    "IQ2_XXS": (24, 44),
    "IQ1_S": (24, 43),
    "TQ2_0": (74, 74),
}
_OTHER_GIGA_OPS = (24.0, 30.0)
# Below so many columns a product is done column by column.
_MANY_COLUMNS = 4
# The same for attention over a cache, one token and many, 16-bit elements and quantised ones: measured with 2048 tokens and heads
# of 64 to 128 elements. One token half of what was measured: caches of whole models come from memory, in rows that lie apart.
_FLOAT_ATTENTION, _QUANTISED_ATTENTION = (4.0, 14.0), (3.5, 2.6)
# Of a read speed that was measured; of a peak. i9-13900K, DDR5-6400: 18.3 tokens/s of 3.75 GB are 67 % of 102 GB/s
# (https://github.com/ggml-org/llama.cpp/issues/34).
_MEASURED_SHARE, _PEAK_SHARE = 0.9, 0.7
# Starting all threads on an operation and waiting for the last, some ten times in a layer.
_LAYER_S_PER_THREAD = 4e-6
_LAYER_S = 20e-6
_CROSSING_S = 20e-6
_LINK_SHARE = 0.8
# PCIe 3.0 with 8 lanes, where the slot is not known: what passes from device to device is too little to matter.
_USUAL_LINK = 7.9e9
# Batches that are long enough for the engine to copy weights of main memory to a GPU (``op_offload``, ggml-cuda.cu).
_OFFLOADED_COLUMNS = 32


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What of a GPU's peak the engine reaches. ``one``: operations with one column, of the 16-bit peak (None: never the bound).

    ``many``, ``many_float``: products of a batch with quantised and with 16-bit weights, of the 8-bit peak where ``by_int8``.
    ``generation``, ``prompt``: how far real machines lie below and above what follows.
    """

    bandwidth: float
    layer_s: float
    one: float | None
    many: float
    many_float: float
    by_int8: bool
    generation: tuple[float, float]
    prompt: tuple[float, float]
    cache: float = 0.4


# Fitted to published runs; tests/golden/speed.json has them with their sources.
EFFICIENCIES = {
    "nvidia": Efficiency(0.85, 50e-6, None, 0.21, 0.25, True, (0.75, 1.3), (0.6, 1.45)),
    "nvidia hbm": Efficiency(0.45, 50e-6, None, 0.06, 0.18, True, (0.7, 1.5), (0.6, 1.7)),
    "apple": Efficiency(0.8, 60e-6, 0.075, 0.66, 0.75, False, (0.7, 1.2), (0.6, 1.5)),
    "amd": Efficiency(0.65, 40e-6, None, 0.3, 0.3, False, (0.6, 1.3), (0.4, 1.6)),
    "intel": Efficiency(0.5, 60e-6, None, 0.2, 0.2, False, (0.5, 1.5), (0.4, 1.8)),
}
_HBM = ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))
_FLOATS = ("F32", "F16", "BF16")
_CPU_RANGE, _MEASURED_RANGE = (0.5, 1.6), (0.7, 1.25)


@dataclass(frozen=True, slots=True)
class GpuRates:
    """A GPU's figures. None: not known."""

    name: str
    bandwidth: float | None
    flops_fp16: float | None
    ops_int8: float | None
    link: float | None
    efficiency: Efficiency | None


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine's figures, per second. ``giga_ops``: all threads' measured products of the engine, by (type, threads).

    ``kernels``: of ours that compute instead, where they can. A core that is faster than the tables' with the engine's
    products is taken to be so with theirs.
    """

    read_bytes: tuple[tuple[int, float], ...] = ()
    peak_bytes: float | None = None
    giga_ops: tuple[tuple[str, int, float], ...] = ()
    gpus: tuple[GpuRates, ...] = ()
    kernels: Kernels | None = None

    def spread(self, device: int, phase: Phase) -> tuple[float, float]:
        """How far speeds may lie below and above what is predicted for a device, where nothing was learnt yet."""
        if device != PROCESSOR and device < len(self.gpus):
            found = self.gpus[device].efficiency
            return _CPU_RANGE if found is None else found.prompt if phase == "prompt" else found.generation
        return _MEASURED_RANGE if (self.giga_ops if phase == "prompt" else self.read_bytes) else _CPU_RANGE

    def seconds(self, item: Work, num_threads: int) -> tuple[float, str] | None:
        """How long an item takes, and what is its bound; None where a figure is not known."""
        if item.device != PROCESSOR:
            return _on_gpu(self.gpus[item.device], item) if item.device < len(self.gpus) else None
        if item.what == "layers":
            return item.num_ops * (_LAYER_S + _LAYER_S_PER_THREAD * num_threads * (num_threads > 1)), "overhead"
        on_core = self._on_cores(item, num_threads)
        copied = self._copied(item)
        return min((found for found in (on_core, copied) if found is not None), default=None)

    def _on_cores(self, item: Work, num_threads: int) -> tuple[float, str] | None:
        bandwidth = self._bandwidth(num_threads)
        if bandwidth is None:
            return None
        reading = item.num_bytes / bandwidth
        computing = item.num_ops / self._ops(item, num_threads)
        alone = next((speed for count, speed in self.read_bytes if count == 1), None)
        if item.num_columns >= _MANY_COLUMNS or alone is None:
            return max((reading, "bandwidth"), (computing, "compute"))
        # With one column a core reads, then computes; only other cores' work fills the time between.
        waiting = item.num_bytes / (alone * _MEASURED_SHARE * num_threads)
        return max(reading, waiting + computing), "compute" if computing > max(waiting, reading - waiting) else "bandwidth"

    def _bandwidth(self, num_threads: int) -> float | None:
        if not self.read_bytes:
            return None if self.peak_bytes is None else self.peak_bytes * _PEAK_SHARE
        fewer = [speed for count, speed in self.read_bytes if count <= num_threads]
        return max(fewer or [speed for _, speed in self.read_bytes]) * _MEASURED_SHARE

    def _ops(self, item: Work, num_threads: int) -> float:
        many = item.num_columns >= _MANY_COLUMNS
        if item.what == "cache":
            ours = attention_giga_ops(self.kernels, item.family) if self.kernels is not None else None
            table = (ours or (_FLOAT_ATTENTION if item.family.upper() in _FLOATS else _QUANTISED_ATTENTION))[many]
            return table * 1e9 * num_threads * self._factor(many, num_threads)
        mine = giga_ops(self.kernels, item.family) if self.kernels is not None else None
        table = (mine or CORE_GIGA_OPS.get(item.family, _OTHER_GIGA_OPS))[many]
        return table * 1e9 * num_threads * self._factor(many, num_threads, item.family)

    def _factor(self, many: bool, num_threads: int, family: str = "Q8_0") -> float:
        """How much faster a core here is than the table's, by the measured type that is nearest; with one column, more mildly."""
        known = {kind: self._core_ops(kind, num_threads) for kind, _, _ in self.giga_ops}
        if not known:
            return 1.0
        nearest = family if family in known else "F16" if family in _FLOATS else "Q4_0" if "4" in family else "Q8_0"
        kind = nearest if nearest in known else next(iter(known))
        factor = known[kind] / CORE_GIGA_OPS.get(kind, _OTHER_GIGA_OPS)[1]
        return factor if many else factor**0.5

    def _core_ops(self, kind: str, num_threads: int) -> float:
        """Of one core, while as many work as do here, or as were measured."""
        rows = sorted((count, ops / count) for name, count, ops in self.giga_ops if name == kind)
        return next((ops for count, ops in reversed(rows) if count <= num_threads), rows[0][1])

    def _copied(self, item: Work) -> tuple[float, str] | None:
        """A batch's product with weights of main memory, when the engine copies them to the first GPU and does it there."""
        if item.what not in ("weights", "experts") or item.num_columns < _OFFLOADED_COLUMNS or not self.gpus:
            return None
        gpu = self.gpus[0]
        there = _on_gpu(gpu, item)
        if gpu.link is None or there is None:
            return None
        return item.num_bytes / (gpu.link * _LINK_SHARE) + there[0], "transfer"


def machine_of(hardware: Hardware, measured: Measured | None = None, kernels: Kernels | None = None) -> Machine:
    """The figures of a machine, of which those that were measured count first; ``kernels``: that compute (``kernels.usable``)."""
    read = tuple((speed.num_threads, float(speed.bytes_per_s)) for speed in measured.read) if measured else ()
    matrix = tuple((speed.kind, speed.num_threads, speed.ops_per_s / 1e9) for speed in measured.matrix) if measured else ()
    peak = hardware.bandwidth_bytes_per_s
    gpus = tuple(map(gpu_rates, usable_gpus(hardware)))
    return Machine(read, None if peak is None else float(peak), matrix, gpus, kernels)


def usable_gpus(hardware: Hardware) -> tuple[Gpu, ...]:
    """GPUs that an engine can use: one with a driver for computing, and memory that is known."""
    if not hardware.backends:
        return ()
    return tuple(gpu for gpu in hardware.gpus if gpu.total_bytes or gpu.shared_bytes)


def gpu_rates(gpu: Gpu) -> GpuRates:
    """What is known of a GPU's speed, by itself or from the table of devices."""
    known = devices.recognise(gpu.name, gpu.total_bytes or gpu.shared_bytes)
    vendor = (known.vendor if known else gpu.vendor).lower()
    capability = known.compute_capability if known else None
    kind = "nvidia hbm" if vendor == "nvidia" and capability in _HBM else vendor
    bandwidth = gpu.bandwidth_bytes_per_s or (known.bandwidth_bytes_per_s if known else None)
    link = None
    if known is not None and known.pcie is not None:
        link = float(devices.tables().lane_bytes_per_s[known.pcie[0]] * known.pcie[1])
    return GpuRates(
        gpu.name,
        None if bandwidth is None else float(bandwidth),
        known.flops_fp16 if known else None,
        known.ops_int8 if known else None,
        link,
        EFFICIENCIES.get(kind),
    )


def _on_gpu(gpu: GpuRates, item: Work) -> tuple[float, str] | None:
    share = gpu.efficiency
    if share is None:
        return None
    if item.what == "layers":
        return item.num_ops * share.layer_s, "overhead"
    if item.what == "transfer":
        return item.num_bytes / ((gpu.link or _USUAL_LINK) * _LINK_SHARE) + item.num_ops * _CROSSING_S, "transfer"
    if gpu.bandwidth is None:
        return None
    reading = item.num_bytes / (gpu.bandwidth * (share.cache if item.what == "cache" else share.bandwidth))
    computing = _computing(gpu, share, item)
    return None if computing is None else max((reading, "bandwidth"), (computing, "compute"))


def _computing(gpu: GpuRates, share: Efficiency, item: Work) -> float | None:
    if item.num_columns < _MANY_COLUMNS:
        bound = gpu.flops_fp16 * share.one if gpu.flops_fp16 and share.one and item.family not in _FLOATS else None
        return item.num_ops / bound if bound else 0.0
    is_float = item.family in _FLOATS or item.what == "cache"
    part = share.many_float if is_float else share.many
    peak = gpu.ops_int8 if share.by_int8 else gpu.flops_fp16
    return item.num_ops / (peak * part) if peak else None


def device_name(machine: Machine, device: int) -> str:
    """What a device is called among what was learnt: a GPU by its name, for it may sit in another slot tomorrow."""
    return "cpu" if device == PROCESSOR or device >= len(machine.gpus) else machine.gpus[device].name

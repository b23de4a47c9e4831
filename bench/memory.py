"""Predicted memory against what the engine really allocates: shapes × contexts × types of the cache, on the CPU.

    python bench/memory.py                      thirteen small shapes, a few minutes
    python bench/memory.py --full               all, up to 8 GB
    python bench/memory.py --no-kernels         with the engine's own products, though zhibei-kernels are installed
    python bench/memory.py --write-docs         also writes docs/concepts/memory-table.md
    python bench/memory.py --survey --json FILE many more settings, no generation: what formulas are fitted to

Each model is made with random weights in a temporary directory, planned and started as Zhibei does, and deleted. The
engine's own report is read from its log; resident memory (USS) from the system, before and after the first generation
with a full micro-batch. Ends with 1 if weights or KV cache are off by more than 3 %, or the total by more than 8 %.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import psutil

from zhibei.chat import CompletionRequest, EmbeddingRequest
from zhibei.engines.llama_cpp import order
from zhibei.engines.llama_cpp.backend import LlamaCppBackend
from zhibei.engines.llama_cpp.engine import LlamaCppEngine
from zhibei.engines.process import EngineProcess
from zhibei.formats.inspect import inspect_path
from zhibei.hardware.detect import detect
from zhibei.models import ModelInfo, StoredFile, StoredModel
from zhibei.options import CacheType, Limits, LoadOptions, Sampling
from zhibei.planner.kernels import usable
from zhibei.planner.memory import bill_of
from zhibei.planner.plan import plan
from zhibei.planner.repacking import repacked_types
from zhibei.plans import EngineSpec, Hardware, Kernels, Plan, Task
from zhibei.workshop.named_shapes import LARGE, SMALL, named_shape
from zhibei.workshop.random_models import ENCODERS, write_model
from zhibei.workshop.shapes import Shape

TABLE = Path(__file__).parents[1] / "docs" / "concepts" / "memory-table.md"
# The plan's machine: what is planned must not depend on who else uses this one. Two cores; the models fit.
MACHINE = Hardware("any", 2, 2, 24 << 30, 22 << 30, cpu_features=detect().cpu_features)
CACHE_TYPES: tuple[CacheType, ...] = ("f16", "q8_0", "q4_0")
CONTEXTS = (1024, 4096, 16384)
# One of each kind: every head its own keys, grouped, one for all, windows, experts, latent, recurrent, hybrids, an encoder.
QUICK = """
mha gqa mqa gemma3 phi3 gpt-oss mixtral qwen3moe deepseek2 mamba2 granite-hybrid qwen3next bert
""".split()
TOLERANCE = {"weights": 0.03, "kv cache": 0.03, "recurrent state": 0.03, "total": 0.08}
# Smaller ones are reported with too few digits to be compared.
LEAST_BYTES = 1 << 20
TOTAL = "total"
RESIDENT = "resident"
_BUFFER = re.compile(r"(\S+)\s+(model|output|KV|RS|compute) buffer size\s*=\s*([0-9.]+) MiB")
_CACHE = re.compile(r"llama_kv_cache: size = .*?\(\s*(\d+) cells,\s*(\d+) layers,\s*(\d+)/(\d+) seqs\)")
_ITEMS = {"model": "weights", "KV": "kv cache", "RS": "recurrent state", "compute": "compute", "output": "output"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a shape is started."""

    ctx_size: int
    cache_type: CacheType = "f16"
    num_slots: int = 1
    ubatch_size: int | None = None
    flash_attn: str = "auto"
    generates: bool = True
    mmap: bool | None = None
    kernels: bool | None = None


@dataclass(slots=True)
class Case:
    """One start of the engine: what was predicted, and what was found. All sizes in bytes."""

    shape: Shape
    settings: Settings
    info: ModelInfo
    spec: EngineSpec
    predicted: dict[str, int]
    reported: dict[str, int] = field(default_factory=dict)
    caches: list[dict[str, int]] = field(default_factory=list)
    uss_before_bytes: int = 0
    uss_after_bytes: int | None = None
    kernels: Kernels | None = None
    """Those of ours that the engine said it computes with."""
    problem: str | None = None

    def items(self) -> Iterator[tuple[str, int, int]]:
        """(item, predicted, found) for each item of the bill, their sum and, after an answer, the process as a whole."""
        found = dict.fromkeys(_ITEMS.values(), 0)
        for kind, num_bytes in self.reported.items():
            found[_ITEMS[kind.split("/")[-1]]] += num_bytes
        predicted = {item: self.predicted.get(item, 0) for item in found}
        # The engine lists what it rewrote for the processor among its model buffers.
        predicted["weights"] += self.predicted.get("repacked", 0)
        for item in found:
            yield item, predicted[item], found[item]
        yield TOTAL, sum(predicted.values()), sum(found.values())
        if self.uss_after_bytes is not None:
            apart = self.predicted["process"] + self.predicted.get("work", 0)
            yield RESIDENT, sum(predicted.values()) + apart, self.uss_after_bytes

    def failures(self) -> list[str]:
        """What is further off than it may be."""
        if self.problem is not None:
            return [self.problem]
        return [
            f"{item} {error(predicted, found):+.1%}"
            for item, predicted, found in self.items()
            if item in TOLERANCE and max(predicted, found) >= LEAST_BYTES and abs(error(predicted, found)) > TOLERANCE[item]
        ]


def error(predicted: int, found: int) -> float:
    return (predicted - found) / found if found else float(predicted > 0)


def planned(shape: Shape, path: Path, info: ModelInfo, settings: Settings) -> Plan:
    """The plan Zhibei makes."""
    stored = StoredModel(
        shape.name, (StoredFile("model", path, path.stat().st_size),), info, "random", datetime.now(timezone.utc)
    )
    wishes = LoadOptions(
        ctx_size=settings.ctx_size,
        parallel=settings.num_slots,
        batch_size=settings.ubatch_size,
        ubatch_size=settings.ubatch_size,
        cache_type_k=settings.cache_type,
        cache_type_v=settings.cache_type,
        flash_attn=settings.flash_attn,  # type: ignore[arg-type]
        cache_ram_mib=0,
        mmap=settings.mmap,
        kernels=settings.kernels,
    )
    task: Task = "embed" if shape.architecture in ENCODERS else "generate"
    return plan(stored, MACHINE, "llama.cpp", task, wishes, kernels=expected_kernels())


def expected_kernels() -> Kernels | None:
    """Those that the engine says it has."""
    return LlamaCppBackend().probe().kernels


def predict(info: ModelInfo, spec: EngineSpec) -> dict[str, int]:
    """The bill, by what is paid for."""
    kernels = usable(expected_kernels(), (), is_wished=spec.kernels)
    lines = bill_of(
        info,
        ctx_size=spec.ctx_size,
        num_slots=spec.num_slots,
        ubatch_size=spec.ubatch_size,
        cache_type_k=spec.cache_type_k,
        cache_type_v=spec.cache_type_v,
        flash_attn=spec.flash_attn != "off",
        is_embedding=spec.task == "embed",
        repacked=repacked_types(MACHINE.cpu_features),
        taken=kernels.types if kernels is not None else (),
        is_mapped=spec.mmap,
    )
    predicted: dict[str, int] = {}
    for line in lines:
        predicted[line.what] = predicted.get(line.what, 0) + line.num_bytes
    return predicted


async def measure(shape: Shape, path: Path, settings: Settings) -> Case:
    """Start the engine once, and read what it took."""
    info = inspect_path(path)
    made = planned(shape, path, info, settings)
    assert made.spec is not None, made.reasons
    case = Case(shape, settings, info, made.spec, predict(info, made.spec))
    lines: list[str] = []
    engine = LlamaCppEngine(made.spec, lines.append)
    worker = [sys.executable, str(Path(__file__).with_name("verbose_worker.py").resolve())]
    spec = made.spec
    engine._process = EngineProcess(shape.name, worker, lambda key: order.encode(order.Order(spec, key)), lines.append)
    try:
        await engine.ready()
        case.kernels = engine.status().kernels
        case.uss_before_bytes = resident_bytes(engine)
        if settings.generates:
            await generate(engine, spec)
            case.uss_after_bytes = resident_bytes(engine)
    except Exception as problem:  # noqa: BLE001  one that fails must not stop the others
        case.problem = f"{problem} {' | '.join(line for line in lines if ' E ' in line)}"
    finally:
        await engine.close()
    case.reported, case.caches = read_report(lines)
    return case


def resident_bytes(engine: LlamaCppEngine) -> int:
    pid = engine.status().pid
    assert pid is not None
    return int(psutil.Process(pid).memory_full_info().uss)


async def generate(engine: LlamaCppEngine, spec: EngineSpec) -> None:
    """One prompt of a full micro-batch (or as much as a slot holds), and a few tokens."""
    length = min(spec.ubatch_size, spec.ctx_size - 16)
    if spec.task == "embed":
        await engine.embed(EmbeddingRequest((tuple(5 + n % 64 for n in range(length - 2)),)))
        return
    tokens = tuple(3 + n % 256 for n in range(length))
    request = CompletionRequest(tokens, Sampling(temperature=0.0), Limits(4, ignore_eos=True))
    async for _event in engine.complete(request):
        pass


def read_report(lines: Iterable[str]) -> tuple[dict[str, int], list[dict[str, int]]]:
    """Bytes of each ``device/kind`` the engine reports, and the cells, layers and streams of its caches."""
    reported: dict[str, int] = {}
    caches = []
    for line in lines:
        if found := _BUFFER.search(line):
            device, kind, mebibytes = found.groups()
            num_bytes = int(float(mebibytes) * 2**20)
            key = f"{device}/{kind}"
            # The graph may be reserved more than once; the last one stands.
            reported[key] = num_bytes if kind in ("compute", "output") else reported.get(key, 0) + num_bytes
        elif found := _CACHE.search(line):
            caches.append(dict(zip(("cells", "layers", "sequences", "streams"), map(int, found.groups()), strict=True)))
    return reported, caches


def contexts(shape: Shape) -> tuple[int, ...]:
    """Three contexts the shape can be started with."""
    if shape.architecture in ENCODERS:
        return tuple(shape.context_length // part for part in (4, 2, 1))
    return CONTEXTS


def proof(shape: Shape) -> Iterator[Settings]:
    """Three contexts × three types of the cache; one generation a context."""
    for number, (ctx_size, cache_type) in enumerate(itertools.product(contexts(shape), CACHE_TYPES)):
        yield Settings(ctx_size, cache_type, generates=number % 4 == 0)


def survey(shape: Shape) -> Iterator[Settings]:
    """Many more: slots, micro-batches, flash attention."""
    for ctx_size in contexts(shape):
        for num_slots, ubatch_size in ((1, 64), (1, 512), (4, 256)):
            yield Settings(ctx_size, "f16", num_slots, ubatch_size, generates=False)
        yield Settings(ctx_size, "f16", 1, 256, "off", generates=False)
        yield Settings(ctx_size, "q8_0", 1, 256, generates=False)
        yield Settings(ctx_size, "q4_0", 4, 256, generates=False)
    yield Settings(contexts(shape)[1], "f16", 4, 512, "off", generates=False)


def run(shapes: Sequence[Shape], settings_of: Callable[[Shape], Iterator[Settings]], keep: list[Case], save: Path | None) -> None:
    for shape in shapes:
        with tempfile.TemporaryDirectory(prefix="zhibei-memory-") as directory:
            path = Path(directory) / "model.gguf"
            write_model(shape, path)
            for settings in settings_of(shape):
                case = asyncio.run(measure(shape, path, settings))
                keep.append(case)
                show(case)
        if save is not None:
            save.write_text(json.dumps([asdict(case) for case in keep], indent=1, default=str), encoding="utf-8")


def show(case: Case) -> None:
    told = "  ".join(
        f"{item} {mib(predicted)}/{mib(found)} {error(predicted, found):+.1%}" for item, predicted, found in case.items() if found
    )
    settings = case.settings
    uss = f"uss {mib(case.uss_before_bytes)} {mib(case.uss_after_bytes or 0)}"
    failures = "".join(f"  <- {failure}" for failure in case.failures())
    level = case.kernels.level if case.kernels is not None else None
    print(
        f"{case.shape.name:18} {level or 'ggml':12} {settings.ctx_size:6} {settings.cache_type:5} {told}  {uss}{failures}",
        flush=True,
    )


def mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f}"


HEADER = """# Memory: predicted and measured

Each cell is *predicted / measured*, in MiB. Predicted is the planner's bill, made from the file's header alone; measured is
what llama.cpp reports that it has allocated. Resident is the total and the process itself, against what the system counts
for the engine's process alone after a first answer to a prompt of a full micro-batch, where one was asked for; scratch space
that no prompt has needed yet is missing there. Each model has random weights and the shape that is named; the engine runs on
the processor with one slot. Regenerate this page with

    python bench/memory.py {options}--write-docs

"""
COLUMNS = ("shape", "architecture", "context", "cache", "weights", "KV cache", "state", "compute", "total", "off by", "resident")


def write_table(cases: Sequence[Case], options: str) -> None:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * 4}{'---:|' * (len(COLUMNS) - 4)}"]
    for case in cases:
        items = {item: (predicted, found) for item, predicted, found in case.items()}
        items["compute"] = (items["compute"][0] + items["output"][0], items["compute"][1] + items["output"][1])
        sizes = [pair(*items[item]) for item in ("weights", "kv cache", "recurrent state", "compute", "total")]
        first = (case.shape.name, case.shape.architecture, str(case.settings.ctx_size), case.settings.cache_type)
        lines.append(f"| {' | '.join((*first, *sizes, f'{error(*items[TOTAL]):+.1%}', pair(*items.get(RESIDENT, (0, 0)))))} |")
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(HEADER.replace("{options}", options) + "\n".join(lines) + "\n" + summary(cases), encoding="utf-8")


def pair(predicted: int, found: int) -> str:
    return f"{mib(predicted)} / {mib(found)}" if predicted or found else ""


def summary(cases: Sequence[Case]) -> str:
    """The largest error of each item that is big enough to be compared."""
    lines = ["", "## Largest errors", ""]
    for item in (*dict.fromkeys(_ITEMS.values()), TOTAL, RESIDENT):
        errors = [
            (abs(error(predicted, found)), case)
            for case in cases
            for name, predicted, found in case.items()
            if name == item and max(predicted, found) >= LEAST_BYTES
        ]
        if errors:
            off, worst = max(errors, key=lambda pair: pair[0])
            allowed = f", {TOLERANCE[item]:.0%} allowed" if item in TOLERANCE else ""
            where = f"{worst.shape.name}, {worst.settings.ctx_size} tokens, {worst.settings.cache_type}"
            lines.append(f"- {item}: {off:.1%} of {len(errors)} cases ({where}){allowed}")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all named shapes")
    parser.add_argument("--survey", action="store_true")
    parser.add_argument("--mmap", choices=("plan", "on", "off"), default="plan", help="weights mapped, or read")
    parser.add_argument("--no-kernels", action="store_true", help="the engine's own products")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--shape", action="append", default=[], help="only these")
    args = parser.parse_args()
    everything = args.full or args.survey
    names = args.shape or ([shape.name for shape in (*SMALL, *(LARGE if args.full else ()))] if everything else QUICK)
    shapes = [named_shape(name) for name in names]
    cases: list[Case] = []
    start_s = time.monotonic()
    mmap = {"plan": None, "on": True, "off": False}[args.mmap]
    of = survey if args.survey else proof
    kernels = False if args.no_kernels else None
    run(shapes, lambda shape: (replace(settings, mmap=mmap, kernels=kernels) for settings in of(shape)), cases, args.json)
    if args.write_docs:
        options = "--full " * args.full + f"--mmap {args.mmap} " * (mmap is not None) + "--no-kernels " * args.no_kernels
        write_table(cases, options)
    print(summary(cases))
    failed = [case for case in cases if case.failures()]
    print(f"{len(cases)} cases in {time.monotonic() - start_s:.0f} s, {len(failed)} off by more than they may be")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())

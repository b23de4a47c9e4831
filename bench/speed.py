"""Predicted speed against measured speed: random-weight models of several kinds, on this machine's processor.

    python bench/speed.py                       four small models, two rounds, under three minutes
    python bench/speed.py --full                all ten, three rounds
    python bench/speed.py --deep                three small ones with nothing and with 4096 tokens before
    python bench/speed.py --no-kernels          with the engine's own products, though zhibei-kernels are installed
    python bench/speed.py --read FILE           no measurement: the tables for what --json FILE wrote before

Every model runs in Zhibei's own engine, all of them loaded at once; a round visits each in turn, so that a slow minute of
the machine meets all. A visit reads 512 tokens of prompt and generates 128, and the memory's speed is measured before and
after it: visits where it was below half of the usual are left out. What is compared is the median of the others.

Then speeds are predicted: by the machine's own measurements alone; calibrated with two models, for the rest; and each
model by all others. Run it with `nice -n -10` where that is allowed, and look at the spread that is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from zhibei.chat import CompletionRequest
from zhibei.engines.llama_cpp.backend import LlamaCppBackend
from zhibei.engines.llama_cpp.engine import LlamaCppEngine
from zhibei.events import Finished, Timings
from zhibei.formats.inspect import inspect_path
from zhibei.hardware import bandwidth
from zhibei.hardware.detect import detect
from zhibei.hardware.measured import parse
from zhibei.models import ModelInfo, StoredFile, StoredModel
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.planner.calibration import Calibration, Sample, fit
from zhibei.planner.plan import plan
from zhibei.planner.rates import Machine, machine_of
from zhibei.planner.speed import Way, predict, sample_of
from zhibei.planner.work import generation_work, prompt_work
from zhibei.plans import Hardware, Kernels
from zhibei.workshop.random_models import write_model
from zhibei.workshop.shapes import Experts, Shape

PROMPT, GENERATED, DEPTH = 512, 128, 4096
FILLED = DEPTH - PROMPT
FIRST = 16
VOCABULARY = 32000
USUAL_SHARE = 0.5

MODELS = (
    Shape("q4_0", "llama", 12, 1536, 4096, 16, 4, 96, vocabulary_size=VOCABULARY, weight_type="Q4_0"),
    Shape("q4_k_m", "llama", 8, 2048, 5632, 32, 8, 64, vocabulary_size=VOCABULARY, weight_type="Q4_K", embedding_type="Q6_K"),
    Shape("q8_0", "llama", 16, 1024, 2816, 16, 16, 64, vocabulary_size=VOCABULARY, weight_type="Q8_0"),
    Shape(
        "moe-q4_k", "qwen3moe", 10, 1024, 3072, 16, 4, 64, vocabulary_size=VOCABULARY, weight_type="Q4_K",
        experts=Experts(32, 8, 512),
    ),
    Shape("f16", "llama", 10, 1024, 3072, 16, 8, 64, vocabulary_size=VOCABULARY, weight_type="F16"),
    Shape("q6_k", "llama", 24, 1024, 2816, 16, 4, 64, vocabulary_size=VOCABULARY, weight_type="Q6_K"),
    Shape(
        "moe-q8_0", "llama", 6, 1024, 2816, 16, 4, 64, vocabulary_size=VOCABULARY, weight_type="Q8_0",
        experts=Experts(8, 2, 2816),
    ),
    Shape("q4_0-wide", "llama", 16, 2048, 5632, 32, 8, 64, vocabulary_size=VOCABULARY, weight_type="Q4_0"),
    Shape("q5_k-thin", "llama", 32, 768, 2048, 12, 4, 64, vocabulary_size=VOCABULARY, weight_type="Q5_K"),
    Shape("q8_0-1b", "llama", 20, 2048, 5632, 32, 8, 64, vocabulary_size=VOCABULARY, weight_type="Q8_0"),
)  # fmt: skip
QUICK = ("q4_0", "q4_k_m", "q8_0", "moe-q4_k")
DEEP = ("q4_0", "moe-q4_k", "f16")
CALIBRATING = ("q4_0", "q8_0")


@dataclass(frozen=True, slots=True)
class Visit:
    """One measurement of one model: seconds for each part, and the memory's speed around it (bytes/s)."""

    model: str
    round: int
    depth: int
    prompt_s: float
    num_prompt: int
    generation_s: float
    num_generated: int
    generation_depth: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Cell:
    """A model at a depth: tokens/s of the median visit, and the spread of all that counted (slowest over fastest)."""

    model: str
    depth: int
    generation_depth: int
    prompt: float
    generation: float
    prompt_spread: float
    generation_spread: float
    num_visits: int


class Running:
    """A model in an engine of its own."""

    def __init__(self, shape: Shape, path: Path, hardware: Hardware, options: LoadOptions) -> None:
        stored = StoredModel(
            shape.name,
            (StoredFile("model", path, path.stat().st_size),),
            inspect_path(path),
            "random",
            datetime.now(timezone.utc),
        )
        wishes = options.over(LoadOptions(ctx_size=DEPTH + 1024, parallel=2, cache_ram_mib=0, batch_size=PROMPT))
        made = plan(stored, hardware, "llama.cpp", "generate", wishes, kernels=LlamaCppBackend().probe().kernels)
        assert made.spec is not None, made.reasons
        self.name, self.threads = shape.name, made.spec.threads or 1
        self.engine = LlamaCppEngine(made.spec, lambda _line: None)
        self.kernels: Kernels | None = None
        self._random = random.Random(shape.name)
        self._filling = self._tokens(FILLED)

    async def warm_up(self) -> None:
        """Read the weights once."""
        await self.engine.ready()
        self.kernels = self.engine.status().kernels
        await self.ask(self._tokens(FIRST), FIRST)

    async def fill(self) -> None:
        """Put what stands before a deep prompt into one of the two slots, where it stays."""
        await self.ask(self._filling, 1)

    async def visit(self, number: int, depth: int) -> Visit:
        """Measure once. The engine chooses the slot whose content begins like the prompt, so both depths keep theirs."""
        before = memory_speed(self.threads)
        prompt = (self._filling if depth else ()) + self._tokens(PROMPT)
        if depth:
            read = made = await self.ask(prompt, GENERATED)
        else:
            read = await self.ask(prompt, 1)
            made = await self.ask(prompt[:FIRST], GENERATED)
        assert read.num_prompt_tokens >= PROMPT, read
        start = depth if depth else FIRST
        return Visit(
            self.name, number, depth, read.prompt_s, read.num_prompt_tokens, made.generation_s, made.num_generated_tokens,
            start, before, memory_speed(self.threads),
        )  # fmt: skip

    async def ask(self, prompt: tuple[int, ...], num_tokens: int) -> Timings:
        request = CompletionRequest(prompt, Sampling(temperature=0.0), Limits(num_tokens, ignore_eos=True))
        timings = None
        async for event in self.engine.complete(request):
            timings = event.timings if isinstance(event, Finished) else timings
        assert timings is not None
        return timings

    def _tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self._random.randrange(3, 259) for _ in range(count))


def memory_speed(num_threads: int) -> int:
    """Bytes per second now; a fifth of a second."""
    return bandwidth.read_speeds((num_threads,), 128 << 20, 0.03)[0].bytes_per_s


async def measure(
    shapes: Sequence[Shape],
    directory: Path,
    hardware: Hardware,
    options: LoadOptions,
    rounds: int,
    depths: Sequence[int],
    until: float,
) -> tuple[list[Visit], dict[str, int], Kernels | None]:
    """All rounds, or as many as begin before ``until``."""
    visits: list[Visit] = []
    async with AsyncExitStack() as stack:
        running = []
        for shape in shapes:
            model = Running(shape, directory / f"{shape.name}.gguf", hardware, options)
            stack.push_async_callback(model.engine.close)
            await model.warm_up()
            running.append(model)
        for number in range(rounds):
            for model, depth in itertools.product(running, depths):
                if time.monotonic() > until:
                    return visits, threads_of(running), running[0].kernels
                if depth and number == 0:
                    await model.fill()
                visits.append(await model.visit(number, depth))
                show(visits[-1])
        return visits, threads_of(running), running[0].kernels


def threads_of(running: Iterable[Running]) -> dict[str, int]:
    return {model.name: model.threads for model in running}


def show(visit: Visit) -> None:
    print(
        f"round {visit.round}  {visit.model:10} at {visit.depth:4}: prompt {visit.num_prompt / visit.prompt_s:7.1f}  generation "
        f"{visit.num_generated / visit.generation_s:6.1f} tokens/s  memory {visit.before / 1e9:.1f} {visit.after / 1e9:.1f} GB/s",
        flush=True,
    )


def cells(visits: Sequence[Visit]) -> Iterator[Cell]:
    """The medians of the visits that nothing disturbed much."""
    usual = statistics.median(min(visit.before, visit.after) for visit in visits)
    for (model, depth), found in group(visits):
        calm = [visit for visit in found if min(visit.before, visit.after) >= usual * USUAL_SHARE] or found
        prompts = sorted(visit.num_prompt / visit.prompt_s for visit in calm)
        generations = sorted(visit.num_generated / visit.generation_s for visit in calm)
        yield Cell(
            model, depth, calm[0].generation_depth, statistics.median(prompts), statistics.median(generations),
            prompts[0] / prompts[-1], generations[0] / generations[-1], len(calm),
        )  # fmt: skip


def group(visits: Iterable[Visit]) -> list[tuple[tuple[str, int], list[Visit]]]:
    found: dict[tuple[str, int], list[Visit]] = {}
    for visit in visits:
        found.setdefault((visit.model, visit.depth), []).append(visit)
    return list(found.items())


@dataclass(frozen=True, slots=True)
class Known:
    """What predictions are made from."""

    machine: Machine
    infos: dict[str, ModelInfo]
    threads: dict[str, int]

    def way(self, cell: Cell) -> Way:
        return Way(num_threads=self.threads[cell.model], batch_size=PROMPT)

    def samples(self, cell: Cell) -> tuple[Sample, ...]:
        info, way = self.infos[cell.model], self.way(cell)
        read = prompt_work(info, way, PROMPT, max(0, cell.depth - PROMPT))
        made = generation_work(info, way, GENERATED, cell.generation_depth)
        assert read is not None and made is not None
        found = (
            sample_of("prompt", read, self.machine, way.num_threads, PROMPT / cell.prompt),
            sample_of("generation", made, self.machine, way.num_threads, GENERATED / cell.generation),
        )
        return tuple(sample for sample in found if sample is not None)

    def errors(self, cell: Cell, calibration: Calibration | None) -> tuple[float, float]:
        """Predicted over measured, less one: prompt, generation."""
        way = replace(self.way(cell), prompt_tokens=PROMPT, generated_tokens=GENERATED)
        info = self.infos[cell.model]
        read = predict(info, self.machine, way, depth=max(0, cell.depth - PROMPT), calibration=calibration)
        made = predict(info, self.machine, way, depth=cell.generation_depth, calibration=calibration)
        assert read.prompt_tokens_per_s is not None and made.generation_tokens_per_s is not None
        return read.prompt_tokens_per_s / cell.prompt - 1, made.generation_tokens_per_s / cell.generation - 1


def report(measured: Sequence[Cell], known: Known) -> dict[str, object]:
    """Print the tables; what is printed, as values."""
    print("\nmodel        depth   prompt tok/s  spread   generation tok/s  spread  visits")
    for cell in measured:
        print(
            f"{cell.model:12} {cell.depth:5} {cell.prompt:14.1f} {cell.prompt_spread:7.0%} {cell.generation:18.1f}"
            f" {cell.generation_spread:7.0%} {cell.num_visits:7}"
        )
    by_two = fit(sample for cell in measured if cell.model in CALIBRATING for sample in known.samples(cell))
    columns = {
        "not calibrated": {cell: known.errors(cell, None) for cell in measured},
        "by two models": {cell: known.errors(cell, by_two) for cell in measured if cell.model not in CALIBRATING},
        "by all others": {cell: known.errors(cell, by_others(measured, cell, known)) for cell in measured},
    }
    columns = {name: errors for name, errors in columns.items() if errors}
    summary: dict[str, object] = {}
    for number, part in enumerate(("prompt", "generation")):
        print(f"\n{part}: predicted over measured, less one\nmodel        depth  " + "  ".join(f"{name:>15}" for name in columns))
        for cell in measured:
            told = (f"{errors[cell][number]:+15.1%}" if cell in errors else " " * 15 for errors in columns.values())
            print(f"{cell.model:12} {cell.depth:5}  " + "  ".join(told))
        medians = {name: statistics.median(abs(error[number]) for error in errors.values()) for name, errors in columns.items()}
        print(f"{'median error':18}  " + "  ".join(f"{value:15.1%}" for value in medians.values()))
        summary[part] = medians
    return summary


def parsed_kernels(kept: dict[str, Any] | None) -> Kernels | None:
    """What ``--json`` kept of them."""
    return None if kept is None else Kernels(**{**kept, "types": tuple(kept["types"])})


def by_others(measured: Sequence[Cell], cell: Cell, known: Known) -> Calibration:
    return fit(sample for other in measured if other.model != cell.model for sample in known.samples(other))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all models")
    parser.add_argument("--deep", action="store_true", help="small models, with 4096 tokens before as well")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, help="instead of all cores")
    parser.add_argument("--no-kernels", action="store_true", help="the engine's own products")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no visit after so many")
    parser.add_argument("--model", action="append", default=[], help="only these")
    parser.add_argument("--json", type=Path, help="keep what was measured")
    parser.add_argument("--read", type=Path, action="append", default=[], help="tables of what was kept, also of several runs")
    args = parser.parse_args()
    names = args.model or ([shape.name for shape in MODELS] if args.full else DEEP if args.deep else QUICK)
    shapes = [shape for shape in MODELS if shape.name in names]
    with tempfile.TemporaryDirectory(prefix="zhibei-speed-") as directory:
        place, infos = Path(directory), {}
        for shape in shapes:
            write_model(shape, place / f"{shape.name}.gguf")
            infos[shape.name] = inspect_path(place / f"{shape.name}.gguf")
        hardware = detect()
        if args.read:
            kept = [json.loads(path.read_text(encoding="utf-8")) for path in args.read]
            kernels = parsed_kernels(kept[0].get("kernels"))
            visits = [Visit(**row) for run in kept for row in run["visits"] if row["model"] in infos]
            threads = {name: count for run in kept for name, count in run["threads"].items()}
            figures = parse(kept[0]["measured"])
        else:
            figures = bandwidth.measure(hardware)
            until = time.monotonic() + args.seconds
            rounds = args.rounds or (3 if args.full else 2)
            depths = (0, DEPTH) if args.deep else (0,)
            options = LoadOptions(threads=args.threads, kernels=False if args.no_kernels else None)
            visits, threads, kernels = asyncio.run(measure(shapes, place, hardware, options, rounds, depths, until))
    known = Known(machine_of(hardware, figures, kernels), infos, threads)
    print(f"\nkernels: {kernels.level if kernels is not None and kernels.level is not None else 'the engine’s own'}")
    summary = report(list(cells(visits)), known)
    if args.json is not None:
        document = {"visits": [asdict(visit) for visit in visits], "threads": threads, "measured": figures and figures.document()}
        document["kernels"] = asdict(kernels) if kernels is not None else None
        args.json.write_text(json.dumps({**document, "median errors": summary}, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

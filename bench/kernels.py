"""What the kernels bring: one file in the stock wheel with and without them, and in other engines, turn by turn.

    python bench/kernels.py [--sizes 0.5 1.5 3 7 experts] [--types Q4_0 Q4_K_M Q5_K_M Q6_K Q8_0] [--models DIR]
                            [--prompts 128 512 2048] [--depths 0 8192] [--streams 1 4 16] [--load]
                            [--rounds 3] [--minutes 10] [--threads N] [--levels avx512-vnni avx2]
                            [--llama-server PROGRAM] [--llama-cpp-python PYTHON] [--openvino PYTHON] [--ik PYTHON]
    python bench/kernels.py --counts                where the time of these prompts and answers goes, by perf

A peer is named by its program, or by a Python that has its package; one that is not named is left out. Models are of random
weights, made into ``--models`` and kept. Each cell is measured in rounds, A B C, then C B A, after one that does not count.
The ratio is that of the kernels (of the first level) to the other, round by round: above 1, they are faster; of a load, they
are slower. Memory is read by as many threads before and after each turn; what an answer reads of weights and cache is also
told as a share of that. After ``--minutes`` no round is begun. Everything goes to a file in bench/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from kernel_counts import print_counts
from kernel_models import MIXTURES, SHAPES, Model, models
from kernel_rounds import Cell, Effort, Found, Stand, measure, measure_loads, median_and_range
from kernel_sides import ServerSide, Setting, Side, WheelSide, WorkerSide
from kernel_worker import UBATCH
from zhibei.hardware.detect import detect

RESULTS = Path(__file__).parent / "results"
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
STOCK = "stock"
_ALL_STREAMS = 16
_SPARE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Group:
    """Cells that want the same slots, so that the sides are started once for them."""

    slots: int
    cells: tuple[Cell, ...]

    def setting(self, model: Model, options: argparse.Namespace) -> Setting:
        """What the sides are started with: room for the longest cell, whose cached prompt is answered in each round."""
        longest = max((cell.length for cell in self.cells), default=0)
        answers = (options.rounds + 1) * (options.tokens + 1)
        return Setting(model.path, options.threads, self.slots, longest + answers + _SPARE_TOKENS, max(longest, UBATCH))


def groups(options: argparse.Namespace) -> list[Group]:
    """All cells of a model but its loads."""
    prompts = [Cell("prompt", length) for length in options.prompts]
    alone = [Cell("generation", depth) for depth in options.depths if 1 in options.streams]
    together = [Group(streams, (Cell("generation", 0, streams),)) for streams in options.streams if streams > 1]
    return [*([Group(1, (*prompts, *alone))] if prompts or alone else []), *together]


def sides(options: argparse.Namespace) -> list[Side]:
    """The kernels, level by level, the stock wheel, and the peers that are named."""
    library = options.library or _installed_library()
    levels = options.levels or [""]
    found: list[Side] = []
    for number, level in enumerate(levels):
        name = "kernels" if number == 0 else f"kernels {level}"
        found.append(WheelSide(name, _ALL_STREAMS, engine="xllamacpp", extra={"library": str(library), "level": level}))
    found.append(WheelSide(STOCK, _ALL_STREAMS, engine="xllamacpp", extra={"library": None, "level": ""}))
    if options.llama_server:
        found.append(ServerSide("native", _ALL_STREAMS, program=options.llama_server))
    if options.llama_cpp_python:
        found.append(WorkerSide("llama-cpp-python", engine="llama-cpp-python", python=options.llama_cpp_python))
    if options.openvino:
        found.append(WorkerSide("openvino", _ALL_STREAMS, engine="openvino", python=options.openvino))
    if options.ik:
        found.append(WorkerSide("ik", engine="ik", python=options.ik, extra={"repacks": not options.ik_plain}))
    return found


def _installed_library() -> Path:
    import zhibei_kernels

    return Path(zhibei_kernels.library_path())


def facts(options: argparse.Namespace) -> dict[str, str]:
    """The machine, and what is measured how; said before any figure."""
    hardware = detect()
    library = Path(options.library or _installed_library())
    chosen = HUGE_PAGES.read_text().strip() if HUGE_PAGES.exists() else "unknown"
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": f"{hardware.cpu_name}, {hardware.num_physical_cores} cores: {' '.join(hardware.cpu_features)}",
        "memory": f"{(hardware.total_bytes or 0) / 1e9:.0f} GB, huge pages {chosen}; load average {load} at the start",
        "kernels": f"zhibei-kernels {metadata.version('zhibei-kernels')}, {sha256(library.read_bytes()).hexdigest()[:12]}",
        "wheel": f"xllamacpp {metadata.version('xllamacpp')}",
        "settings": f"{options.threads} threads, batches of {UBATCH}, cache F16, greedy, {options.tokens} tokens an answer",
        "rounds": f"{options.rounds}, after one that does not count; medians, and the least and the greatest ratio",
    }


def run(options: argparse.Namespace, contenders: Sequence[Side], results: list[Found]) -> None:
    """All cells there is time for, each printed when it is done."""
    ends = time.monotonic() + options.minutes * 60
    effort = Effort(options.rounds, options.tokens, ends)
    told: set[str] = set()
    for model in _while_time(models(options.sizes, options.types, options.models), ends):
        print(
            f"\n{model.name}: {model.active_bytes / 1e9:.2f} GB and {model.active_parameters / 1e9:.2f} G weights a token",
            flush=True,
        )
        for group in _while_time(groups(options), ends):
            with Stand(contenders, model, group.setting(model, options)) as stand:
                if not stand.is_at_once:
                    print("  (too little memory for all at once: each is started for its turn)")
                for cell in _while_time(group.cells, ends):
                    results.append(measure(stand, contenders, model, cell, effort))
                    _introduce(contenders, told)
                    _print_cell(results[-1], contenders)
        if options.load and time.monotonic() < ends:
            setting = Group(1, ()).setting(model, options)
            results.append(measure_loads(contenders, model, setting, effort))
            _print_cell(results[-1], contenders)
    if time.monotonic() >= ends:
        print(f"\nStopped: {options.minutes:g} minutes are over.")


def _while_time(each: Iterator[Model] | Sequence[Group] | Sequence[Cell], ends: float) -> Iterator:  # type: ignore[type-arg]
    for one in each:
        if time.monotonic() >= ends:
            return
        yield one


def _introduce(contenders: Sequence[Side], told: set[str]) -> None:
    """What each side is, once it has been seen."""
    for side in contenders:
        if side.about and side.name not in told:
            told.add(side.name)
            print(
                f"  {side.name}: "
                + ", ".join(f"{key} {value}" if key != "version" else value for key, value in side.about.items())
            )


def _print_cell(found: Found, contenders: Sequence[Side]) -> None:
    ours = contenders[0].name
    unit = "s" if found.cell.kind == "load" else "tok/s"
    print(f"  {found.cell.title}")
    for side in contenders:
        if side.name in found.problems:
            print(f"    {side.name:17} {found.problems[side.name]}")
        elif found.rounds.get(side.name):
            print(
                f"    {side.name:17} {statistics.median(found.rounds[side.name]):8.2f} {unit}" + _beside(found, ours, side.name)
            )
        else:
            print(f"    {side.name:17} no figure")
    sys.stdout.flush()


def _beside(found: Found, ours: str, name: str) -> str:
    said = ""
    ratios = found.ratios(ours, name) if name != ours else []
    if ratios:
        said += "  ratio {:.2f} ({:.2f} to {:.2f})".format(*median_and_range(ratios))
    if found.shares.get(name):
        share, least, most = median_and_range(found.shares[name])
        speed = statistics.median(found.bandwidth[name])
        said += f"  {share:.0%} ({least:.0%} to {most:.0%}) of {speed / 1e9:.1f} GB/s"
    return said


def print_summary(results: Sequence[Found], ours: str) -> None:
    """For each kind of cell and other side: the median of the cells' ratios, and the worst cell."""
    print("\nThe kernels over each, all models: median of the cells, and the worst")
    others = dict.fromkeys(name for found in results for name in found.rounds if name != ours)
    for kind in dict.fromkeys(found.cell.kind for found in results):
        for other in others:
            cells = [
                (statistics.median(ratios), found)
                for found in results
                if (ratios := found.ratios(ours, other)) and found.cell.kind == kind
            ]
            if cells:
                worst, at = (max if kind == "load" else min)(cells, key=lambda each: each[0])
                middle = statistics.median(ratio for ratio, _ in cells)
                print(
                    f"  {kind:10} over {other:17} {middle:.2f} of {len(cells)}, worst {worst:.2f} ({at.model}, {at.cell.title})"
                )


def save(results: Sequence[Found], said: dict[str, str], contenders: Sequence[Side]) -> Path:
    """Everything, as JSON; where it is."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"kernels-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.json"
    about = {side.name: side.about for side in contenders}
    path.write_text(json.dumps({"facts": said, "sides": about, "cells": [asdict(found) for found in results]}, indent=1) + "\n")
    return path


def arguments() -> argparse.Namespace:
    """What is asked for; the defaults take some ten minutes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["0.5", "1.5"], choices=SHAPES)
    parser.add_argument("--types", nargs="+", default=["Q4_K_M", "Q8_0"], choices=MIXTURES)
    parser.add_argument("--models", type=Path, help="where models are kept; a temporary place if not given")
    parser.add_argument("--prompts", nargs="*", type=int, default=[512])
    parser.add_argument("--depths", nargs="*", type=int, default=[0], help="tokens before an answer; one stream")
    parser.add_argument("--streams", nargs="*", type=int, default=[1])
    parser.add_argument("--load", action="store_true", help="also the seconds of a load, to the first token")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=detect().num_physical_cores or 1)
    parser.add_argument("--library", type=Path, help="another library of kernels than the installed one")
    parser.add_argument("--levels", nargs="*", help="instruction sets, the one to judge first; the best if not given")
    parser.add_argument("--llama-server", help="llama.cpp's server, built for this machine")
    parser.add_argument("--llama-cpp-python", help="a Python that has llama-cpp-python")
    parser.add_argument("--openvino", help="a Python that has openvino-genai")
    parser.add_argument("--ik", help="a Python that has ik-llama-cpp-python")
    parser.add_argument("--ik-plain", action="store_true", help="ik_llama.cpp without rewriting weights at load")
    parser.add_argument("--counts", action="store_true", help="only where the time goes, of the first model")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = arguments()
    # Its children end with it, however it is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as temporary:
        options.models = options.models or Path(temporary)
        said = facts(options)
        for key, value in said.items():
            print(f"{key}: {value}")
        if options.counts:
            model = next(models(options.sizes, options.types, options.models))
            wheels = [side for side in sides(options) if isinstance(side, WheelSide)]
            print_counts(wheels, model, options.threads, options.prompts, options.depths)
            return
        contenders, results = sides(options), list[Found]()
        try:
            run(options, contenders, results)
        finally:
            print_summary(results, contenders[0].name)
            print(f"\n{save(results, said, contenders)}")


if __name__ == "__main__":
    main()

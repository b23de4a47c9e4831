"""Where the time of a prompt and of an answer goes, by group of operations: samples of ``perf`` on the engine's process.

A sample counts for the group that its function's name tells. What threads spend waiting for each other is a group too. The
kernels' library is installed without names, so their attention counts as products; one built with names (``--library``) tells.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kernel_models import Model, prompt
from kernel_sides import Job, Setting, WheelSide

_SAMPLES_PER_S = 499
_SECONDS = 8.0
_SHORT_PROMPT, _ANSWER_TOKENS = 16, 64
# The first that fits a line "library function" names its group.
GROUPS: tuple[tuple[str, str], ...] = (
    ("other programs' share, the kernel", r"\[kernel|\[k\]|\[unknown\] \[k\]"),
    ("waiting for each other", r"libgomp|barrier|futex|sched_yield|\bpause\b"),
    ("attention", r"flash_attn|[Aa]ttend|attention|soft_max|ggml_vec_dot_f16|ggml_vec_mad_f16|f16_unroll|simd_gemm"),
    ("rounding activations", r"quantize_row_q8|quantize_mat_q8|from_float|columns|round_"),
    ("matrix products", r"zhibei_kernels|tiled_|gemm|gemv|vec_dot|mul_mat|llamafile|tinyBLAS|sgemm|repack|forward_mul"),
    ("norms, rotation, gates", r"norm|rope|silu|swiglu|glu|unary|gelu|exp"),
    ("adding, copying, rows", r"add|mul|cpy|copy|dup|get_rows|set_rows|memcpy|memmove|memset|scale|cont"),
    ("choosing tokens, the server", r"sampl|llama_|server|json|httplib|common_|std::|libpython|libstdc"),
)
OTHER = "other"
# A library without symbols tells addresses; all of it then counts as one.
_ADDRESS = re.compile(r"0x[0-9a-f]+")


def print_counts(sides: Sequence[WheelSide], model: Model, threads: int, prompts: Sequence[int], depths: Sequence[int]) -> None:
    """Run each side alone under ``perf``, and print the share of each group."""
    if shutil.which("perf") is None:
        print("Nothing to count with: there is no perf here.")
        return
    jobs = {f"prompt {length}": Job([prompt(3, length)], 0) for length in prompts}
    for depth in depths:
        read = Job([prompt(7, depth or _SHORT_PROMPT)], _ANSWER_TOKENS, keeps=depth > 0)
        jobs[f"answer after {depth}" if depth else "answer"] = read
    longest = max((*prompts, *depths, _SHORT_PROMPT))
    setting = Setting(model.path, threads, 1, longest + 2 * _ANSWER_TOKENS, longest)
    counted: dict[tuple[str, str], tuple[Counter[str], Counter[str]]] = {}
    for side in sides:
        try:
            side.start(setting)
            for title, job in jobs.items():
                side.ask(job)
                counted[title, side.name] = count(side, job)
        finally:
            side.stop()
    print(f"\n{model.name}: share of processor time, by samples")
    for title in jobs:
        _print_shares(title, [side.name for side in sides], counted)


def count(side: WheelSide, job: Job) -> tuple[Counter[str], Counter[str]]:
    """Samples of a side while it does a job over and over: by group, and by function."""
    assert side.process is not None
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "perf.data"
        command = [
            "perf",
            "record",
            "-q",
            "-e",
            "cpu-clock",
            "-F",
            str(_SAMPLES_PER_S),
            "-p",
            str(side.process.pid),
            "-o",
            str(data),
        ]
        recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ends = time.monotonic() + _SECONDS
        while time.monotonic() < ends:
            side.ask(job)
        recorder.terminate()
        recorder.wait()
        report = [
            "perf",
            "report",
            "-i",
            str(data),
            "--stdio",
            "--sort",
            "dso,symbol",
            "-n",
            "-F",
            "sample,dso,symbol",
            "-t",
            "\t",
        ]
        told = subprocess.run(report, capture_output=True, text=True, check=False).stdout
    groups: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in told.splitlines():
        parts = [part.strip() for part in line.split("\t")]
        if line.startswith("#") or len(parts) < 3 or not parts[0].isdigit():
            continue
        name = _ADDRESS.sub("without names", f"{parts[1]} {parts[2]}")
        groups[group_of(name)] += int(parts[0])
        functions[name] += int(parts[0])
    return groups, functions


def group_of(name: str) -> str:
    """The group of a library's function."""
    return next((group for group, pattern in GROUPS if re.search(pattern, name)), OTHER)


def _print_shares(title: str, names: Sequence[str], counted: dict[tuple[str, str], tuple[Counter[str], Counter[str]]]) -> None:
    print(f"\n{title:36}" + "".join(f"{name:>12}" for name in names))
    groups = {name: counted[title, name][0] for name in names}
    totals = {name: groups[name].total() or 1 for name in names}
    for group in dict.fromkeys(group for name in names for group, _ in groups[name].most_common()):
        print(f"{group:36}" + "".join(f"{groups[name][group] / totals[name]:12.1%}" for name in names))
    for name in names:
        most = ", ".join(f"{function} {num / totals[name]:.0%}" for function, num in counted[title, name][1].most_common(6))
        print(f"  {name}: {most}")

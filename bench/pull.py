"""How fast ``zhibei pull`` is, next to curl, aria2c and huggingface_hub, over loopback and over a slow line with loss.

    python bench/pull.py [--loopback] [--shaped] [--cuts] [--rounds 3] [--bytes 2e9] [--peers curl,aria2c,zhibei] [--json]

Without a choice: loopback and cuts. ``--shaped`` needs root, for its network namespaces. Each round has the peers in another
order; medians, and ours over the other's in the same round. Ours verifies the file and has it on the medium when it ends; for
the others the seconds of doing both afterwards are added in a column of their own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from interruptions import API, measure_cuts, measure_hashing
from link import NEAR_ADDRESS, Line, Shape, proof, shaped_line
from origin import REPOSITORY, ModelFile, free_port, serving, write_model

OURS = "zhibei"
_HUB = """
import sys
from huggingface_hub import hf_hub_download
hf_hub_download(sys.argv[1], sys.argv[2], cache_dir=sys.argv[3])
"""
_HUB_PACKAGES = {"huggingface_hub": ("huggingface_hub",), "hf_transfer": ("huggingface_hub<1", "hf_transfer")}


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to get the file: a command for ``(URL, folder)``. ``tells_s``: it prints the seconds that count."""

    command: Callable[[str, Path], list[str]]
    verifies: bool = False
    tells_s: bool = False
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One download. ``verify_s``: hashing and fsync afterwards; ``is_whole`` False: stopped at the limit."""

    peer: str
    round: int
    seconds: float
    cpu_s: float
    num_bytes: int
    verify_s: float
    is_whole: bool

    def expected_s(self, size_bytes: int) -> float:
        """The seconds, or what they would have become at the same rate."""
        return self.seconds if self.is_whole else self.seconds * size_bytes / max(1, self.num_bytes)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the peers run: what is put before their commands, and the server's address."""

    name: str
    prefix: tuple[str, ...]
    base: str


def all_peers(venvs: Path) -> dict[str, Peer]:
    """Those that can be measured here, by name."""

    def hub(name: str) -> Peer:
        environment = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment |= {"HF_HUB_ENABLE_HF_TRANSFER": "1"} if name == "hf_transfer" else {}
        python = str(venvs / name / "bin" / "python")
        return Peer(
            lambda url, folder: [python, "-c", _HUB, REPOSITORY, url.rpartition("/")[2], str(folder)], environment=environment
        )

    aria2c = ["aria2c", "--quiet", "-x16", "-s16", "--file-allocation=none", "--no-conf"]
    peers = {
        "curl": Peer(lambda url, folder: ["curl", "-sf", "-o", str(folder / "model.gguf"), url]),
        "aria2c": Peer(lambda url, folder: [*aria2c, "-d", str(folder), "-o", "model.gguf", url]),
        "huggingface_hub": hub("huggingface_hub"),
        "hf_transfer": hub("hf_transfer"),
        OURS: Peer(
            lambda url, folder: [sys.executable, "-m", "zhibei", "--home", str(folder), "pull", "--json", f"url:{url}"],
            verifies=True,
        ),
        "zhibei-api": Peer(
            lambda url, folder: [sys.executable, "-c", API, str(folder), f"url:{url}", "hashed"], verifies=True, tells_s=True
        ),
    }
    return {name: peer for name, peer in peers.items() if name not in ("curl", "aria2c") or shutil.which(name)}


def prepare(names: list[str], venvs: Path) -> dict[str, str]:
    """Make the environments that are wanted, start everything once so that it is compiled, and tell versions."""
    versions = {}
    for name in names:
        if name in _HUB_PACKAGES:
            python = venvs / name / "bin" / "python"
            if not python.exists():
                subprocess.run([sys.executable, "-m", "venv", str(venvs / name)], check=True)
                subprocess.run(
                    [str(python), "-m", "pip", "install", "--quiet", *_HUB_PACKAGES[name]], check=True, stderr=subprocess.DEVNULL
                )
            command = [str(python), "-c", "import huggingface_hub; print(huggingface_hub.__version__)"]
        elif name.startswith(OURS):
            command = [sys.executable, "-m", "zhibei", "--version"]
        else:
            command = [name, "--version"]
        answer = subprocess.run(command, env=environment_of(), check=True, capture_output=True, text=True).stdout
        found = re.search(r"\d+(\.\d+)+\S*", answer)
        versions[name] = found[0] if found else answer.strip()
    return versions


def environment_of(**more: str) -> dict[str, str]:
    """Ours without proxies; and compiled once, as installed, not at every start."""
    dropped = {"PYTHONDONTWRITEBYTECODE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN"}
    return {key: value for key, value in os.environ.items() if key.upper() not in dropped} | {"ZHIBEI_PORT": "1"} | more


def run_peer(name: str, peer: Peer, place: Place, model: ModelFile, workspace: Path, round: int, limit_s: float) -> Run:
    """One download into an empty folder, which is removed afterwards.

    Raises:
        RuntimeError: it failed, or what it made is not the file.
    """
    folder = workspace / "output"
    folder.mkdir()
    command = [*place.prefix, *peer.command(place.base + model.url_path, folder)]
    try:
        os.sync()
        seconds, cpu_s, told = execute(command, environment_of(HF_ENDPOINT=place.base, **peer.environment), workspace, limit_s)
        made = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size, default=None)
        if told is None:
            # Allocated, not as long as it looks: some write to many places at once.
            num_bytes = min(model.size_bytes, made.stat().st_blocks * 512) if made else 0
            return Run(name, round, seconds, cpu_s, num_bytes, 0.0, False)
        if made is None:
            raise RuntimeError(f"{name} made no file")
        seconds = json.loads(told)["seconds"] if peer.tells_s else seconds
        return Run(name, round, seconds, cpu_s, model.size_bytes, verify(made, model), True)
    finally:
        shutil.rmtree(folder)


def execute(command: list[str], environment: dict[str, str], workspace: Path, limit_s: float) -> tuple[float, float, str | None]:
    """(seconds, seconds of processor, standard output) of a command; no output if it was stopped at the limit.

    Raises:
        RuntimeError: it failed.
    """
    log = workspace / "log"
    with log.open("w") as errors:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        told = None
        try:
            told = child.communicate(timeout=limit_s)[0]
        except subprocess.TimeoutExpired:
            pass
        finally:
            seconds = time.perf_counter() - start
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if told is not None and child.returncode:
        raise RuntimeError(f"{command} failed: {log.read_text()[-2000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, told


def verify(path: Path, model: ModelFile) -> float:
    """The seconds that it takes to bring a file to the medium and to hash it."""
    start = time.perf_counter()
    sha256 = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        while piece := file.read(1 << 20):
            sha256.update(piece)
    seconds = time.perf_counter() - start
    if sha256.hexdigest() != model.sha256:
        raise RuntimeError(f"{path} is not the file that the server has")
    return seconds


def measure(peers: dict[str, Peer], place: Place, model: ModelFile, workspace: Path, rounds: int, limit_s: float) -> list[Run]:
    """All rounds; each begins with another peer and every second one goes backwards."""
    names, runs = list(peers), []
    if not place.prefix:
        # Uncounted: the first to write anything here is slower than all others.
        run_peer(names[0], peers[names[0]], place, model, workspace, 0, limit_s)
    for number in range(rounds):
        order = names[number % len(names) :] + names[: number % len(names)]
        for name in reversed(order) if number % 2 else order:
            runs.append(run_peer(name, peers[name], place, model, workspace, number, limit_s))
            print(f"  {place.name} round {number + 1}: {name} {runs[-1].seconds:.2f} s", file=sys.stderr, flush=True)
    return runs


def report(runs: list[Run], peers: dict[str, Peer], model: ModelFile) -> None:
    """A table: seconds, rate, processor, with verification; and ours over theirs, round by round."""
    size = model.size_bytes
    verified = {(run.peer, run.round): run.expected_s(size) + run.verify_s * (not peers[run.peer].verifies) for run in runs}
    print(f"  {'':16s} {'seconds':>9s} {'MB/s':>8s} {'CPU s':>7s} {'verified':>9s}   zhibei over it: as is, verified")
    for name in peers:
        mine = [run for run in runs if run.peer == name]
        seconds = statistics.median(run.expected_s(size) for run in mine)
        as_is, fair = [], []
        for run in mine:
            for our in (our for our in runs if our.peer == OURS and our.round == run.round):
                as_is.append(our.expected_s(size) / run.expected_s(size))
                fair.append(our.expected_s(size) / verified[name, run.round])
        ratios = f"{spread(as_is)}, {spread(fair)}" if as_is and name != OURS else ""
        stopped = next((run for run in mine if not run.is_whole), None)
        note = f"   (stopped after {stopped.num_bytes / 1e6:.0f} MB; seconds reckoned)" if stopped else ""
        print(
            f"  {name:16s} {seconds:9.2f} {size / seconds / 1e6:8.1f} {statistics.median(run.cpu_s for run in mine):7.2f} "
            f"{statistics.median(verified[name, run.round] for run in mine):9.2f}   {ratios}{note}",
            flush=True,
        )


def spread(ratios: list[float]) -> str:
    """The median, and how far single rounds are from it."""
    middle = f"{statistics.median(ratios):.3f}"
    return f"{middle} (from {min(ratios):.3f} to {max(ratios):.3f})" if len(ratios) > 1 else middle


def loopback(args: argparse.Namespace, peers: dict[str, Peer], workspace: Path) -> dict[str, object]:
    """Everything on one machine."""
    (workspace / "files").mkdir()
    model, port = write_model(workspace / "files", args.bytes), free_port()
    chosen = {name: peers[name] for name in args.peers}
    try:
        with serving(model, workspace, port) as server:
            place = Place("loopback", (), f"http://127.0.0.1:{port}")
            runs = measure(chosen, place, model, workspace, args.rounds, args.limit_s)
    finally:
        shutil.rmtree(workspace / "files")
    if not args.json:
        print(f"loopback, {server}, {model.size_bytes / 1e6:.0f} MB, {args.rounds} rounds")
        report(runs, chosen, model)
    return {"server": server, "bytes": model.size_bytes, "runs": [asdict(run) for run in runs]}


def shaped(args: argparse.Namespace, peers: dict[str, Peer], workspace: Path) -> dict[str, object]:
    """Server and peers in a namespace each, with the slow line between them."""
    (workspace / "files").mkdir()
    model, port = write_model(workspace / "files", args.shaped_bytes), free_port()
    # Its start is nothing against such seconds, and a run more costs minutes.
    chosen = {name: peers[name] for name in args.peers if not peers[name].tells_s}
    shape = Shape(congestion=args.congestion)
    try:
        with shaped_line(shape, workspace, kind=args.line) as line:
            proven = prove(line, shape, args.json)
            with serving(model, workspace, port, line.near) as server:
                place = Place("shaped", line.far, f"http://{NEAR_ADDRESS}:{port}")
                runs = measure(chosen, place, model, workspace, args.shaped_rounds, args.limit_s)
    finally:
        shutil.rmtree(workspace / "files")
    if not args.json:
        print(f"shaped, {server}, {model.size_bytes / 1e6:.0f} MB, {args.shaped_rounds} rounds")
        report(runs, chosen, model)
    return {"server": server, "bytes": model.size_bytes, "line": proven, "runs": [asdict(run) for run in runs]}


def prove(line: Line, shape: Shape, is_quiet: bool) -> dict[str, object]:
    """Measure the line itself, and say so."""
    single, many = proof(line, sys.executable, 1), proof(line, sys.executable, 128)
    proven: dict[str, object] = {"kind": line.kind, "round_trip_s": many[0], "one_bits": single[1], "many_bits": many[1]}
    lost = ""
    if counted := line.counters():
        down = counted["down"]
        proven["loss"] = down["lost"] / (down["passed"] + down["lost"] + down["overflowed"])
        lost = f", {proven['loss']:.2%} of packets lost, {down['overflowed']} more for want of room in the queue"
    if not is_quiet:
        print(f"line ({line.kind}): {shape}")
        print(f"  found: {many[0] * 1000:.1f} ms to connect, one stream {single[1] / 1e6:.1f} Mbit/s, ", end="")
        print(f"128 streams {many[1] / 1e6:.1f} Mbit/s{lost}", flush=True)
    return proven


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = lambda text: int(float(text))  # noqa: E731
    for what in ("loopback", "shaped", "cuts"):
        parser.add_argument(f"--{what}", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bytes", type=number, default=2_000_000_000, help="size of the file over loopback")
    parser.add_argument("--shaped-rounds", type=int, default=1)
    parser.add_argument("--shaped-bytes", type=number, default=2_000_000_000, help="size of the file over the slow line")
    parser.add_argument("--cut-bytes", type=number, default=512_000_000, help="size of the file that is cut at its half")
    parser.add_argument("--limit-s", type=float, default=900.0, help="stop a peer then, and reckon its time from what it has")
    parser.add_argument("--congestion", default="cubic", help="congestion control of the server on the slow line")
    parser.add_argument("--line", choices=("auto", "netem", "link.c"), default="auto", help="what shapes the slow line")
    parser.add_argument("--peers", type=lambda text: text.split(","), help="names, separated by commas; all if not given")
    parser.add_argument("--venvs", type=Path, help="where environments for the peers in Python are kept")
    parser.add_argument("--json", action="store_true", help="print JSON, every run of it")
    args = parser.parse_args()
    if args.shaped and os.geteuid() != 0:
        parser.error("--shaped needs root: it makes network namespaces")
    if not (args.loopback or args.shaped or args.cuts):
        args.loopback = args.cuts = True
    return args


def main() -> None:
    args = parse()
    # So that everything is cleaned up after a polite kill, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="bench-pull-") as temporary:
        workspace = Path(temporary)
        venvs = args.venvs.absolute() if args.venvs else workspace / "venvs"
        peers = all_peers(venvs)
        args.peers = args.peers or list(peers)
        if unknown := set(args.peers) - set(peers):
            raise SystemExit(f"not here: {', '.join(sorted(unknown))}; there are {', '.join(peers)}")
        found: dict[str, object] = {}
        if args.loopback or args.shaped:
            found["versions"] = versions = prepare(args.peers, venvs)
            if not args.json:
                print(", ".join(f"{name} {version}" for name, version in versions.items()), flush=True)
        if args.loopback:
            found["loopback"] = loopback(args, peers, workspace)
        if args.shaped:
            found["shaped"] = shaped(args, peers, workspace)
        if args.cuts:
            found["cuts"] = measure_cuts(args.cut_bytes, workspace, environment_of(), is_quiet=args.json)
            found["hashing"] = measure_hashing(args.bytes, args.rounds, workspace, environment_of(), is_quiet=args.json)
        if args.json:
            print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

"""A slow line between two network namespaces: rate, delay, loss in the direction of the data. Used by ``pull.py``; needs root.

The kernel's ``netem`` shapes it where there is one, else ``link.c``, compiled on the spot. The far end takes the files, the
near end sends them, with the congestion control that it is told.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

NEAR_ADDRESS, FAR_ADDRESS = "10.213.97.1", "10.213.97.2"
_MTU_BYTES = 1500


@dataclass(frozen=True, slots=True)
class Shape:
    """What the line is like. The queue holds one product of rate and round trip; loss is of packets to the far end."""

    rate_bits: int = 200_000_000
    round_trip_s: float = 0.05
    loss: float = 0.01
    congestion: str = "cubic"

    @property
    def queue_bytes(self) -> int:
        return int(self.rate_bits / 8 * self.round_trip_s)

    def __str__(self) -> str:
        return (
            f"{self.rate_bits / 1e6:.0f} Mbit/s, {self.round_trip_s * 1000:.0f} ms round trip, {self.loss * 100:g} % loss, "
            f"MTU {_MTU_BYTES}, queue {self.queue_bytes / 1e6:.2f} MB, server with {self.congestion}"
        )


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is up. ``near`` and ``far`` are put before a command to run it at that end."""

    kind: str
    near: tuple[str, ...]
    far: tuple[str, ...]
    shaper: subprocess.Popen[str] | None

    def counters(self) -> dict[str, dict[str, int]] | None:
        """Packets to the far end (down) and back (up) so far; None if netem shapes."""
        if self.shaper is None or self.shaper.stdin is None or self.shaper.stdout is None:
            return None
        self.shaper.stdin.write("\n")
        self.shaper.stdin.flush()
        found: dict[str, dict[str, int]] = json.loads(self.shaper.stdout.readline())
        return found


@contextmanager
def shaped_line(shape: Shape, workspace: Path, *, seed: int = 1, kind: str = "auto") -> Iterator[Line]:
    """Have two namespaces with the line between them; nothing of it is left afterwards."""
    names = [f"line-{end}-{os.getpid()}" for end in ("near", "far")]
    with ExitStack() as stack:
        for name in names:
            _run("ip", "netns", "add", name)
            stack.callback(_run, "ip", "netns", "delete", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        near, far = (("nsenter", f"--net=/run/netns/{name}") for name in names)
        if kind == "auto":
            kind = "netem" if has_netem(near) else "link.c"
        shaper = None
        if kind == "netem":
            _start_netem(shape, names)
        else:
            shaper = stack.enter_context(_own_shaper(shape, names, workspace, seed))
        _give_addresses(shape, names)
        # Otherwise one run's congestion window would be the next one's start.
        _run(*near, "sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1")
        yield Line(kind, near, far, shaper)


def has_netem(near: tuple[str, ...]) -> bool:
    """Whether this kernel can do it."""
    tried = subprocess.run([*near, "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"], capture_output=True)
    if tried.returncode == 0:
        _run(*near, "tc", "qdisc", "delete", "dev", "lo", "root")
    return tried.returncode == 0


def _start_netem(shape: Shape, names: list[str]) -> None:
    _run("ip", "-n", names[0], "link", "add", "slow", "type", "veth", "peer", "name", "slow", "netns", names[1])
    packets = str(int(shape.queue_bytes + shape.rate_bits / 8 * shape.round_trip_s / 2) // _MTU_BYTES)
    for name, loss in zip(names, (shape.loss, 0.0), strict=True):
        # One packet at a time, as on a wire: netem would lose and delay whole bundles.
        _run("ip", "-n", name, "link", "set", "slow", "gso_max_segs", "1")
        command = f"tc -n {name} qdisc add dev slow root netem delay {shape.round_trip_s * 500:g}ms rate {shape.rate_bits}bit"
        _run(*command.split(), "limit", packets, *(("loss", f"{loss * 100:g}%") if loss else ()))


@contextmanager
def _own_shaper(shape: Shape, names: list[str], workspace: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    program = workspace / "link"
    _run("gcc", "-O2", "-o", str(program), str(Path(__file__).with_name("link.c")))
    numbers = [shape.rate_bits, round(shape.round_trip_s * 5e5), round(shape.loss * 1e6), shape.queue_bytes, seed]
    command = [str(program), *(f"/run/netns/{name}" for name in names), *map(str, numbers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as shaper:
        try:
            assert shaper.stdout is not None
            if shaper.stdout.readline() != "ready\n":
                raise RuntimeError("link.c did not start")
            yield shaper
        finally:
            shaper.terminate()


def _give_addresses(shape: Shape, names: list[str]) -> None:
    ends = ((names[0], NEAR_ADDRESS, FAR_ADDRESS), (names[1], FAR_ADDRESS, NEAR_ADDRESS))
    for name, own, other in ends:
        _run("ip", "-n", name, "address", "add", own, "peer", other, "dev", "slow")
        _run("ip", "-n", name, "link", "set", "slow", "mtu", str(_MTU_BYTES), "txqueuelen", "5000", "up")
    # Of the route, not of the namespace: a namespace may not choose one that the machine keeps for root.
    route = ("route", "replace", FAR_ADDRESS, "dev", "slow", "src", NEAR_ADDRESS, "congctl", shape.congestion)
    _run("ip", "-n", names[0], *route)


# At the near end: sends zeros to whoever connects, until that one has enough.
_SENDER = """
import socket, threading
def send(connection):
    try:
        while True:
            connection.sendall(bytes(65536))
    except OSError:
        connection.close()
listener = socket.create_server(("", 9), backlog=64)
print("ready", flush=True)
while True:
    threading.Thread(target=send, args=(listener.accept()[0],), daemon=True).start()
"""
# At the far end: how long a connection takes to open, then what many of them bring in some seconds.
_TAKER = """
import selectors, socket, statistics, sys, time
address, num_streams, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
def connect():
    start = time.perf_counter()
    made = socket.create_connection((address, 9))
    return time.perf_counter() - start, made
times = []
for _ in range(5):
    taken, made = connect()
    times.append(taken)
    made.close()
time.sleep(0.5)
streams = selectors.DefaultSelector()
for _ in range(num_streams):
    streams.register(connect()[1], selectors.EVENT_READ)
begin = time.perf_counter() + 3
count = 0
while (last := time.perf_counter()) < begin + seconds:
    for key, _ in streams.select(0.1):
        received = len(key.fileobj.recv(1 << 20))
        count += received if last > begin else 0
print(statistics.median(times), count * 8 / seconds)
"""


def proof(line: Line, python: str, num_streams: int, seconds: float = 5.0) -> tuple[float, float]:
    """(seconds of a round trip, bits a second of so many streams): what the line is really like."""
    with subprocess.Popen([*line.near, python, "-c", _SENDER], stdout=subprocess.PIPE, text=True) as sender:
        try:
            assert sender.stdout is not None
            sender.stdout.readline()
            command = [*line.far, python, "-c", _TAKER, NEAR_ADDRESS, str(num_streams), str(seconds)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            round_trip_s, rate_bits = map(float, answer.split())
            return round_trip_s, rate_bits
        finally:
            sender.kill()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")

"""Machines that are only described: ``rtx4090x2,ram=64g,ddr5-5600x2``. Owns that notation; reads no machine.

The notation, in no order, upper or lower case alike::

    machine  = item ("," item)*
    item     = device | memory | processor | key "=" value
    device   = a name of the table of devices, with a count: rtx4090, 2xrtx4090, rtx4090x2, m2-max-64g
    memory   = kind "-" MT/s ["x" channels]:  ddr5-5600x2 (two channels where none are said)
    key      = gpu | ram | swap | memory | bandwidth | cpu | cores | pcie | disk
    ram      = a size: 64g, 64gb, 64gib (all 64 × 2^30 bytes: memory is sold so); swap likewise
    bandwidth= of the system's memory: 80gb/s, 10^9 bytes
    cpu      = a name of the table of processors: cpu=i5-12400; cores = their number, where the processor is not in it
    pcie     = generation "x" lanes of each card: 4x8
    disk     = hdd | sata | nvme3 | nvme4 | nvme5 | usb3, or a rate: 3.5gb/s

What is not said is not known, but for what follows: a processor of the table brings cores, instruction sets and, unless memory
is said, the memory that most machines with it have; a chip with unified memory brings its bandwidth and cores.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from zhibei.errors import BadRequest
from zhibei.planner import devices
from zhibei.planner.devices import Cpu, Device, Memory
from zhibei.plans import Gpu, Hardware

MAX_LENGTH = 400
MAX_GPUS = 32
MAX_CORES = 1024
_MAX_RAM_BYTES = 64 << 40
_EXAMPLE = "rtx4090x2,ram=64g,ddr5-5600x2"
_VENDORS = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel", "apple": "Apple"}
_BACKENDS = {"NVIDIA": ("cuda", "vulkan"), "AMD": ("rocm", "vulkan"), "Intel": ("sycl", "vulkan"), "Apple": ("metal",)}
# Metal runs on the whole family of M chips; what a compiler calls an AMD or Intel GPU is not in the table.
_ARCHITECTURES = {"Apple": "metal3"}
_COUNT_FIRST = re.compile(r"(?P<count>\d{1,2})\s*[x×*]\s*(?P<name>.+)", re.ASCII | re.IGNORECASE)
_COUNT_LAST = re.compile(r"(?P<name>.+?)\s*[x×*]\s*(?P<count>\d{1,2})", re.ASCII | re.IGNORECASE)
_KEYS = ("gpu", "ram", "swap", "memory", "bandwidth", "cpu", "cores", "pcie", "disk")


@dataclass(frozen=True, slots=True)
class ImaginedGpu:
    """One GPU of an imagined machine, nothing running on it. ``total_bytes``: what it may fill, of its own or shared memory."""

    name: str
    vendor: str
    total_bytes: int | None
    bandwidth_bytes_per_s: int
    flops_fp16: float | None
    ops_int8: float | None
    compute_capability: tuple[int, int] | None
    is_unified: bool
    pcie_bytes_per_s: int | None


@dataclass(frozen=True, slots=True)
class Imagined:
    """A described machine, idle. ``is_unified``: its GPU shares the system's memory. None: not said and not to be known."""

    gpus: tuple[ImaginedGpu, ...] = ()
    ram_bytes: int | None = None
    swap_bytes: int | None = None
    memory: Memory | None = None
    memory_bandwidth_bytes_per_s: int | None = None
    cpu_name: str | None = None
    num_cores: int | None = None
    num_threads: int | None = None
    num_performance_cores: int | None = None
    num_efficiency_cores: int | None = None
    cpu_features: tuple[str, ...] = ()
    is_unified: bool = False
    disk_bytes_per_s: int | None = None


@dataclass(slots=True)
class _Wishes:
    """What has been read so far."""

    cards: list[tuple[Device, int]]
    ram_bytes: int | None = None
    swap_bytes: int | None = None
    memory: Memory | None = None
    bandwidth: int | None = None
    cpu: Cpu | None = None
    cores: int | None = None
    pcie: tuple[int, int] | None = None
    disk: int | None = None


def imagine(text: str) -> Imagined:
    """The machine that a text describes.

    Raises:
        BadRequest: what is wrong, with an example of what is right.
    """
    if len(text) > MAX_LENGTH:
        raise BadRequest(
            "The description of a machine is longer than {limit} characters.",
            hint="Write it like {example}.",
            limit=MAX_LENGTH,
            example=_EXAMPLE,
        )
    items = [item.strip() for item in text.split(",")]
    if not any(items):
        raise BadRequest("The description of a machine is empty.", hint="Write it like {example}.", example=_EXAMPLE)
    wishes = _Wishes([])
    seen: set[str] = set()
    for item in items:
        if not item:
            raise BadRequest(
                "There is nothing between two commas of {text!r}.",
                hint="Write it like {example}.",
                text=_short(text),
                example=_EXAMPLE,
            )
        name, separator, value = item.partition("=")
        name = name.strip().lower()
        if not separator:
            _take_bare(wishes, item, seen)
        elif name not in _KEYS:
            raise BadRequest(
                "{name!r} is not a part of a machine.", hint="The parts are {parts}.", name=_short(name), parts=", ".join(_KEYS)
            )
        else:
            _once(seen, name)
            _TAKE[name](wishes, value.strip())
    return _build(wishes)


def _once(seen: set[str], name: str) -> None:
    if name in seen and name != "gpu":
        raise BadRequest("{name} is said twice.", hint="Say it once.", name=name)
    seen.add(name)


def _take_bare(wishes: _Wishes, item: str, seen: set[str]) -> None:
    if re.match(r"(lp)?ddr\d", item, re.IGNORECASE | re.ASCII):
        _once(seen, "memory")
        wishes.memory = devices.find_memory(item)
        return
    card = _card(item)
    if card is not None:
        wishes.cards.append(card)
        return
    cpu = devices.tables().cpus.get(devices.key(item))
    if cpu is None:
        # Neither: the error speaks of devices, which most people mean.
        wishes.cards.append((devices.find(item), 1))
        return
    _once(seen, "cpu")
    wishes.cpu = cpu


def _take_gpu(wishes: _Wishes, value: str) -> None:
    wishes.cards.append(_card(value) or (devices.find(value), 1))


def _take_ram(wishes: _Wishes, value: str) -> None:
    wishes.ram_bytes = _size("ram", value)


def _take_swap(wishes: _Wishes, value: str) -> None:
    wishes.swap_bytes = _size("swap", value, can_be_zero=True)


def _take_memory(wishes: _Wishes, value: str) -> None:
    wishes.memory = devices.find_memory(value)


def _take_bandwidth(wishes: _Wishes, value: str) -> None:
    wishes.bandwidth = _rate("bandwidth", value)


def _take_cpu(wishes: _Wishes, value: str) -> None:
    wishes.cpu = devices.find_cpu(value)


def _take_cores(wishes: _Wishes, value: str) -> None:
    if not re.fullmatch(r"\d{1,4}", value, re.ASCII) or not 1 <= int(value) <= MAX_CORES:
        raise BadRequest("{value!r} is not a number of cores.", hint="Write it like cores=8.", value=_short(value))
    wishes.cores = int(value)


def _take_pcie(wishes: _Wishes, value: str) -> None:
    match = re.fullmatch(r"(\d)(?:\.0)?\s*[x×]\s*(1|2|4|8|16)", value.lower(), re.ASCII)
    if match is None or int(match[1]) not in devices.tables().lane_bytes_per_s:
        raise BadRequest("{value!r} is not a PCIe slot.", hint="Write generation and lanes, like pcie=4x8.", value=_short(value))
    wishes.pcie = (int(match[1]), int(match[2]))


def _take_disk(wishes: _Wishes, value: str) -> None:
    kinds = devices.tables().disk_bytes_per_s
    wishes.disk = kinds.get(value.lower()) or _rate("disk", value, kinds=", ".join(kinds))


_TAKE: dict[str, Callable[[_Wishes, str], None]] = {
    "gpu": _take_gpu,
    "ram": _take_ram,
    "swap": _take_swap,
    "memory": _take_memory,
    "bandwidth": _take_bandwidth,
    "cpu": _take_cpu,
    "cores": _take_cores,
    "pcie": _take_pcie,
    "disk": _take_disk,
}


def _card(text: str) -> tuple[Device, int] | None:
    """A device and how many of it; None where the name is not in the table. A name that ends like a count is a name."""
    device = devices.lookup(text)
    if device is not None:
        return device, 1
    match = _COUNT_FIRST.fullmatch(text) or _COUNT_LAST.fullmatch(text)
    if match is None:
        return None
    count, name = match["count"], match["name"]
    device = devices.lookup(name)
    if device is None:
        return None
    if int(count) < 1:
        raise BadRequest("{text!r} is no device.", hint="Leave it out, or write how many: rtx4090x2.", text=_short(text))
    return device, int(count)


def _size(name: str, value: str, can_be_zero: bool = False) -> int:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([mgt])(?:i?b)?", value.lower(), re.ASCII)
    size = int(Fraction(match[1]) * {"m": 1 << 20, "g": 1 << 30, "t": 1 << 40}[match[2]]) if match else -1
    if not (0 if can_be_zero else 1) <= size <= _MAX_RAM_BYTES:
        raise BadRequest("{value!r} is not a size of memory.", hint="Write it like {name}=64g.", value=_short(value), name=name)
    return size


def _rate(name: str, value: str, kinds: str | None = None) -> int:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([mgt])b?(?:/s)?", value.lower(), re.ASCII)
    rate = int(Fraction(match[1]) * {"m": 10**6, "g": 10**9, "t": 10**12}[match[2]]) if match else 0
    if 0 < rate <= 10**15:
        return rate
    if kinds is not None:
        raise BadRequest(
            "{value!r} is not a disk.", hint="Write a kind ({kinds}) or a rate: disk=3.5gb/s.", value=_short(value), kinds=kinds
        )
    raise BadRequest("{value!r} is not a rate.", hint="Write it like {name}=80gb/s.", value=_short(value), name=name)


def _build(wishes: _Wishes) -> Imagined:
    chips = [(device, count) for device, count in wishes.cards if device.is_unified]
    num_gpus = sum(device.num_gpus * count for device, count in wishes.cards)
    if num_gpus > MAX_GPUS:
        raise BadRequest("{count} GPUs are too many.", hint="A machine has {limit} at most.", count=num_gpus, limit=MAX_GPUS)
    if sum(count for _, count in chips) > 1:
        raise BadRequest("A machine has one chip with unified memory.", hint="Write one: m2-max-64g.")
    chip = _sized(chips[0][0], wishes) if chips else None
    cards = [(chip if chip is not None and device.is_unified else device, count) for device, count in wishes.cards]
    memory = wishes.memory or (wishes.cpu.memory if wishes.cpu is not None and chip is None else None)
    bandwidth = wishes.bandwidth
    if bandwidth is None and (chip or memory):
        bandwidth = chip.bandwidth_bytes_per_s if chip else memory.bandwidth_bytes_per_s if memory else None
    cpu = wishes.cpu
    fast = cpu.num_performance_cores if cpu and wishes.cores is None else None
    return Imagined(
        gpus=tuple(_gpu(device, wishes.pcie) for device, count in cards for _ in range(count * device.num_gpus)),
        ram_bytes=chip.memory_bytes if chip else wishes.ram_bytes,
        swap_bytes=wishes.swap_bytes,
        memory=memory,
        memory_bandwidth_bytes_per_s=bandwidth,
        cpu_name=cpu.name if cpu else chip.title if chip else None,
        num_cores=wishes.cores or (cpu.num_cores if cpu else chip.num_cores if chip else None),
        num_threads=cpu.num_threads if cpu and wishes.cores is None else None,
        num_performance_cores=fast,
        num_efficiency_cores=cpu.num_cores - fast if cpu and fast else None,
        cpu_features=cpu.features if cpu else (),
        is_unified=chip is not None,
        disk_bytes_per_s=wishes.disk,
    )


def _sized(chip: Device, wishes: _Wishes) -> Device:
    """The chip with the memory that was said, in its name or as ``ram``.

    Raises:
        BadRequest: it was not said, or twice and differently, or memory of another kind is asked beside it.
    """
    if wishes.memory is not None:
        raise BadRequest(
            "{device} has its memory built in.", hint="Leave {kind} out.", device=chip.title, kind=wishes.memory.kind
        )
    if wishes.ram_bytes is not None and (chip.memory_bytes is None or len(chip.memory_choices_bytes) == 1):
        return devices.with_memory(chip, wishes.ram_bytes)
    if chip.memory_bytes is None:
        sizes = ", ".join(str(size // devices.GIB) for size in chip.memory_choices_bytes)
        raise BadRequest(
            "How much memory does the {device} have?",
            hint="It comes with {sizes} GiB; write {name}-{first}g.",
            device=chip.title,
            sizes=sizes,
            name=chip.name,
            first=chip.memory_choices_bytes[0] // devices.GIB,
        )
    if wishes.ram_bytes not in (None, chip.memory_bytes):
        raise BadRequest(
            "The memory of {device} is said twice, differently.",
            hint="Say it once: {name}-64g or ram=64g.",
            device=chip.title,
            name=chip.name,
        )
    return chip


def _gpu(device: Device, slot: tuple[int, int] | None) -> ImaginedGpu:
    """A GPU of the device; between card and slot the slower link counts."""
    lanes = devices.tables().lane_bytes_per_s
    links = (
        [lanes[generation] * width for generation, width in (device.pcie, slot) if (generation, width)]
        if device.pcie and slot
        else []
    )
    own = [lanes[device.pcie[0]] * device.pcie[1]] if device.pcie else []
    return ImaginedGpu(
        name=device.title,
        vendor=device.vendor,
        total_bytes=devices.gpu_bytes(device),
        bandwidth_bytes_per_s=device.bandwidth_bytes_per_s,
        flops_fp16=device.flops_fp16,
        ops_int8=device.ops_int8,
        compute_capability=device.compute_capability,
        is_unified=device.is_unified,
        pcie_bytes_per_s=min(links or own, default=None),
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def as_hardware(imagined: Imagined) -> Hardware:
    """The machine as a detected one would be, idle: everything that is there is free."""
    memory = imagined.memory
    gpus = tuple(map(_detected, imagined.gpus))
    return Hardware(
        cpu_name=imagined.cpu_name,
        num_physical_cores=imagined.num_cores,
        num_logical_cores=imagined.num_threads or imagined.num_cores,
        total_bytes=imagined.ram_bytes,
        available_bytes=imagined.ram_bytes,
        gpus=gpus,
        cpu_features=imagined.cpu_features,
        num_performance_cores=imagined.num_performance_cores,
        num_efficiency_cores=imagined.num_efficiency_cores,
        swap_total_bytes=imagined.swap_bytes,
        swap_free_bytes=imagined.swap_bytes,
        memory_kind=memory.kind.upper() if memory else None,
        memory_transfers_per_s=memory.transfer_rate * 10**6 if memory else None,
        bandwidth_bytes_per_s=imagined.memory_bandwidth_bytes_per_s,
        backends=tuple(dict.fromkeys(name for gpu in gpus for name in _BACKENDS[gpu.vendor])),
    )


def _detected(gpu: ImaginedGpu) -> Gpu:
    vendor = _VENDORS[gpu.vendor]
    capability = gpu.compute_capability
    return Gpu(
        name=gpu.name,
        vendor=vendor,
        total_bytes=None if gpu.is_unified else gpu.total_bytes,
        free_bytes=None if gpu.is_unified else gpu.total_bytes,
        shared_bytes=gpu.total_bytes if gpu.is_unified else None,
        is_integrated=gpu.is_unified,
        bandwidth_bytes_per_s=gpu.bandwidth_bytes_per_s,
        architecture=f"sm_{capability[0]}{capability[1]}" if capability else _ARCHITECTURES.get(vendor),
        has_display=False,
    )

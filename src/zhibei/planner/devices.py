"""A table of common hardware: ``devices.toml``, and finding in it what people write. Owns that file; asks no machine anything."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from zhibei.errors import BadRequest
from zhibei.i18n import N_

DEVICES_PATH = Path(__file__).with_name("devices.toml")
GIB = 1 << 30
_GIGA, _TERA = 10**9, 10**12
_CHANNEL_BYTES = 8
MAX_CHANNELS = 24
_MAKERS = re.compile(r"\((?:r|tm)\)|nvidia|geforce|amd\b|radeon|instinct|intel|apple|tesla|graphics|generation|处理器|显卡")
_LAPTOP = re.compile(r"laptop|mobile|notebook|max-?q|笔记本|移动版")
_NOT_A_NAME = re.compile(r"[^0-9a-z+]")


@dataclass(frozen=True, slots=True)
class Price:
    """What was asked for a device on a day. Approximate: today's price is another."""

    amount: int
    currency: Literal["USD", "CNY"]
    asked_on: date
    source: str


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a chip whose GPU shares the system's memory (``is_unified``). Rates are peaks of dense work, per second.

    ``num_gpus``: GPUs on one card; all figures are those of one. ``memory_bytes`` of a unified device is the machine's, None
    until it is said; ``memory_choices_bytes`` are the sizes that are sold. ``num_cores``: of the processor beside the GPU.
    ``rates``: whether the rates are the vendor's, follow from units and clock, or are an outsider's estimate.
    """

    name: str
    title: str
    vendor: str
    memory_bytes: int | None
    bandwidth_bytes_per_s: int
    flops_fp16: float | None = None
    ops_int8: float | None = None
    compute_capability: tuple[int, int] | None = None
    pcie: tuple[int, int] | None = None
    num_gpus: int = 1
    is_unified: bool = False
    memory_choices_bytes: tuple[int, ...] = ()
    gpu_share: float | None = None
    num_gpu_cores: int | None = None
    num_cores: int | None = None
    released_on: date | None = None
    prices: tuple[Price, ...] = ()
    source: str = "published specification"
    rates: Literal["published", "computed", "estimated"] = "computed"
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """System memory: a kind, its transfer rate in MT/s, and channels of 64 bits."""

    kind: str
    transfer_rate: int
    num_channels: int

    @property
    def bandwidth_bytes_per_s(self) -> int:
        """Transfers × 8 bytes × channels."""
        return self.transfer_rate * 10**6 * _CHANNEL_BYTES * self.num_channels


@dataclass(frozen=True, slots=True)
class Cpu:
    """A processor. ``memory``: what most machines with it have. ``num_performance_cores`` None: one kind of core."""

    name: str
    num_cores: int
    num_threads: int
    features: tuple[str, ...]
    memory: Memory
    num_performance_cores: int | None = None


@dataclass(frozen=True, slots=True)
class Tables:
    """The file, indexed by every way of writing a name that is not ambiguous (see ``key``)."""

    devices: tuple[Device, ...]
    by_key: Mapping[str, Device]
    cpus: Mapping[str, Cpu]
    memory_rates: Mapping[str, tuple[int, int]]
    lane_bytes_per_s: Mapping[int, int]
    disk_bytes_per_s: Mapping[str, int]
    shares: Mapping[str, float]


def key(text: str) -> str:
    """``NVIDIA GeForce RTX 4090 Laptop GPU``, ``rtx4090-laptop`` → ``rtx4090laptop``: what all ways of writing it share."""
    lowered = text.lower()
    plain = _NOT_A_NAME.sub("", _MAKERS.sub("", _LAPTOP.sub("", lowered)).replace("gpu", ""))
    plain = re.sub(r"(\d)(?:gib|gb)", r"\1g", plain)
    return plain + "laptop" if _LAPTOP.search(lowered) else plain


def find(text: str) -> Device:
    """The device a person means: ``4090``, ``RTX 4090 Laptop``, ``3060-12g``, ``7900xtx``, ``m2-max-32g``.

    Raises:
        BadRequest: there is none of that name, or it is not sold with that much memory.
    """
    device = lookup(text)
    if device is None:
        _unknown(N_("There is no device {name!r} in the table."), text, tables().by_key)
    return device


def lookup(text: str) -> Device | None:
    """As ``find``; None where there is no such name.

    Raises:
        BadRequest: the device is not sold with that much memory.
    """
    found = tables().by_key.get(key(text))
    if found is not None:
        return found
    # The shortest number comes first: m4-32g is an M4 with 32 GiB, not an "m43" with 2.
    match = re.fullmatch(r"(.+?)(\d{1,4})g", key(text), re.ASCII)
    if match is None:
        return None
    joined, digits = match[1] + match[2], len(match[2])
    while digits:
        device = tables().by_key.get(joined[: len(joined) - digits])
        if device is not None and device.is_unified:
            return with_memory(device, int(joined[len(joined) - digits :]) * GIB)
        digits -= 1
    return None


def recognise(name: str, memory_bytes: int | None) -> Device | None:
    """The device that a driver calls so; of several with one name the one with that much memory. None: not in the table.

    Its rates are of use where a machine does not tell them; what a machine tells of itself is better than the table.
    """
    try:
        sized = None if memory_bytes is None else lookup(f"{name}-{round(memory_bytes / GIB)}g")
        return sized or lookup(name)
    except BadRequest:
        return lookup(name)


def with_memory(device: Device, memory_bytes: int) -> Device:
    """A unified device with so much memory; where a variant with fewer GPU cores is what has it, that one.

    Raises:
        BadRequest: it is not sold with that much.
    """
    variants = [item for item in tables().devices if re.fullmatch(re.escape(device.name) + r"(-\d+)?", item.name)]
    device = next((item for item in variants if memory_bytes in item.memory_choices_bytes), device)
    if memory_bytes not in device.memory_choices_bytes:
        raise BadRequest(
            "{device} is not sold with {num_gib} GiB of memory.",
            hint="It comes with {choices} GiB.",
            device=device.title,
            num_gib=f"{memory_bytes / GIB:g}",
            choices=", ".join(str(size // GIB) for size in device.memory_choices_bytes),
        )
    return replace(device, memory_bytes=memory_bytes)


def gpu_bytes(device: Device) -> int | None:
    """The memory that the device's GPU may fill: its own, or its share of a unified one."""
    if not device.is_unified or device.memory_bytes is None:
        return device.memory_bytes
    shares = tables().shares
    share = device.gpu_share or shares.get(device.vendor)
    if share is None:
        share = shares["apple_large" if device.memory_bytes >= shares["apple_large_from_gib"] * GIB else "apple_small"]
    return int(device.memory_bytes * share)


def find_cpu(text: str) -> Cpu:
    """The processor a person means: ``i5-12400``, ``Ryzen 7 5800X``, ``7950x``.

    Raises:
        BadRequest: there is none of that name.
    """
    cpu = tables().cpus.get(key(text))
    if cpu is None:
        _unknown(N_("There is no processor {name!r} in the table."), text, tables().cpus)
    return cpu


def find_memory(text: str) -> Memory:
    """``ddr5-5600x2``, ``DDR4 3200`` (two channels where none are said), ``lpddr5x-8533x4``.

    Raises:
        BadRequest: not memory, or a rate that this kind is not sold with.
    """
    return _memory(text, tables().memory_rates)


def _memory(text: str, rates: Mapping[str, tuple[int, int]]) -> Memory:
    match = re.fullmatch(r"\s*(lp)?(ddr\dx?)[-_ ]?(\d{3,5})\s*(?:[x×*]\s*(\d{1,2}))?\s*", text.lower(), re.ASCII)
    kind = f"{match[1] or ''}{match[2]}" if match else ""
    if match is None or kind not in rates:
        raise BadRequest(
            "{name!r} is not a kind of memory.", hint="Write it like ddr5-5600x2: kind, MT/s, channels.", name=_short(text)
        )
    slowest, fastest = rates[kind]
    rate, num_channels = int(match[3]), int(match[4] or 2)
    if not slowest <= rate <= fastest:
        raise BadRequest(
            "{kind} is not sold with {rate} MT/s.",
            hint="It has between {slowest} and {fastest}.",
            kind=kind,
            rate=rate,
            slowest=slowest,
            fastest=fastest,
        )
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise BadRequest(
            "{count} channels of memory are more than any machine has, or none.", count=num_channels, hint="Most have 2."
        )
    return Memory(kind, rate, num_channels)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown(message: str, text: str, names: Mapping[str, Device] | Mapping[str, Cpu]) -> NoReturn:
    wanted = key(text)
    near = [name for name in names if len(wanted) >= 3 and wanted in name] or difflib.get_close_matches(
        wanted[:60], names, n=12, cutoff=0.5
    )
    found = list(dict.fromkeys(names[name].name for name in near))[:6]
    if not found:
        raise BadRequest(message, hint="Write it like rtx4090, 3060-12g, 7900xtx or m2-max-32g.", name=_short(text))
    raise BadRequest(message, hint="Did you mean {near}?", name=_short(text), near=", ".join(found))


@lru_cache(maxsize=1)
def tables() -> Tables:
    """The shipped table, read on first use."""
    return read(DEVICES_PATH.read_text(encoding="utf-8"))


def read(text: str) -> Tables:
    """The tables in a text of the form of ``devices.toml``.

    Raises:
        ValueError, KeyError, TypeError: not of that form; ours is tested to be.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    table: dict[str, Any] = tomllib.loads(text)
    rates = {kind: (int(low), int(high)) for kind, (low, high) in table["memory"].items()}
    rows = [(row, _card(row, vendor)) for vendor in ("nvidia", "amd", "intel") for row in table[vendor]]
    rows += [(row, _chip(row)) for row in table["unified"]]
    cpus = [(row, _cpu(row, rates)) for row in table["cpu"]]
    return Tables(
        devices=tuple(device for _, device in rows),
        by_key=_index(rows, lambda device: (device.name, device.title), _short_names),
        cpus=_index(
            cpus, lambda cpu: (cpu.name,), lambda cpu: (re.sub(r"^(ryzen-\d-|i\d-|xeon-(gold-)?|ultra-\d-|\w+-)", "", cpu.name),)
        ),
        memory_rates=rates,
        lane_bytes_per_s={int(generation): round(rate * _GIGA) for generation, rate in table["pcie"].items()},
        disk_bytes_per_s={kind: round(rate * _GIGA) for kind, rate in table["disk"].items()},
        shares={name: float(share) for name, share in table["unified_share"].items()},
    )


def _card(row: Mapping[str, Any], vendor: str) -> Device:
    generation, lanes = row["pcie"].split("x")
    capability = row["cc"].split(".") if "cc" in row else None
    return Device(
        name=row["name"],
        title=row["title"],
        vendor=vendor,
        memory_bytes=round(row["gib"] * GIB),
        bandwidth_bytes_per_s=round(row["gb_s"] * _GIGA),
        flops_fp16=_scaled(row.get("fp16")),
        ops_int8=_scaled(row.get("int8")),
        compute_capability=(int(capability[0]), int(capability[1])) if capability else None,
        pcie=(int(generation), int(lanes)),
        num_gpus=row.get("num", 1),
        released_on=row["released"],
        prices=_prices(row),
        source=_address(row["source"]),
        rates=row.get("rates", "computed"),
        note=row.get("note"),
    )


def _chip(row: Mapping[str, Any]) -> Device:
    choices = tuple(size * GIB for size in row["ram"])
    capability = row["cc"].split(".") if "cc" in row else None
    return Device(
        name=row["name"],
        title=row["title"],
        vendor=row["vendor"],
        memory_bytes=choices[0] if len(choices) == 1 else None,
        bandwidth_bytes_per_s=round(row["gb_s"] * _GIGA),
        flops_fp16=_scaled(row.get("fp16")),
        compute_capability=(int(capability[0]), int(capability[1])) if capability else None,
        is_unified=True,
        memory_choices_bytes=choices,
        gpu_share=row.get("gpu_share"),
        num_gpu_cores=row["gpu_cores"],
        num_cores=row["cores"],
        released_on=row["released"],
        source=_address(row.get("source", "published specification")),
        rates=row["rates"],
    )


def _cpu(row: Mapping[str, Any], rates: Mapping[str, tuple[int, int]]) -> Cpu:
    memory = _memory(row["memory"], rates)
    return Cpu(row["name"], row["cores"], row["threads"], tuple(row["features"]), memory, row.get("performance_cores"))


def _prices(row: Mapping[str, Any]) -> tuple[Price, ...]:
    source = "price asked at release, as announced"
    usd = (Price(row["usd"], "USD", row["released"], source),) if "usd" in row else ()
    return usd + ((Price(row["cny"], "CNY", row["released"], source),) if "cny" in row else ())


def _scaled(rate: float | None) -> float | None:
    return None if rate is None else float(rate * _TERA)


def _address(source: str) -> str:
    return source.replace("tpu:", "https://www.techpowerup.com/gpu-specs/")


def _short_names(device: Device) -> tuple[str, ...]:
    """Names without the series (4090, 7900xtx), and with the memory where it is the card's own (rtx4090-24g)."""
    names = [device.name]
    if re.match(r"(rtx|gtx|rx)-\d", device.name):
        names.append(device.name.partition("-")[2])
    if not device.is_unified and device.memory_bytes is not None:
        bare = [re.sub(r"-\d+g\b", "", name) for name in names]
        names += [f"{name}-{device.memory_bytes // GIB}g" for name in bare]
    return tuple(names)


_Row = TypeVar("_Row")


def _index(
    rows: list[tuple[dict[str, Any], _Row]], own: Callable[[_Row], Iterable[str]], short: Callable[[_Row], Iterable[str]]
) -> Mapping[str, _Row]:
    """Rows by key. Own names and aliases must be distinct; a short name that could mean two rows means none."""
    found: dict[str, _Row] = {}
    guesses: dict[str, list[_Row]] = {}
    for row, item in rows:
        aliases: list[str] = row.get("aliases", [])
        for name in {key(written) for written in (*own(item), *aliases)}:
            if name in found:
                raise ValueError(f"the table has {name} twice")
            found[name] = item
        without_series = [re.sub(r"^(rtx|gtx|rx)(?=\d)", "", key(alias)) for alias in aliases]
        for name in {*map(key, short(item)), *without_series}:
            guesses.setdefault(name, []).append(item)
    return found | {name: items[0] for name, items in guesses.items() if len(items) == 1 and name not in found}

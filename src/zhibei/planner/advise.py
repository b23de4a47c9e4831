"""Which hardware would run a model, and how fast: machines made of this one and the table of devices, cheapest first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from zhibei.planner import devices
from zhibei.planner.devices import Device
from zhibei.planner.imagined import as_hardware, imagine
from zhibei.plans import Hardware, Plan

Currency = Literal["USD", "CNY"]
# About what a dollar was worth in the years of these prices; only used where a price is known in the other currency.
CNY_PER_USD = 7.2
MEMORY_GIB = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
CARD_COUNTS = (1, 2, 4)
_NOT_FOR_SALE = ("laptop", "mobile")
_OLDEST = 2016


@dataclass(frozen=True, slots=True)
class Cost:
    """What is asked for a machine's new parts, and when that was. ``is_converted``: it was asked in another currency."""

    amount: int
    currency: Currency
    asked_on: date
    is_converted: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine to be had. ``count`` of ``device``, put into the machine there is; or ``memory_bytes`` of memory in all.

    ``cost`` None: the table knows no price.
    """

    kind: Literal["this", "memory", "cards", "whole"]
    hardware: Hardware
    title: str = ""
    count: int = 0
    memory_bytes: int | None = None
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """A machine and how the model would run on it."""

    machine: Machine
    plan: Plan

    @property
    def rate(self) -> float:
        """Tokens per second; 0: not known."""
        speed = self.plan.speed
        return (speed.generation_tokens_per_s or 0.0) if speed is not None else 0.0


def advise(
    machines: Iterable[Machine],
    make_plan: Callable[[Hardware], Plan],
    *,
    least_rate: float,
    budget: int | None = None,
    active_bytes: int | None = None,
    limit: int = 10,
) -> tuple[tuple[Advice, ...], tuple[Advice, ...]]:
    """``(with a price within the budget, without a price)``, the cheapest and the smallest first.

    Of those with a price only such are told than which nothing cheaper is as fast; of the others the least of each kind.

    Args:
        least_rate: tokens per second that are wanted.
        active_bytes: weights that a token is computed with: they bound the speed, and spare many a plan.
        limit: the most of each to be told.
    """
    all_machines = tuple(machines)

    def tried(machine: Machine, best_rate: float = 0.0) -> Advice | None:
        bound = fastest_rate(machine.hardware, active_bytes)
        if bound is not None and (bound < least_rate or bound <= best_rate):
            return None
        found = Advice(machine, make_plan(machine.hardware))
        return found if found.plan.is_runnable and found.rate >= least_rate and found.rate > best_rate else None

    priced: list[Advice] = []
    dear_last = sorted(
        ((machine.cost, machine) for machine in all_machines if machine.cost is not None),
        key=lambda item: (item[0].amount, -(fastest_rate(item[1].hardware, active_bytes) or 0.0)),
    )
    for cost, machine in dear_last:
        is_dear = budget is not None and cost.amount > budget
        if is_dear or len(priced) >= limit:
            break
        found = tried(machine, priced[-1].rate if priced else 0.0)
        if found is not None:
            priced.append(found)
    unpriced: list[Advice] = []
    seen: set[tuple[str, str]] = set()
    for machine in sorted((machine for machine in all_machines if machine.cost is None), key=_rank):
        key = (machine.kind, machine.title)
        if key not in seen and len(unpriced) < limit and (found := tried(machine)) is not None:
            seen.add(key)
            unpriced.append(found)
    return tuple(priced), tuple(unpriced)


def fastest_rate(hardware: Hardware, active_bytes: int | None) -> float | None:
    """Tokens per second if all weights lay in the fastest memory there is, and nothing else took time; None: not known."""
    speeds = [hardware.bandwidth_bytes_per_s, *(gpu.bandwidth_bytes_per_s for gpu in hardware.gpus)]
    if not active_bytes or None in speeds:
        return None
    return max(speed for speed in speeds if speed is not None) / active_bytes


def machines_from(here: Hardware, currency: Currency) -> Iterator[Machine]:
    """This machine; it with more memory; it with cards; and machines whose chip has both."""
    yield Machine("this", here)
    total = here.total_bytes or 0
    for size in MEMORY_GIB:
        if size * devices.GIB > total * 1.1:
            yield Machine("memory", with_memory(here, size * devices.GIB), memory_bytes=size * devices.GIB)
    for device in devices.tables().devices:
        if any(word in device.name for word in _NOT_FOR_SALE) or _is_old(device):
            continue
        if device.is_unified:
            yield from _whole_machines(device)
            continue
        for count in CARD_COUNTS:
            cards = as_hardware(imagine(f"gpu={device.name}x{count}" if count > 1 else f"gpu={device.name}"))
            hardware = replace(here, gpus=cards.gpus, backends=cards.backends)
            yield Machine("cards", hardware, device.title, count, cost=cost_of(device, count, currency))


def with_memory(here: Hardware, total_bytes: int) -> Hardware:
    """The machine with so much memory in all; what programs take of it stays the same."""
    more = total_bytes - (here.total_bytes or 0)
    return replace(here, total_bytes=total_bytes, available_bytes=(here.available_bytes or 0) + more, memory_limit_bytes=None)


def cost_of(device: Device, count: int, currency: Currency) -> Cost | None:
    """What so many cards cost, in this currency if the table has it; None where it has no price."""
    for price in device.prices:
        if price.currency == currency:
            return Cost(price.amount * count, currency, price.asked_on)
    for price in device.prices:
        factor = CNY_PER_USD if currency == "CNY" else 1 / CNY_PER_USD
        return Cost(round(price.amount * count * factor), currency, price.asked_on, is_converted=True)
    return None


def _whole_machines(device: Device) -> Iterator[Machine]:
    for size in device.memory_choices_bytes:
        hardware = as_hardware(imagine(f"gpu={device.name},ram={size // devices.GIB}g"))
        yield Machine("whole", hardware, device.title, 1, memory_bytes=size)


def _is_old(device: Device) -> bool:
    return device.released_on is not None and device.released_on.year < _OLDEST


def _rank(machine: Machine) -> tuple[int, int, int]:
    """This machine, then memory, then whole machines and cards, the smaller ones first."""
    order = ("this", "memory", "whole", "cards")
    return order.index(machine.kind), machine.memory_bytes or 0, machine.count

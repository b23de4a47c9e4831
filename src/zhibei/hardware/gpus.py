"""Several probes' answers about graphics processors as one list: the best probe first, facts merged by identity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

from zhibei.plans import Gpu


def merged(*probes: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """What an earlier probe says stands; a later one fills what it left open and adds what it did not see."""
    found: list[Gpu] = []
    for probe in probes:
        known, taken = len(found), set[int]()
        for gpu in probe:
            index = next((i for i in range(known) if i not in taken and _is_same(found[i], gpu)), None)
            if index is None:
                found.append(gpu)
            else:
                taken.add(index)
                found[index] = _filled(found[index], gpu)
    return tuple(found)


def _is_same(one: Gpu, other: Gpu) -> bool:
    if one.vendor != other.vendor:
        return False
    if one.pci_address is not None and other.pci_address is not None:
        return one.pci_address == other.pci_address
    if one.uuid is not None and other.uuid is not None:
        return one.uuid == other.uuid
    # Without identity the name must do; one that is only a maker and a number says nothing against it.
    generic = f"{one.vendor} GPU"
    return one.name == other.name or one.name.startswith(generic) or other.name.startswith(generic)


def _filled(gpu: Gpu, more: Gpu) -> Gpu:
    missing = {item.name: getattr(more, item.name) for item in fields(gpu) if getattr(gpu, item.name) is None}
    return replace(gpu, **missing)

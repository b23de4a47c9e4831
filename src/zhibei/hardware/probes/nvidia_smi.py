"""What ``nvidia-smi`` prints, for a driver whose library cannot be asked: its table of values, and its picture."""

from __future__ import annotations

import csv
import re
from dataclasses import replace

from zhibei.hardware.machine import Machine
from zhibei.hardware.quantities import label, pci_address, size, version, whole
from zhibei.plans import Gpu

FIELDS = "name,uuid,pci.bus_id,driver_version,memory.total,memory.free,compute_cap,display_active,mig.mode.current"
# Drivers before this one have no memory that is neither used nor free.
_RESERVES_SINCE = 510

_HEAD = re.compile(
    r"^\|\s*(\d{1,2})\s+(\S.*?)\s+(?:(?:On|Off|N/A|WDDM|TCC|MCDM)\s*)\|\s*([0-9A-Fa-f:]{7,16}\.\d)\s+(On|Off|N/A)\s*\|"
)
_MEMORY = re.compile(r"^\|.*\|\s*(\d+)\s*MiB\s*/\s*(\d+)\s*MiB\s*\|")
_NOT_SUPPORTED = re.compile(r"^\|.*\|\s*(?:Not Supported|N/A\s*/\s*N/A)\s*\|")
_PARTITION = re.compile(r"^\|[^|]*\|[^|]*\|\s*(Enabled|Disabled)\*?\s*\|")


def probe(machine: Machine) -> tuple[Gpu, ...]:
    """All GPUs the tool lists. Old drivers know fewer fields and refuse the whole question; then the picture is read."""
    values = machine.output("nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv")
    picture = machine.output("nvidia-smi") or ""
    return parse_values(values, cuda_version(picture)) or parse_picture(picture)


def refreshed(machine: Machine, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The same GPUs with the free memory of this moment, asked for alone."""
    values = machine.output("nvidia-smi", "--query-gpu=name,pci.bus_id,memory.free", "--format=csv")
    free = {gpu.pci_address: gpu.free_bytes for gpu in parse_values(values)}
    return tuple(replace(gpu, free_bytes=free.get(gpu.pci_address)) for gpu in gpus)


def cuda_version(picture: str) -> str | None:
    """The highest CUDA version the driver runs, which is only in the picture."""
    match = re.search(r"CUDA Version:\s*(\d{1,3}\.\d{1,2})\b", picture)
    return match[1] if match else None


def parse_values(text: str | None, cuda: str | None = None) -> tuple[Gpu, ...]:
    """``--format=csv``: a line of names, then a line for each GPU."""
    rows = list(csv.DictReader((text or "").splitlines(), skipinitialspace=True))
    return tuple(gpu for gpu in (_from_row(row, cuda) for row in rows[:64]) if gpu is not None)


def _from_row(row: dict[str, str], cuda: str | None) -> Gpu | None:
    values = {name.split(" [")[0]: value for name, value in row.items() if isinstance(name, str) and isinstance(value, str)}
    name = label(values.get("name"))
    if name is None:
        return None
    memory = values.get("memory.total", "")
    total = size(memory)
    capability = re.fullmatch(r"(\d{1,2})\.(\d)", values.get("compute_cap", ""))
    uuid = label(values.get("uuid"))
    return Gpu(
        name,
        "NVIDIA",
        total_bytes=total or None,
        free_bytes=size(values.get("memory.free")),
        is_integrated=False if total else True if memory in ("[N/A]", "[Not Supported]") else None,
        architecture=f"sm_{capability[1]}{capability[2]}" if capability else None,
        driver_version=version(values.get("driver_version")),
        cuda_version=cuda,
        has_display=_yes(values.get("display_active")),
        is_partitioned=_yes(values.get("mig.mode.current")),
        pci_address=pci_address(values.get("pci.bus_id")),
        uuid=uuid if uuid is not None and uuid.startswith("GPU-") else None,
    )


def _yes(text: str | None) -> bool | None:
    return {"Enabled": True, "Disabled": False, "On": True, "Off": False}.get(text or "")


def parse_picture(text: str) -> tuple[Gpu, ...]:
    """The table for people. Long names are cut short in it, and the memory a driver keeps for itself is not told."""
    gpus: list[Gpu] = []
    driver, cuda = _driver(text), cuda_version(text)
    before_processes = text.split("Processes:")[0].split("MIG devices:")[0]
    blocks = re.split(r"^\+[-+]+\+\s*$|^\|[=+]+\|\s*$", before_processes, flags=re.MULTILINE)
    for block in blocks:
        lines = [line for line in block.splitlines() if line.startswith("|")]
        head = _HEAD.match(lines[0]) if lines else None
        if head is not None:
            gpus.append(_from_block(head, lines, driver, cuda))
    return tuple(gpus[:64])


def _driver(text: str) -> str | None:
    match = re.search(r"Driver Version:\s*([\d.]+)", text)
    return version(match[1]) if match else None


def _from_block(head: re.Match[str], lines: list[str], driver: str | None, cuda: str | None) -> Gpu:
    memory = next((match for match in map(_MEMORY.match, lines) if match), None)
    used, total = (whole(memory[1]), whole(memory[2], 1)) if memory else (None, None)
    shares = memory is None and any(map(_NOT_SUPPORTED.match, lines))
    partition = next((match for match in map(_PARTITION.match, lines[1:]) if match), None)
    is_old = (whole((driver or "").split(".")[0]) or _RESERVES_SINCE) < _RESERVES_SINCE
    knows_free = is_old and used is not None and total is not None and used <= total
    return Gpu(
        label(head[2]) or "NVIDIA GPU",
        "NVIDIA",
        total_bytes=None if total is None else total << 20,
        free_bytes=(total - used) << 20 if knows_free and total is not None and used is not None else None,
        is_integrated=True if shares else None if total is None else False,
        driver_version=driver,
        cuda_version=cuda,
        has_display=_yes(head[4]),
        is_partitioned=_yes(partition[1]) if partition else None,
        pci_address=pci_address(head[3]),
    )

"""The doctor's report, in lines and as JSON. Fit for a forum: it does not tell who the person is. Writes nothing."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhibei import __version__
from zhibei.cli import machine_text
from zhibei.cli.render import GAP, columns, pad, printable, wrap
from zhibei.i18n import N_, Translator
from zhibei.judging.doctor import CheckName, Finding, Level, worst
from zhibei.plans import Hardware
from zhibei.units import format_bytes

_LABELS: dict[CheckName, str] = {
    "engines": N_("Engines"),
    "kernels": N_("Kernels"),
    "graphics": N_("Graphics"),
    "memory": N_("Memory"),
    "limits": N_("Limits"),
    "disk": N_("Disk"),
    "store": N_("Store"),
    "models": N_("Models"),
    "downloads": N_("Downloads"),
    "settings": N_("Settings"),
    "server": N_("Server"),
    "running": N_("Loaded"),
    "network": N_("Network"),
    "hubs": N_("Hubs"),
}
_MARKS: dict[Level, tuple[str, str]] = {
    "ok": (N_("ok"), "green"),
    "note": (N_("note"), "yellow"),
    "problem": (N_("problem"), "red"),
}
_LEAST_COLUMNS = 20


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. ``person``: the directory that is written ``~``, and whose name is left out of other paths."""

    hardware: Hardware
    findings: Sequence[Finding]
    person: Path


def lines(report: Report, translator: Translator, width: int, style: Callable[[str, str], str]) -> list[str]:
    """The whole report; ``style`` colours a mark."""
    text = translator.text
    rows = [row for row in _machine(report.hardware, text) if row[1]]
    head_columns = max(columns(name) for name, _ in rows)
    found: list[str] = []
    for name, value in rows:
        found += _hanging(pad(name, head_columns) + GAP, _clean(value, report.person), width)
    return [*found, "", *_checks(report, translator, width, style), "", _summary(report.findings, text)]


def _checks(report: Report, translator: Translator, width: int, style: Callable[[str, str], str]) -> list[str]:
    text = translator.text
    marks = [text(_MARKS[finding.level][0]) for finding in report.findings]
    labels = [text(_LABELS[finding.check]) for finding in report.findings]
    hints = [_told(finding.hint, finding, text, report.person) for finding in report.findings]
    # By all marks, so that reports look alike whatever is in them.
    mark_columns = max(columns(text(mark)) for mark, _ in _MARKS.values())
    start = mark_columns + max(map(columns, labels), default=0) + 2 * len(GAP)
    found: list[str] = []
    for index, finding in enumerate(report.findings):
        mark = pad(marks[index], mark_columns)
        told = _told(finding.message, finding, text, report.person) or ""
        first, *rest = _hanging(pad(mark + GAP + labels[index], start), told, width)
        found += [style(mark, _MARKS[finding.level][1]) + first.removeprefix(mark), *rest]
        hint = hints[index]
        # What is to be done about several things alike is said once, after the last of them.
        is_last = index + 1 == len(hints) or (labels[index + 1], hints[index + 1]) != (labels[index], hint)
        if hint is not None and is_last:
            label = text("hint:") + ("" if text("hint:").endswith("：") else " ")
            found += _hanging(" " * start + label, hint, width, indent=" " * start)
    return found


def document(report: Report) -> dict[str, Any]:
    """The same facts. Names are stable; sizes are bytes, and what is not known is null."""
    hardware, text = report.hardware, Translator("en").text
    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": {
            "name": hardware.system,
            "version": hardware.system_version,
            "machine": platform.machine(),
            "container": hardware.container,
            "virtual_machine": hardware.virtual_machine,
        },
        "processor": {
            "name": hardware.cpu_name,
            "num_physical_cores": hardware.num_physical_cores,
            "num_logical_cores": hardware.num_logical_cores,
            "features": list(hardware.cpu_features),
        },
        "memory": {"total_bytes": hardware.total_bytes, "available_bytes": hardware.available_bytes},
        "gpus": [
            {"name": gpu.name, "total_bytes": gpu.total_bytes, "driver_version": gpu.driver_version} for gpu in hardware.gpus
        ],
        "level": worst(report.findings),
        "findings": [
            {
                "check": finding.check,
                "level": finding.level,
                "message": _told(finding.message, finding, text, report.person),
                "hint": _told(finding.hint, finding, text, report.person),
            }
            for finding in report.findings
        ],
    }


def _machine(hardware: Hardware, text: machine_text.Texts) -> list[tuple[str, str]]:
    system = " ".join(filter(None, (hardware.system, hardware.system_version)))
    virtual = text("virtual machine") if hardware.virtual_machine == "other" else hardware.virtual_machine
    cores, cpu = machine_text.cores(hardware, text), hardware.cpu_name or text("not known")
    processor = text("{name}; cores: {cores}", name=cpu, cores=cores)
    if hardware.cpu_features:
        features = machine_text.instructions(hardware)
        processor = text("{name}; cores: {cores}; {instructions}", name=cpu, cores=cores, instructions=features)
    memory = "" if hardware.total_bytes is None else format_bytes(hardware.total_bytes)
    if hardware.available_bytes is not None and memory:
        memory = text("{free} of {total} free", free=format_bytes(hardware.available_bytes), total=memory)
    cards = [f"{gpu.name} ({machine_text.gpu_memory(gpu, text)})" for gpu in hardware.gpus]
    return [
        ("Zhibei", f"{__version__}, Python {platform.python_version()}"),
        (text("System"), ", ".join(filter(None, (system, platform.machine(), hardware.container, virtual)))),
        (text("Processor"), processor),
        (text("Memory"), memory or text("not known")),
        (text("Graphics"), "; ".join(cards) or text("none")),
    ]


def _summary(findings: Sequence[Finding], text: machine_text.Texts) -> str:
    problems, notes = (sum(finding.level == level for finding in findings) for level in ("problem", "note"))
    if not problems and not notes:
        return text("Nothing is wrong.")
    if not problems:
        return text("Nothing is wrong; notes: {notes}.", notes=notes)
    return text("Problems: {problems}; notes: {notes}.", problems=problems, notes=notes)


def _hanging(head: str, value: str, width: int, *, indent: str | None = None) -> list[str]:
    """A paragraph after a head; its further lines begin where the first one does, or at ``indent``."""
    start = columns(head)
    first, *rest = wrap(value, max(_LEAST_COLUMNS, width - start)) or [""]
    left = " " * start if indent is None else indent
    return [(head + first).rstrip(), *(left + line for line in rest)]


def _told(template: str | None, finding: Finding, text: machine_text.Texts, person: Path) -> str | None:
    return None if template is None else _clean(text(template, **finding.values), person)


def _clean(value: str, person: Path) -> str:
    """One line without control characters, and without what tells who the person is."""
    told = printable(value).replace("\n", " ").replace("\t", " ")
    if not person.name:
        return told
    for directory in dict.fromkeys((str(person), str(person.resolve()))):
        told = re.sub(re.escape(directory) + r"(?![\w-])", "~", told)
    # Elsewhere on a disk, directories are often called as their owner is.
    return re.sub(rf"(?<=[/\\]){re.escape(person.name)}(?![\w.-])", "…", told)

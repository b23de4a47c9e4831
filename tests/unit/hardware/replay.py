"""A machine that answers from a record, in place of this one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhibei.hardware.machine import Counts

CAPTURED = Path(__file__).parents[2] / "captured" / "hardware"


@dataclass
class Replay:
    """Answers what it was given, and remembers which tools were asked."""

    system: str = "Linux"
    release: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, dict[str, object]] = field(default_factory=dict)
    counted: Counts = field(default_factory=Counts)
    metal: int | None = None
    asked: list[str] = field(default_factory=list)

    def text(self, path: str) -> str | None:
        return self.files.get(path)

    def names(self, directory: str) -> tuple[str, ...]:
        below = {*self.files, *self.links}
        return tuple(sorted({path[len(directory) + 1 :].split("/")[0] for path in below if path.startswith(f"{directory}/")}))

    def target(self, link: str) -> str | None:
        return self.links.get(link)

    def output(self, *command: str) -> str | None:
        asked = " ".join(command)
        self.asked.append(asked)
        recorded = [name for name in self.outputs if _stands_for(name, asked)]
        return self.outputs[max(recorded, key=len)] if recorded else None

    def library(self, *names: str) -> Any | None:
        return next((self.libraries[name] for name in names if name in self.libraries), None)

    def registry(self, key: str) -> Mapping[str, object]:
        return self.keys.get(key, {})

    def counts(self) -> Counts:
        return self.counted

    def metal_bytes(self) -> int | None:
        return self.metal


def _stands_for(name: str, asked: str) -> bool:
    """A tool's name stands for all it is asked; that of nvidia-smi only for its picture."""
    return name == asked or (name != "nvidia-smi" and asked.startswith(name))


@dataclass(frozen=True)
class Capture:
    name: str
    head: dict[str, str]
    machine: Replay
    expected: dict[str, Any]


def read(path: Path) -> Capture:
    """One file; its form is in the README beside it."""
    head, *parts = re.split(r"^--- (.+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    facts = dict(line.split(": ", 1) for line in head.splitlines())
    machine, expected = Replay(facts["system"]), {}
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        kind, _, name = title.partition(" ")
        if kind in ("file", "assumed"):
            machine.files[name] = body
        elif kind == "output":
            machine.outputs[name] = body
        else:
            expected = json.loads(body)
    return Capture(path.stem, facts, machine, expected)

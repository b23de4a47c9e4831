"""What is kept of one measured answer, and its JSON: every field of a line is checked when it is read. No I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any, get_args

from zhibei.planner.work import What, Work
from zhibei.plans import Kernels

MAX_LINE_BYTES = 16 << 10
_MAX_TEXT = 256
_MAX_ITEMS = 128
_MAX_NUMBER = 10**18
_MARK = "zhibei-kernels"
_WHATS = frozenset(get_args(What))


@dataclass(frozen=True, slots=True)
class Run:
    """One answer that was measured. Seconds are None for a half that was too short to tell anything.

    ``machine`` is ``hardware.measured.fingerprint``; ``kernels`` what the engine could use of the processor and drivers, and
    ``kernels_mark`` of our own that it computed with.
    ``depth``: tokens that were there before the prompt. ``planned_bytes`` and ``measured_bytes``: memory.
    """

    machine: str
    measured_at: datetime
    model: str
    digest: str | None
    architecture: str
    quantisation: str | None
    engine: str
    engine_version: str | None
    kernels: tuple[str, ...]
    num_threads: int
    ctx_size: int
    depth: int
    num_prompt_tokens: int
    prompt_s: float | None
    num_generated_tokens: int
    generation_s: float | None
    planned_bytes: int | None = None
    measured_bytes: int | None = None
    predicted_prompt_s: float | None = None
    predicted_generation_s: float | None = None
    prompt_work: tuple[Work, ...] = ()
    generation_work: tuple[Work, ...] = ()


def kernels_mark(kernels: Kernels | None) -> str | None:
    """Our kernels as a run names them, ``zhibei-kernels 0.1.0 avx2``; None: none compute."""
    if kernels is None or kernels.level is None:
        return None
    return f"{_MARK} {kernels.version or '?'} {kernels.level}"


def mark_in(run: Run) -> str | None:
    """Which of our kernels a run was computed with; None: with none."""
    return next((each for each in run.kernels if each.startswith(_MARK)), None)


def document(run: Run) -> dict[str, Any]:
    """As a JSON document; work as rows, without the names of its fields."""
    found = {field.name: getattr(run, field.name) for field in fields(Run)}
    found["measured_at"] = run.measured_at.isoformat()
    for name in ("prompt_work", "generation_work"):
        found[name] = [[getattr(item, field.name) for field in fields(Work)] for item in found[name]]
    return found


def parse(line: bytes) -> Run | None:
    """A run out of a line; None for anything else."""
    if not 2 <= len(line) <= MAX_LINE_BYTES:
        return None
    try:
        found = json.loads(line)
        return _run(found) if isinstance(found, dict) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _run(found: Mapping[str, Any]) -> Run:
    """Every field, checked.

    Raises:
        ValueError, TypeError, KeyError: one that is missing or not what it must be.
    """
    moment = datetime.fromisoformat(_text(found["measured_at"]))
    kernels = found["kernels"]
    if not isinstance(kernels, list) or len(kernels) > _MAX_ITEMS:
        raise ValueError("kernels")
    return Run(
        machine=_text(found["machine"]),
        measured_at=moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc),
        model=_text(found["model"]),
        digest=_text_or_none(found["digest"]),
        architecture=_text(found["architecture"]),
        quantisation=_text_or_none(found["quantisation"]),
        engine=_text(found["engine"]),
        engine_version=_text_or_none(found["engine_version"]),
        kernels=tuple(map(_text, kernels)),
        num_threads=_count(found["num_threads"], 1),
        ctx_size=_count(found["ctx_size"]),
        depth=_count(found["depth"]),
        num_prompt_tokens=_count(found["num_prompt_tokens"]),
        prompt_s=_seconds(found["prompt_s"]),
        num_generated_tokens=_count(found["num_generated_tokens"]),
        generation_s=_seconds(found["generation_s"]),
        planned_bytes=None if found["planned_bytes"] is None else _count(found["planned_bytes"]),
        measured_bytes=None if found["measured_bytes"] is None else _count(found["measured_bytes"]),
        predicted_prompt_s=_seconds(found["predicted_prompt_s"]),
        predicted_generation_s=_seconds(found["predicted_generation_s"]),
        prompt_work=_works(found["prompt_work"]),
        generation_work=_works(found["generation_work"]),
    )


def _works(rows: object) -> tuple[Work, ...]:
    if not isinstance(rows, list) or len(rows) > _MAX_ITEMS:
        raise ValueError("work")
    return tuple(_work(*row) for row in rows)


def _work(device: object, what: Any, family: object, num_bytes: object, num_ops: object, columns: object, passes: object) -> Work:
    if isinstance(device, bool) or not isinstance(device, int) or not -1 <= device < _MAX_ITEMS or what not in _WHATS:
        raise ValueError("work")
    numbers = [_number(value) for value in (num_bytes, num_ops, columns, passes)]
    return Work(device, what, _text(family), *numbers)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise ValueError("text")
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _count(value: object, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MAX_NUMBER:
        raise ValueError("count")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_NUMBER or math.isnan(value):
        raise ValueError("number")
    return float(value)


def _seconds(value: object) -> float | None:
    found = None if value is None else _number(value)
    if found == 0:
        raise ValueError("seconds")
    return found

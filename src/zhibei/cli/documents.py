"""What ``--json`` prints: plain documents of models, running models and answers. Names are stable; sizes are bytes."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from zhibei.models import ModelInfo, StoredModel
from zhibei.plans import Resident

if TYPE_CHECKING:
    from zhibei.events import Timings, Usage


def model(stored: StoredModel) -> dict[str, Any]:
    """A model as a row of ``list``."""
    info = stored.info
    return {
        "name": stored.name,
        "size_bytes": stored.size_bytes,
        "format": info.format if info else None,
        "architecture": info.architecture if info else None,
        "num_parameters": info.num_parameters if info else None,
        "quantisation": info.quantisation if info else None,
        "context_length": info.context_length if info else None,
        "source": stored.source,
        "licence": stored.licence,
        "in_place": stored.in_place,
        "added_at": moment(stored.added_at),
        "problem": stored.problem,
    }


def model_details(stored: StoredModel) -> dict[str, Any]:
    """A model with its files and all that its header says."""
    files = [{"role": f.role, "path": str(f.path), "size_bytes": f.size_bytes, "digest": f.digest} for f in stored.files]
    return {**model(stored), "files": files, "info": _info(stored.info)}


def resident(running: Resident) -> dict[str, Any]:
    """A running model as a row of ``ps``."""
    return {
        "name": running.name,
        "engine": running.engine,
        "task": running.task,
        "state": running.state,
        "pid": running.pid,
        "ctx_size": running.ctx_size,
        "num_slots": running.num_slots,
        "num_leases": running.num_leases,
        "planned_bytes": running.planned_bytes,
        "measured_bytes": running.measured_bytes,
        "expires_at": None if running.expires_at is None else moment(running.expires_at),
    }


def usage(counted: Usage) -> dict[str, Any]:
    """Tokens counted."""
    return {
        "num_prompt_tokens": counted.num_prompt_tokens,
        "num_generated_tokens": counted.num_generated_tokens,
        "num_cached_tokens": counted.num_cached_tokens,
    }


def timings(measured: Timings) -> dict[str, Any]:
    """What the engine measured."""
    return {
        "num_prompt_tokens": measured.num_prompt_tokens,
        "prompt_s": measured.prompt_s,
        "prompt_tokens_per_s": measured.prompt_tokens_per_s,
        "num_generated_tokens": measured.num_generated_tokens,
        "generation_s": measured.generation_s,
        "generation_tokens_per_s": measured.generation_tokens_per_s,
        "num_cached_tokens": measured.num_cached_tokens,
    }


def moment(time: datetime) -> str:
    """ISO 8601."""
    return time.isoformat(timespec="seconds")


def _info(info: ModelInfo | None) -> dict[str, Any] | None:
    if info is None:
        return None
    document = {field.name: getattr(info, field.name) for field in fields(info)}
    document["tensor_types"] = [
        {"type": kind, "num_tensors": count, "size_bytes": size} for kind, count, size in info.tensor_types
    ]
    return document

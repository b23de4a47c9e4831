"""What ``--json`` prints: plain documents of models, running models and answers. Names are stable; sizes are bytes."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from zhibei.models import Leftover, ModelInfo, StoredModel
from zhibei.plans import Kernels, Resident

if TYPE_CHECKING:
    from zhibei.events import Timings, Usage
    from zhibei.service import UpstreamSeen


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
    return {**model(stored), "files": files, "info": info(stored.info)}


def upstream(seen: UpstreamSeen) -> dict[str, Any]:
    """Another server whose models are used here."""
    return {"name": seen.name, "url": seen.url, "num_models": seen.num_models, "is_up": seen.is_up}


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
        "predicted_tokens_per_s": running.predicted_tokens_per_s,
        "measured_tokens_per_s": running.measured_tokens_per_s,
        "expires_at": None if running.expires_at is None else moment(running.expires_at),
        "pinned": running.pinned,
        "aliases": list(running.aliases),
        "num_waiting": running.num_waiting,
        "load_s": running.load_s,
        "num_requests": running.num_requests,
        "num_prompt_tokens": running.num_prompt_tokens,
        "num_generated_tokens": running.num_generated_tokens,
        "num_cached_tokens": running.num_cached_tokens,
        "num_crashes": running.num_crashes,
        "device_problem": running.device_problem,
        "kernels": None if running.kernels is None else kernels(running.kernels),
    }


def kernels(found: Kernels) -> dict[str, Any]:
    """Kernels that an engine uses, or could."""
    return {
        "version": found.version,
        "level": found.level,
        "attention": found.attention,
        "problem": found.problem,
        "hint": found.hint,
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


def info(found: ModelInfo | None) -> dict[str, Any] | None:
    """All that a model's header says."""
    if found is None:
        return None
    document = {field.name: _plain(getattr(found, field.name)) for field in fields(found)}
    document["tensor_types"] = [
        {"type": kind, "num_tensors": count, "size_bytes": size} for kind, count, size in found.tensor_types
    ]
    return document


def _plain(value: Any) -> Any:
    """A value as JSON has it: records within are objects."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def leftover(found: Leftover) -> dict[str, Any]:
    """Something in the store that belongs to no model."""
    return {
        "kind": found.kind,
        "origin": found.origin,
        "path": str(found.path),
        "size_bytes": found.size_bytes,
        "total_bytes": found.total_bytes,
        "active": found.is_active,
    }

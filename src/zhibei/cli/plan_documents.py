"""Plans and measured runs as ``--json`` prints them. Names are stable; sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zhibei.plans import Plan

if TYPE_CHECKING:
    from zhibei.judging.fit import KernelsGain
    from zhibei.runtime.runs import Run


def plan_document(plan: Plan) -> dict[str, Any]:
    """How a model would run."""
    speed, guide = plan.speed, plan.guide
    return {
        "verdict": plan.verdict,
        "ctx_size": plan.ctx_size,
        "num_slots": plan.num_slots,
        "needed_bytes": plan.needed_bytes,
        "total_bytes": plan.total_bytes,
        "available_bytes": plan.available_bytes,
        "memory": [{"what": line.what, "device": line.device, "num_bytes": line.num_bytes} for line in plan.memory],
        "devices": [_plain(use) for use in plan.devices],
        "num_layers": plan.num_layers,
        "gpu_layers": plan.spec.gpu_layers if plan.spec is not None else None,
        "speed": None if speed is None else _plain(speed),
        "guide": None if guide is None else _plain(guide),
        "reasons": [_template(message, values) for message, values in plan.reasons],
        "changes": [
            {
                "kind": change.kind,
                **_template(change.message, change.values),
                "verdict": change.verdict,
                "ctx_size": change.ctx_size,
                "num_bytes": change.num_bytes,
            }
            for change in plan.changes
        ],
    }


def gain_document(gain: KernelsGain | None) -> dict[str, Any] | None:
    """The speed with kernels of ours and without."""
    if gain is None:
        return None
    return {"is_used": gain.is_used, "speed": _plain(gain.speed), "plain_speed": _plain(gain.plain_speed), "hint": gain.hint}


def _template(message: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"message": message.format_map(values) if values else message, "values": dict(values)}


def _plain(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def run_document(run: Run | None) -> dict[str, Any] | None:
    """What was measured of a model's last run here, and what was predicted of it."""
    if run is None:
        return None
    made, predicted = run.generation_s, run.predicted_generation_s
    return {
        "measured_at": run.measured_at.isoformat(),
        "tokens_per_s": run.num_generated_tokens / made if made else None,
        "predicted_tokens_per_s": run.num_generated_tokens / predicted if predicted else None,
        "measured_bytes": run.measured_bytes,
        "planned_bytes": run.planned_bytes,
    }

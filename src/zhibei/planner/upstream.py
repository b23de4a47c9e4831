"""The plan for a model of another server: nothing to place here, and nothing that can be chosen. Pure."""

from __future__ import annotations

from dataclasses import fields

from zhibei.i18n import N_
from zhibei.models import StoredModel
from zhibei.options import LoadOptions
from zhibei.plans import EngineSpec, Plan, Task

NUM_SLOTS = 64
"""So many requests go there at once; how many it answers at once is its own business."""


def plan_upstream(model: StoredModel, task: Task, load: LoadOptions, usual: LoadOptions) -> Plan:
    """The plan: it runs, needs no memory, and takes no wishes about loading.

    Args:
        load: as asked for and as the settings say.
        usual: what the settings say for all models, which is not meant for this one.
    """
    asked = [f.name for f in fields(LoadOptions) if getattr(load, f.name) not in (None, (), getattr(usual, f.name))]
    if asked:
        reason = N_("{options} cannot be set for {model}: another server has loaded it.")
        return Plan("unsupported", None, (), None, ((reason, {"options": ", ".join(asked), "model": model.name}),))
    ctx_size = (model.info.context_length if model.info is not None else None) or 0
    spec = EngineSpec(
        engine="upstream",
        model_path=model.source,
        model_name=model.name,
        task=task,
        ctx_size=ctx_size,
        num_slots=NUM_SLOTS,
        batch_size=0,
        ubatch_size=0,
        threads=None,
        threads_batch=None,
        cache_type_k="f16",
        cache_type_v="f16",
        flash_attn="auto",
        gpu_layers=0,
        prompt_cache_bytes=0,
    )
    return Plan("runs", spec, (), None, ctx_size=ctx_size or None, num_slots=NUM_SLOTS)

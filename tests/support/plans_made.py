"""Plans and models as values, for tests of what is made of them."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from zhibei.models import Layer, ModelInfo, StoredFile, StoredModel
from zhibei.planner import shapes
from zhibei.plans import EngineSpec, Hardware, MemoryLine, Plan, Speed, Verdict

GIB = 1 << 30
_MIB = 1 << 20
# Its weights are nearly all of what a token reads.
ONE_LAYER = StoredModel(
    "a:latest",
    (StoredFile("model", Path("/models/a.gguf"), 3202 * _MIB, "sha256:" + "0" * 64),),
    ModelInfo(
        "gguf",
        "llama",
        context_length=4096,
        embedding_length=1024,
        vocabulary_size=1000,
        quantisation="Q4_K_M",
        tensor_types=(("Q4_K", 10, 3200 * _MIB),),
        layers=(Layer("attention", 8, 8, 8, 64, 64, feed_forward_length=64, dense_bytes=400 * _MIB),),
        output_bytes=_MIB,
        embedding_bytes=_MIB,
    ),
    "test",
    datetime.now(timezone.utc),
)
HERE = Hardware("A processor", 8, 16, 32 * GIB, 28 * GIB, bandwidth_bytes_per_s=80 * 10**9)


def model_of(label: str, size_bytes: int, *, name: str = "m:8b", info: ModelInfo | None = None) -> StoredModel:
    """A model of eight thousand million parameters in a file of so many bytes."""
    made = info or shapes.info_of(shapes.Named("llama3.1:8b", 8 * 10**9, context_length=131072), label, size_bytes)
    files = (StoredFile("model", Path(f"{label}.gguf"), size_bytes),)
    return StoredModel(name, files, made, f"hf:o/n:{label}", datetime(2026, 1, 1, tzinfo=timezone.utc))


def plan_of(verdict: Verdict, rate: float | None = None, *, ctx_size: int = 8192) -> Plan:
    """A plan of that verdict and speed."""
    speed = None if rate is None else Speed(generation_tokens_per_s=rate, generation_low=rate / 2, generation_high=rate * 2)
    is_runnable = verdict not in ("does_not_fit", "unsupported")
    memory = (MemoryLine("weights", "cpu", 4 * GIB),)
    return Plan(verdict, _spec(ctx_size) if is_runnable else None, memory, 28 * GIB, ctx_size=ctx_size, speed=speed)


def _spec(ctx_size: int) -> EngineSpec:
    return EngineSpec(
        engine="llama.cpp",
        model_path="m.gguf",
        model_name="m:8b",
        task="generate",
        ctx_size=ctx_size,
        num_slots=1,
        batch_size=512,
        ubatch_size=512,
        threads=8,
        threads_batch=None,
        cache_type_k="f16",
        cache_type_v="f16",
        flash_attn="auto",
        gpu_layers=0,
        prompt_cache_bytes=0,
    )

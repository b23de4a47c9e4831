"""What holds for every plan, whatever the model, the machine and the wishes."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.models import ModelInfo, StoredFile, StoredModel
from zhibei.options import LoadOptions
from zhibei.planner import memory
from zhibei.planner import plan as module
from zhibei.planner.plan import plan
from zhibei.plans import EngineSpec, Hardware, Plan, Task

MIB = 1 << 20
LLAMA = ModelInfo(
    "gguf",
    "llama",
    num_parameters=8 * 10**9,
    context_length=131072,
    embedding_length=4096,
    feed_forward_length=14336,
    vocabulary_size=128256,
    num_kv_heads=(8,) * 32,
    key_length=128,
    value_length=128,
)


def stored(info: ModelInfo | None = LLAMA, weights: int = 4693 * MIB, **more: int) -> StoredModel:
    files = (StoredFile("model", Path("/m/model.gguf"), weights),)
    files += tuple(StoredFile(role, Path(f"/m/{role}"), size) for role, size in more.items())
    return StoredModel("m:latest", files, info, "test", datetime.now(timezone.utc))


def machine(available: int | None = 48 << 30, total: int | None = 64 << 30, cores: int | None = 8) -> Hardware:
    return Hardware("test", cores, cores, total, available)


def spec_of(found: Plan) -> EngineSpec:
    assert found.spec is not None
    return found.spec


infos = st.builds(
    lambda layers, heads, head_length, embedding, vocabulary, context, parameters, experts: ModelInfo(
        "gguf",
        "llama",
        num_parameters=parameters,
        context_length=context,
        embedding_length=embedding,
        feed_forward_length=embedding * 4,
        vocabulary_size=vocabulary,
        num_kv_heads=(heads,) * layers,
        key_length=head_length,
        value_length=head_length,
        num_experts=experts,
        num_experts_used=experts and max(1, experts // 8),
    ),
    layers=st.integers(1, 100),
    heads=st.integers(1, 64),
    head_length=st.sampled_from([32, 64, 96, 128, 256]),
    embedding=st.integers(64, 16384),
    vocabulary=st.integers(1, 300_000),
    context=st.none() | st.integers(64, 2_000_000),
    parameters=st.none() | st.integers(10**6, 10**12),
    experts=st.none() | st.integers(2, 256),
)
gib = st.integers(1, 2 << 20).map(lambda kib: kib * 1024 * 256)


@st.composite
def machines(draw: st.DrawFn) -> Hardware:
    total = draw(gib)
    return machine(draw(st.integers(0, total)), total, draw(st.integers(1, 128)))


@given(infos, machines(), st.integers(MIB, 200 << 30))
def test_automatic_plans(info: ModelInfo, hardware: Hardware, weights: int) -> None:
    found = plan(stored(info, weights), hardware, "llama.cpp", "generate", LoadOptions())
    available = hardware.available_bytes
    assert available is not None and found.available_bytes == available
    assert all(line.num_bytes > 0 for line in found.memory)
    needed = sum(line.num_bytes for line in found.memory if line.what != "prompt cache")
    longest = info.context_length or module.UNKNOWN_CTX
    if found.spec is None:
        assert found.verdict == "does_not_fit" and found.reasons and needed > available
        ctx_size = found.reasons[0][1]["ctx_size"]
        assert ctx_size == min(module.MIN_CTX, longest), "it was tried with the shortest context"
        return
    assert found.verdict in ("runs", "tight")
    assert needed <= available
    if found.verdict == "runs":
        assert found.total_bytes <= available
    assert found.spec.ctx_size <= min(longest, module.AUTOMATIC_CTX)
    assert found.spec.ctx_size >= min(module.MIN_CTX, longest)
    assert 1 <= found.spec.num_slots <= module.MAX_SLOTS
    assert found.spec.ubatch_size <= found.spec.batch_size


@given(infos, machines(), st.integers(MIB, 100 << 30), st.integers(0, 64 << 30), st.none() | st.integers(1, 8))
def test_more_memory_never_gives_a_shorter_context(
    info: ModelInfo, hardware: Hardware, weights: int, more: int, parallel: int | None
) -> None:
    less = plan(stored(info, weights), hardware, "llama.cpp", "generate", LoadOptions(parallel=parallel))
    larger = replace(hardware, available_bytes=(hardware.available_bytes or 0) + more)
    grown = plan(stored(info, weights), larger, "llama.cpp", "generate", LoadOptions(parallel=parallel))
    if less.spec is not None:
        assert spec_of(grown).ctx_size >= less.spec.ctx_size
        assert parallel is None or spec_of(grown).num_slots == parallel
        assert less.verdict == "tight" or grown.verdict == "runs"
    extra = plan(stored(info, weights), hardware, "llama.cpp", "generate", LoadOptions(parallel=parallel), more)
    assert extra == grown, "memory that can be made is as good as memory that is there"


@given(infos, machines(), st.integers(1, 10**6), st.integers(1, 16), st.sampled_from(["generate", "embed", "rerank"]))
def test_what_a_person_asks_for_is_never_changed(
    info: ModelInfo, hardware: Hardware, ctx_size: int, parallel: int, task: Task
) -> None:
    found = plan(stored(info, 100 * MIB), hardware, "llama.cpp", task, LoadOptions(ctx_size=ctx_size, parallel=parallel))
    if found.spec is None:
        assert found.total_bytes > (hardware.available_bytes or 0)
        return
    assert (found.spec.ctx_size, found.spec.num_slots) == (ctx_size, parallel)
    said = [template for template, _ in found.reasons]
    assert bool(said) == (info.context_length is not None and ctx_size > info.context_length)


WISHES: dict[str, Any] = {
    "ctx_size": 777,
    "parallel": 3,
    "threads": 5,
    "threads_batch": 6,
    "batch_size": 64,
    "ubatch_size": 32,
    "cache_type_k": "q8_0",
    "cache_type_v": "q4_0",
    "flash_attn": "off",
    "gpu_layers": 7,
    "main_gpu": 1,
    "tensor_split": (3.0, 1.0),
    "mmap": False,
    "mlock": True,
    "cache_ram_mib": 12,
    "rope_freq_base": 5e5,
    "rope_freq_scale": 0.5,
    "lora": (("/m/adapter", 0.25),),
    "mmproj": "/m/projector",
    "draft_model": "/m/draft",
    "chat_template": "{{ messages }}",
    "reasoning": "off",
    "pooling": "last",
}
SPEC_NAMES = {
    "parallel": ("num_slots", 3),
    "cache_ram_mib": ("prompt_cache_bytes", 12 * MIB),
    "mmproj": ("mmproj_path", "/m/projector"),
    "draft_model": ("draft_model_path", "/m/draft"),
}


@pytest.mark.parametrize("name", [field.name for field in fields(LoadOptions)])
def test_every_wish_reaches_the_engine(name: str) -> None:
    """A new load option without a line here, or one that the planner forgets, fails."""
    model = stored(adapter=MIB, projector=MIB, draft=MIB)
    spec = spec_of(plan(model, machine(), "llama.cpp", "generate", LoadOptions(**{name: WISHES[name]})))
    field, value = SPEC_NAMES.get(name, (name, WISHES[name]))
    assert getattr(spec, field) == value


def test_without_wishes() -> None:
    spec = spec_of(plan(stored(), machine(), "llama.cpp", "generate", LoadOptions()))
    assert (spec.engine, spec.model_path, spec.model_name, spec.task) == ("llama.cpp", "/m/model.gguf", "m:latest", "generate")
    assert (spec.threads, spec.threads_batch, spec.gpu_layers, spec.flash_attn) == (8, None, None, "auto")
    assert (spec.cache_type_k, spec.cache_type_v, spec.mmap, spec.mlock) == ("f16", "f16", True, False)
    assert (spec.lora, spec.mmproj_path, spec.draft_model_path, spec.pooling) == ((), None, None, None)


def test_an_adapters_scale_is_found_however_its_path_is_written() -> None:
    model = stored()
    model = replace(model, files=(*model.files, StoredFile("adapter", Path("here/a.gguf"), MIB)))
    found = plan(model, machine(), "llama.cpp", "generate", LoadOptions(lora=(("./here//a.gguf", 0.5),)))
    assert spec_of(found).lora == (("here/a.gguf", 0.5),)


def test_threads_of_an_unknown_machine() -> None:
    assert spec_of(plan(stored(), machine(cores=None), "llama.cpp", "generate", LoadOptions())).threads == 1


def test_unknown_memory_is_no_verdict_against() -> None:
    found = plan(stored(), machine(None, None), "llama.cpp", "generate", LoadOptions())
    assert (found.verdict, found.available_bytes, spec_of(found).num_slots) == ("runs", None, 1)


@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_an_embedding_is_computed_in_one_piece(task: Task) -> None:
    spec = spec_of(plan(stored(), machine(), "llama.cpp", task, LoadOptions(ubatch_size=64)))
    assert spec.ctx_size == spec.batch_size == spec.ubatch_size == module.EMBEDDING_CTX
    assert spec.prompt_cache_bytes == 0
    short = replace(LLAMA, context_length=512)
    assert spec_of(plan(stored(short), machine(), "llama.cpp", task, LoadOptions())).ubatch_size == 512


@pytest.mark.parametrize(
    ("own", "task", "wish", "pooling"),
    [
        (None, "embed", None, "mean"),
        ("none", "embed", None, "mean"),
        ("cls", "embed", None, None),
        ("cls", "embed", "last", "last"),
        (None, "generate", None, None),
        (None, "rerank", None, None),
    ],
)
def test_pooling(own: str | None, task: Task, wish: str | None, pooling: str | None) -> None:
    model = stored(replace(LLAMA, pooling=own))
    assert spec_of(plan(model, machine(), "llama.cpp", task, LoadOptions(pooling=wish))).pooling == pooling


def test_a_model_that_looks_both_ways_keeps_no_cache() -> None:
    found = plan(stored(replace(LLAMA, is_causal=False)), machine(), "llama.cpp", "embed", LoadOptions())
    assert "kv cache" not in [line.what for line in found.memory]


def test_the_scratch_is_left_room_for() -> None:
    """Half of what is free for the context would leave too little for computing: a shorter context fits."""
    wide = replace(LLAMA, context_length=131072, feed_forward_length=100_000, num_parameters=None)
    weights, free = 100 * MIB, 800 * MIB
    found = plan(
        stored(wide, weights), machine(weights + memory.PROCESS_BYTES + free, None), "llama.cpp", "generate", LoadOptions()
    )
    assert found.verdict == "runs"
    assert module.MIN_CTX <= spec_of(found).ctx_size < free // 2 // 131072


def test_companions_are_on_the_bill() -> None:
    found = plan(stored(projector=5, adapter=6, draft=7, licence=8), machine(), "llama.cpp", "generate", LoadOptions())
    assert {line.what: line.num_bytes for line in found.memory if line.num_bytes < 10} == {
        "projector": 5,
        "adapter": 6,
        "draft": 7,
    }

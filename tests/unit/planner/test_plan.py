"""What holds for every plan, whatever the model, the machine and the wishes."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhibei.models import Layer, ModelInfo, StoredFile, StoredModel
from zhibei.options import LoadOptions
from zhibei.planner import memory, sizing
from zhibei.planner.plan import plan
from zhibei.plans import VERDICTS, Change, EngineSpec, Gpu, Hardware, Plan, Task

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
    found = plan(stored(info, weights), hardware, "llama.cpp", "generate", LoadOptions(), with_changes=False)
    available = hardware.available_bytes
    assert available is not None and found.available_bytes == available
    assert all(line.num_bytes > 0 for line in found.memory)
    needed = found.needed_bytes
    longest = info.context_length or sizing.UNKNOWN_CTX
    if found.spec is None:
        assert found.verdict == "does_not_fit" and found.reasons and needed > available
        ctx_size = found.reasons[0][1]["ctx_size"]
        assert ctx_size == min(sizing.MIN_CTX, longest), "it was tried with the shortest context"
        return
    assert found.verdict in ("runs_well", "runs", "runs_slowly")
    assert needed <= found.total_bytes <= available
    assert found.spec.ctx_size <= min(longest, sizing.LONG_CTX)
    assert found.spec.ctx_size >= min(sizing.MIN_CTX, longest)
    assert 1 <= found.spec.num_slots <= sizing.MAX_SLOTS
    assert found.spec.ubatch_size <= found.spec.batch_size


@given(infos, machines(), st.integers(MIB, 100 << 30), st.integers(0, 64 << 30), st.none() | st.integers(1, 8))
def test_more_memory_never_gives_a_shorter_context(
    info: ModelInfo, hardware: Hardware, weights: int, more: int, parallel: int | None
) -> None:
    wishes = LoadOptions(parallel=parallel)
    less = plan(stored(info, weights), hardware, "llama.cpp", "generate", wishes, with_changes=False)
    larger = replace(hardware, available_bytes=(hardware.available_bytes or 0) + more)
    grown = plan(stored(info, weights), larger, "llama.cpp", "generate", wishes, with_changes=False)
    if less.spec is not None:
        assert spec_of(grown).ctx_size >= less.spec.ctx_size
        assert parallel is None or spec_of(grown).num_slots == parallel
    assert VERDICTS.index(grown.verdict) >= VERDICTS.index(less.verdict)
    extra = plan(stored(info, weights), hardware, "llama.cpp", "generate", wishes, more, with_changes=False)
    assert replace(extra, changes=()) == replace(grown, changes=()), "memory that can be made is as good as memory that is there"


@settings(max_examples=40)
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
    is_said = any("trained for" in template for template in said)
    assert is_said == (info.context_length is not None and ctx_size > info.context_length)


WISHES: dict[str, Any] = {
    "ctx_size": 777,
    "parallel": 3,
    "kernels": False,
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
    "speculation": "ngram",
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
    assert found.changes == ()


@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_an_embedding_is_computed_in_one_piece(task: Task) -> None:
    spec = spec_of(plan(stored(), machine(), "llama.cpp", task, LoadOptions(ubatch_size=64)))
    assert spec.ctx_size == spec.batch_size == spec.ubatch_size == sizing.EMBEDDING_CTX
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
    assert sizing.MIN_CTX <= spec_of(found).ctx_size < free // 2 // 131072


def test_companions_are_on_the_bill() -> None:
    found = plan(stored(projector=5, adapter=6, draft=7, licence=8), machine(), "llama.cpp", "generate", LoadOptions())
    assert {line.what: line.num_bytes for line in found.memory if line.num_bytes < 10} == {
        "projector": 5,
        "adapter": 6,
        "draft": 7,
    }


def test_a_draft_model_has_a_cache_of_its_own() -> None:
    small = replace(
        exact(num_layers=4, layer_mib=10), embedding_bytes=MIB, output_bytes=MIB, other_bytes=0, weights_bytes=42 * MIB
    )
    model = replace(stored(draft=42 * MIB), draft=small)
    found = plan(model, machine(), "llama.cpp", "generate", LoadOptions(ctx_size=4096, parallel=2))
    bill = {line.what: line.num_bytes for line in found.memory}
    assert "draft" not in bill
    assert bill["draft weights"] == 42 * MIB
    # 8 heads × (128 + 128) elements × 2 bytes for each of 4 layers, of 4096 tokens in each of 2 slots.
    assert bill["draft kv cache"] == 8 * 256 * 2 * 4 * 4096 * 2


# Graphics processors


def exact(num_layers: int = 32, layer_mib: int = 125, expert_mib: int = 0, **more: Any) -> ModelInfo:
    layer = Layer(
        "attention",
        count=num_layers,
        num_heads=32,
        num_kv_heads=8,
        key_length=128,
        value_length=128,
        feed_forward_length=0 if expert_mib else 14336,
        dense_bytes=layer_mib * MIB,
        expert_bytes=expert_mib * MIB,
    )
    facts: dict[str, Any] = {
        "num_parameters": 8 * 10**9,
        "quantisation": "Q4_K_M",
        "tensor_types": (("Q4_K", 200, (layer_mib + expert_mib) * num_layers * MIB),),
        "weights_bytes": (layer_mib + expert_mib) * num_layers * MIB + 692 * MIB,
        "num_experts": 64 if expert_mib else None,
        "num_experts_used": 8 if expert_mib else None,
        "expert_feed_forward_length": 768 if expert_mib else None,
        "embedding_bytes": 281 * MIB,
        "output_bytes": 411 * MIB,
        "other_bytes": MIB,
    }
    return replace(LLAMA, layers=(layer,), **{**facts, **more})


def cards(*free_mib: int, ram_mib: int = 32768, backends: tuple[str, ...] = ("cuda",)) -> Hardware:
    gpus = tuple(
        Gpu(f"card {number}", "NVIDIA", free * MIB, free * MIB, bandwidth_bytes_per_s=400 * 10**9)
        for number, free in enumerate(free_mib)
    )
    ram = ram_mib * MIB
    return Hardware("test", 8, 16, ram, ram, gpus, backends=backends, bandwidth_bytes_per_s=50 * 10**9)


def planned(info: ModelInfo, hardware: Hardware, wishes: LoadOptions = LoadOptions(), **how: Any) -> Plan:
    model = stored(info, info.weights_bytes or MIB)
    return plan(model, hardware, "llama.cpp", "generate", wishes, **{"with_changes": False, **how})


shapes = st.builds(exact, st.integers(1, 80), st.integers(1, 400), st.sampled_from([0, 0, 200, 400]))
free_sizes = st.lists(st.integers(0, 48 << 10), min_size=1, max_size=3)


@settings(max_examples=40)
@given(shapes, free_sizes, st.integers(256, 128 << 10), st.none() | st.integers(1, 8))
def test_a_plan_never_takes_more_of_a_device_than_there_is(
    info: ModelInfo, free: list[int], ram: int, parallel: int | None
) -> None:
    hardware = cards(*free, ram_mib=ram)
    found = planned(info, hardware, LoadOptions(parallel=parallel))
    if found.spec is None:
        return
    for use in found.devices:
        taken = sum(line.num_bytes for line in found.memory if line.device == use.device)
        assert taken == use.num_bytes
        assert use.available_bytes is not None and taken <= use.available_bytes, use
    assert sum(use.num_layers for use in found.devices) == found.num_layers
    assert sum(use.has_output for use in found.devices) == 1
    on_cards = sum(use.num_layers + use.has_output for use in found.devices[1:])
    assert found.spec.gpu_layers == on_cards
    if found.spec.tensor_split:
        assert found.spec.tensor_split == tuple(use.num_layers + use.has_output for use in found.devices[1:])


@settings(max_examples=40)
@given(shapes, free_sizes, st.integers(256, 128 << 10), st.integers(0, 64 << 10))
def test_more_memory_on_all_devices_is_never_worse(info: ModelInfo, free: list[int], ram: int, more: int) -> None:
    less, grown = planned(info, cards(*free, ram_mib=ram)), planned(info, cards(*free, ram_mib=ram + more))
    assert VERDICTS.index(grown.verdict) >= VERDICTS.index(less.verdict)
    assert less.spec is None or (grown.ctx_size or 0) >= (less.ctx_size or 0)


@settings(max_examples=40)
@given(shapes, st.integers(0, 48 << 10), st.integers(0, 48 << 10))
def test_a_larger_card_never_gives_a_shorter_context(info: ModelInfo, free: int, more: int) -> None:
    less, grown = planned(info, cards(free)), planned(info, cards(free + more))
    assert VERDICTS.index(grown.verdict) >= VERDICTS.index(less.verdict)
    assert less.spec is None or (grown.ctx_size or 0) >= (less.ctx_size or 0)


@settings(max_examples=40)
@given(shapes, free_sizes, st.integers(0, 100), st.lists(st.floats(0, 10), max_size=3))
def test_layers_are_placed_as_a_person_wants(info: ModelInfo, free: list[int], gpu_layers: int, split: list[float]) -> None:
    found = planned(info, cards(*free), LoadOptions(gpu_layers=gpu_layers, tensor_split=tuple(split)))
    layers, there = found.num_layers or 0, found.devices[1:]
    assert sum(use.num_layers + use.has_output for use in there) == min(gpu_layers, layers + 1)
    if found.spec is None:
        assert found.verdict == "does_not_fit" and found.reasons
        return
    assert (found.spec.gpu_layers, found.spec.tensor_split[: len(split)]) == (gpu_layers, tuple(split))


def test_more_layers_than_the_card_has_room_for_are_an_error_that_names_it() -> None:
    found = planned(exact(), cards(3000), LoadOptions(gpu_layers=99), with_changes=True)
    assert found.verdict == "does_not_fit"
    template, values = found.reasons[0]
    assert "card 0" in template.format_map(dict(values))
    assert "gpu_layers" in [change.kind for change in found.changes]


def test_layers_are_divided_as_the_engine_divides_them() -> None:
    assert sizing.divided(33, (1.0, 1.0), 2, 32).layers_per_gpu == (17, 15)
    assert sizing.divided(20, (3.0, 1.0), 2, 32).layers_per_gpu == (15, 4)
    assert sizing.divided(99, (), 1, 32).num_gpu_layers == 33
    assert sizing.divided(1, (0.0, 1.0), 2, 32).output_device == 1
    assert sizing.divided(0, (1.0,), 1, 32).num_gpu_layers == 0


def test_no_layers_on_a_card_is_a_plan_for_the_processor() -> None:
    found, without = planned(exact(), cards(8000), LoadOptions(gpu_layers=0)), planned(exact(), cards())
    assert spec_of(found) == replace(spec_of(without), gpu_layers=0)
    assert found.devices == without.devices


def test_one_card_that_holds_all_is_used_alone() -> None:
    found = planned(exact(), cards(12000, 24000))
    assert [use.num_layers for use in found.devices] == [0, 0, 32]


def test_experts_go_to_main_memory_before_layers_do() -> None:
    found = planned(exact(48, 12, 350), cards(12000))
    spec = spec_of(found)
    assert (spec.gpu_layers, found.devices[1].num_layers) == (49, 48)
    assert 0 < spec.n_cpu_moe < 48
    assert any("experts" in template for template, _ in found.reasons)


def test_a_cache_leaves_the_card_only_where_that_helps() -> None:
    slim = exact(32, 100)
    short, long = (planned(slim, cards(4600), LoadOptions(ctx_size=ctx)) for ctx in (8192, 32768))
    assert spec_of(short).kv_offload
    assert not spec_of(long).kv_offload and long.devices[1].num_layers == 32
    assert any(line.what == "kv cache" and line.device == "cpu" for line in long.memory)


@pytest.mark.parametrize(
    ("backends", "devices", "said"),
    [(("cuda",), ("cpu",), "computes on the processor alone"), ((), None, "no driver"), (("cuda",), ("cpu", "rocm"), "alone")],
)
def test_a_card_that_cannot_be_used_is_told(backends: tuple[str, ...], devices: tuple[str, ...] | None, said: str) -> None:
    found = planned(exact(), cards(24000, backends=backends), devices=devices)
    assert [use.device for use in found.devices] == ["cpu"]
    assert any(said in template and values == {"gpus": "card 0"} for template, values in found.reasons)
    assert spec_of(found).gpu_layers is None, "the engine may still find what was not recognised"


def test_memory_that_is_shared_is_counted_once() -> None:
    gpu = Gpu("M2", "Apple", shared_bytes=11 << 30, is_integrated=True, bandwidth_bytes_per_s=100 * 10**9)
    hardware = Hardware("M2", 8, 8, 16 << 30, 12 << 30, (gpu,), backends=("metal",))
    found = planned(exact(), hardware)
    assert found.devices[1].is_shared and found.devices[1].num_layers == 32
    assert found.needed_main_bytes == found.needed_bytes <= 12 << 30
    tight = planned(exact(), replace(hardware, available_bytes=5 << 30))
    assert tight.needed_main_bytes <= 5 << 30 or tight.verdict == "does_not_fit"


def test_a_display_and_what_others_hold_are_left_alone() -> None:
    free = cards(8000)
    busy = replace(free, gpus=(replace(free.gpus[0], free_bytes=4000 * MIB, has_display=True),))
    assert planned(exact(), busy).devices[1].num_layers < planned(exact(), free).devices[1].num_layers
    unknown = replace(free, gpus=(replace(free.gpus[0], free_bytes=None),))
    assert planned(exact(), unknown).devices[1].available_bytes == 8000 * MIB - 805_306_368


# Verdicts, and what would change them


def test_verdicts_by_speed() -> None:
    slow, usual, fast = (replace(machine(), bandwidth_bytes_per_s=rate * 10**9) for rate in (10, 50, 200))
    assert [planned(exact(), one).verdict for one in (slow, usual, fast)] == ["runs_slowly", "runs", "runs_well"]
    assert planned(exact(), usual, purpose="code").verdict == "runs_slowly"
    assert planned(exact(), machine()).verdict == "runs", "where no speed is known none is promised"


def test_what_would_change_a_plan() -> None:
    small = replace(machine(5 << 30, 6 << 30), bandwidth_bytes_per_s=200 * 10**9)
    found = planned(exact(weights_bytes=4700 * MIB, layer_mib=150), small, with_changes=True)
    assert found.verdict == "does_not_fit"
    by_kind = {change.kind: change for change in found.changes}
    assert {"quantisation", "main_memory", "model"} <= by_kind.keys()
    for change in found.changes:
        assert isinstance(change, Change) and change.message.format_map(dict(change.values))
        assert change.verdict in ("runs_slowly", "runs", "runs_well") and (change.ctx_size or 0) >= 2048
    more = by_kind["main_memory"].values["more_bytes"]
    grown = replace(small, available_bytes=(5 << 30) + more, total_bytes=(6 << 30) + more)
    after = planned(exact(weights_bytes=4700 * MIB, layer_mib=150), grown)
    assert (after.verdict, after.ctx_size) == (by_kind["main_memory"].verdict, by_kind["main_memory"].ctx_size)


def test_what_the_engine_cannot_do_is_unsupported() -> None:
    found = planned(exact(), machine(), LoadOptions(cache_type_v="q4_0", flash_attn="off"), with_changes=True)
    assert (found.verdict, found.spec) == ("unsupported", None)
    assert [change.kind for change in found.changes] == ["cache_type"]
    other = planned(replace(exact(), format="safetensors"), machine())
    assert other.verdict == "unsupported" and other.reasons[0][1] == {"engine": "llama.cpp", "format": "safetensors"}


def test_points_of_return_are_on_the_bill() -> None:
    windowed = exact()
    windowed = replace(windowed, layers=(replace(windowed.layers[0], window=1024),))
    found = planned(windowed, machine(12 << 30, 16 << 30))
    count = spec_of(found).n_ctx_checkpoints
    kept = sum(line.num_bytes for line in found.memory if line.what == "checkpoints")
    assert count is not None and 0 < count <= sizing.MAX_CHECKPOINTS and kept > 0
    assert kept % count == 0 and found.total_bytes <= 12 << 30
    assert spec_of(planned(exact(), machine())).n_ctx_checkpoints is None


def test_windows_give_a_longer_context() -> None:
    windowed = replace(exact(), layers=(replace(exact().layers[0], window=512),))
    hardware = machine(12 << 30, 16 << 30)
    assert (planned(windowed, hardware).ctx_size or 0) > sizing.AUTOMATIC_CTX >= (planned(exact(), hardware).ctx_size or 0)


def test_the_guides_are_told_beside() -> None:
    found = planned(exact(), cards(3000))
    assert found.guide is not None
    assert found.guide.needed_bytes == exact().weights_bytes + 2 * 10**9  # type: ignore[operator]
    assert found.guide.gpu_layers == 32 * 3000 * MIB // exact().weights_bytes  # type: ignore[operator]
    assert planned(exact(), machine()).guide.gpu_layers is None  # type: ignore[union-attr]

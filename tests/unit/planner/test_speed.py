"""Speed by hand, against published figures, and what must hold of every prediction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.models import Layer, ModelInfo
from zhibei.planner import speed
from zhibei.planner.calibration import fit
from zhibei.planner.imagined import as_hardware, imagine
from zhibei.planner.placement import Placement
from zhibei.planner.rates import GpuRates, Machine, gpu_rates, machine_of, usable_gpus
from zhibei.planner.speed import Way, predict, sample_of
from zhibei.planner.work import active_parameters, generation_work, prompt_work
from zhibei.plans import Gpu, Hardware

CPU = Hardware("test", 8, 16, None, None)
GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "planner" / "speed.json").read_text(encoding="utf-8"))


def model(num_parameters: int | None, num_experts: int | None = None, num_experts_used: int | None = None) -> ModelInfo:
    return ModelInfo("gguf", "x", num_parameters=num_parameters, num_experts=num_experts, num_experts_used=num_experts_used)


def shaped(row: dict[str, Any]) -> ModelInfo:
    """A dense model of a shape of the golden file."""
    width, length = row["width"], row["width"] // row["heads"]
    weights = width * row["heads"] * length * 2 + 2 * width * row["kv_heads"] * length + 3 * width * row["feed_forward"]
    dense, table = int(weights * row["bits"] / 8), row["vocabulary"] * width
    total = row["layers"] * dense
    # Files of mixed quantisation have some tensors of 6.56 bits among those of 4.5, so many that the mean is right.
    finer = (row["bits"] - 4.5) / (6.5625 - 4.5) if row["type"] == "Q4_K" else 0.0
    finer_bytes = int(row["layers"] * weights * finer * 6.5625 / 8)
    return ModelInfo(
        "gguf",
        "llama",
        num_parameters=row["layers"] * weights + 2 * table,
        tensor_types=((row["type"], 1, total - finer_bytes), ("Q6_K", 1, finer_bytes)),
        embedding_length=width,
        num_layers=row["layers"],
        layers=(Layer("attention", row["layers"], row["heads"], row["kv_heads"], length, length, dense_bytes=dense),),
        embedding_bytes=int(table * row["bits"] / 8),
        output_bytes=int(table * row["output_bits"] / 8),
    )


SEVEN = shaped(GOLDEN["models"]["llama2-7b-q4_k_m"])
MOE = ModelInfo(
    "gguf",
    "moe",
    num_experts=8,
    num_experts_used=2,
    tensor_types=(("Q8_0", 1, 1_000),),
    embedding_length=1024,
    layers=(Layer("attention", 10, 8, 8, 64, 64, dense_bytes=34_000_000, expert_bytes=272_000_000),),
    embedding_bytes=34_000_000,
    output_bytes=34_000_000,
)


def test_two_operations_per_parameter() -> None:
    assert speed.prompt_tokens_per_s(model(8 * 10**9), 8) == pytest.approx(30.0)
    assert speed.prompt_tokens_per_s(model(8 * 10**9), 16) == pytest.approx(60.0)
    assert speed.prompt_tokens_per_s(model(None), 8) is None
    assert speed.prompt_tokens_per_s(model(0), 8) is None


def test_of_a_mixture_only_the_experts_in_use_compute() -> None:
    dense, mixture = speed.prompt_tokens_per_s(model(30 * 10**9), 8), speed.prompt_tokens_per_s(model(30 * 10**9, 128, 8), 8)
    assert dense is not None and mixture == pytest.approx(dense * 16)
    # By the header: 10 layers of 34 MB and a quarter of 272 MB, and 34 MB of output, at 34 bytes per 32 weights.
    assert active_parameters(MOE) == pytest.approx((10 * (34e6 + 68e6) + 34e6) / 34 * 32)


@pytest.mark.parametrize(
    ("num_parameters", "threads", "size"),
    [
        (135_000_000, 8, 1024),
        (135_000_000, 1, 128),
        (8 * 10**9, 8, 32),
        (70 * 10**9, 1, 32),
        (1_000_000, 64, 2048),
        (None, 8, 512),
    ],
)
def test_a_batch_takes_about_a_second(num_parameters: int | None, threads: int, size: int) -> None:
    assert speed.batch_size(model(num_parameters), CPU, threads) == size


@pytest.mark.parametrize("num_parameters", [None, 70 * 10**9])
def test_with_a_gpu_that_can_be_used_batches_are_large(num_parameters: int | None) -> None:
    gpu = Gpu("g", "v", total_bytes=8 << 30)
    assert speed.batch_size(model(num_parameters), replace(CPU, gpus=(gpu,), backends=("cuda",)), 1) == speed.MAX_BATCH


@pytest.mark.parametrize(
    "hardware",
    [
        replace(CPU, gpus=(Gpu("integrated", "Intel", shared_bytes=8 << 30, is_integrated=True),)),
        replace(CPU, gpus=(Gpu("old", "AMD"),), backends=("vulkan",)),
    ],
)
def test_a_gpu_without_driver_or_memory_changes_nothing(hardware: Hardware) -> None:
    assert usable_gpus(hardware) == ()
    assert speed.batch_size(model(70 * 10**9), hardware, 1) == speed.MIN_BATCH


@given(st.integers(1, 10**13), st.integers(1, 512))
def test_a_batch_is_a_power_of_two_within_bounds(num_parameters: int, threads: int) -> None:
    size = speed.batch_size(model(num_parameters), CPU, threads)
    assert speed.MIN_BATCH <= size <= speed.MAX_BATCH and size & (size - 1) == 0
    rate = speed.prompt_tokens_per_s(model(num_parameters), threads)
    assert rate is not None and (size <= rate or size == speed.MIN_BATCH)


def test_seven_billion_at_four_bits_on_fifty_gigabytes_a_second() -> None:
    # 6.48 G weights × 4.85 bits + 131 M × 6.56 = 4.03 GB; 45 of 50 GB/s: 90 ms, and a millisecond for 33 layers.
    machine = Machine(read_bytes=((8, 50e9),))
    found = predict(SEVEN, machine, Way(num_threads=8, generated_tokens=1))
    assert found.generation is not None
    assert found.generation.tokens_per_s == pytest.approx(11.0, rel=0.03)
    assert found.limited_by == "bandwidth"
    # A token's 13.2 GFLOP at 8 × 63.5 GFLOP/s, and its attention to 256 others (2 × 32 × 256 × 256 × 32 layers) at 8 × 14.
    assert found.prompt is not None
    assert found.prompt.tokens_per_s == pytest.approx(1 / (13.2e9 / 508e9 + 134e6 / 112e9), rel=0.03)
    assert found.prompt.limited_by == "compute"


def test_a_lone_core_reads_and_then_computes() -> None:
    # 4.03 GB / 9 GB/s = 448 ms, and 13.2 GFLOP, five sixths of it at 62 GFLOP/s and the rest at 40: 233 ms.
    found = predict(SEVEN, Machine(read_bytes=((1, 10e9), (8, 40e9))), Way(num_threads=1, generated_tokens=1))
    assert found.generation_tokens_per_s == pytest.approx(1 / 0.681, rel=0.03)


def test_measured_products_place_the_cores() -> None:
    # Two threads measured together count for two and more, one thread for one: 104 of the table's 52 GFLOP/s a core.
    base = Machine(read_bytes=((1, 50e9),))
    fast = replace(base, giga_ops=(("Q8_0", 1, 104.0), ("Q8_0", 2, 104.0)))
    for threads, factor in ((1, 2.0), (2, 1.0), (8, 1.0)):
        work = prompt_work(MOE, Way(num_threads=threads), 512, 0)
        assert work is not None
        dense = next(item for item in work if item.what == "weights")
        plain, found = (machine.seconds(dense, threads) for machine in (base, fast))
        assert plain is not None and found is not None
        assert plain[0] / found[0] == pytest.approx(factor)


def test_what_is_remembered_is_read_for_every_token() -> None:
    machine = Machine(read_bytes=((8, 50e9),))
    way = Way(num_threads=8, generated_tokens=1)
    work = generation_work(SEVEN, way, 1, 4095.5)
    assert work is not None
    cache = next(item for item in work if item.what == "cache")
    # 32 layers × 32 heads × (128 + 128) × 2 bytes × 4096 tokens
    assert cache.num_bytes == pytest.approx(32 * 32 * 256 * 2 * 4096)
    short, long = (predict(SEVEN, machine, way, depth).generation_tokens_per_s for depth in (0, 4096))
    # 2 × 32 × 256 × 4096 × 32 operations at 8 × 4 GFLOP/s; reading 2.1 GB at 45 GB/s takes less.
    assert short is not None and long is not None
    assert 1 / long - 1 / short == pytest.approx(2 * 32 * 256 * 4096 * 32 / 32e9, rel=0.02)
    smaller = generation_work(SEVEN, replace(way, cache_type_k="q8_0", cache_type_v="q8_0"), 1, 4095.5)
    assert smaller is not None
    assert next(item for item in smaller if item.what == "cache").num_bytes == pytest.approx(cache.num_bytes * 34 / 64)


def test_a_window_ends_what_is_read() -> None:
    layer = replace(SEVEN.layers[0], window=1024)
    info = replace(SEVEN, layers=(layer,))
    found = [generation_work(info, Way(), 1, depth) for depth in (1024, 16384)]
    assert found[0] is not None and found[0] == found[1]


def test_of_experts_one_token_reads_its_own_and_a_batch_reads_all() -> None:
    made, read = generation_work(MOE, Way(), 1, 0), prompt_work(MOE, Way(), 512, 0)
    assert made is not None and read is not None
    one, many = (next(item for item in work if item.what == "experts") for work in (made, read))
    assert one.num_bytes == pytest.approx(10 * 272e6 / 4)
    assert many.num_bytes == pytest.approx(10 * 272e6)
    assert many.num_ops == pytest.approx(one.num_ops * 512)
    assert many.num_columns == pytest.approx(512 / 4)


@pytest.mark.parametrize(("used", "share"), [(None, 1 / 8), (0, 1 / 8), (99, 1.0)])
def test_a_header_that_uses_no_expert_or_too_many_is_bounded(used: int | None, share: float) -> None:
    work = generation_work(replace(MOE, num_experts_used=used), Way(), 1, 0)
    assert work is not None
    assert next(item for item in work if item.what == "experts").num_bytes == pytest.approx(10 * 272e6 * share)


def test_prompts_longer_than_a_batch_are_read_in_several() -> None:
    one, three = prompt_work(SEVEN, Way(batch_size=512), 512, 0), prompt_work(SEVEN, Way(batch_size=512), 1200, 0)
    assert one is not None and three is not None
    done = [sum(item.num_ops * item.num_passes for item in work if item.what == "weights") for work in (one, three)]
    assert done[1] / done[0] == pytest.approx(1200 / 512)
    # Each token looks at all before it: n²/2 of n tokens.
    looked = [sum(item.num_ops * item.num_passes for item in work if item.what == "cache") for work in (one, three)]
    assert looked[1] / looked[0] == pytest.approx((1200 / 512) ** 2)


def test_streams_share_the_reading() -> None:
    machine = Machine(read_bytes=((8, 50e9),))
    one, four = (predict(SEVEN, machine, Way(num_threads=8, num_streams=count)) for count in (1, 4))
    assert one.generation_tokens_per_s is not None and four.generation_tokens_per_s is not None
    assert one.generation_tokens_per_s * 2 < four.generation_tokens_per_s <= one.generation_tokens_per_s * 4
    assert four.per_stream_tokens_per_s == pytest.approx(four.generation_tokens_per_s / 4)


def test_parts_on_two_devices_add_up() -> None:
    hardware = as_hardware(imagine("rtx3090,ram=64g,bandwidth=50gb/s"))
    machine = machine_of(hardware)
    way = Way(num_threads=8, generated_tokens=1)
    seconds = []
    for placement in (Placement(), Placement((16,), 0), Placement((32,), 0)):
        found = predict(SEVEN, machine, replace(way, placement=placement)).generation_tokens_per_s
        assert found is not None
        seconds.append(1 / found)
    assert seconds[1] == pytest.approx((seconds[0] + seconds[2]) / 2, rel=0.05)
    assert seconds[0] > 8 * seconds[2]


def test_long_prompts_of_weights_in_main_memory_are_computed_on_the_gpu() -> None:
    machine = machine_of(as_hardware(imagine("rtx3090,ram=64g,bandwidth=50gb/s")))
    long, short = (prompt_work(SEVEN, Way(), count, 0) for count in (512, 16))
    assert long is not None and short is not None
    weights = [item for item in long if item.what == "weights"]
    times = [machine.seconds(item, 8) for item in weights]
    # 4.03 GB over 0.8 × 31.5 GB/s, and 512 tokens × 13.2 GFLOP at 0.21 × 285 TOP/s.
    assert sum(found[0] for found in times if found) == pytest.approx(4.03e9 / 25.2e9 + 512 * 13.2e9 / 59.8e12, rel=0.03)
    assert {found[1] for found in times if found} == {"transfer"}
    assert all((machine.seconds(item, 8) or (0, ""))[1] == "compute" for item in short if item.what == "weights")


@pytest.mark.parametrize(
    ("info", "machine", "placement"),
    [
        (ModelInfo("gguf", "x"), Machine(read_bytes=((8, 50e9),)), Placement()),
        (SEVEN, Machine(), Placement()),
        (SEVEN, Machine(gpus=(GpuRates("g", None, None, None, None, None),)), Placement((32,), 0)),
        (SEVEN, Machine(gpus=(gpu_rates(Gpu("Unheard Of 1", "Nobody", total_bytes=1 << 30)),)), Placement((32,), 0)),
        (replace(MOE, layers=(), weights_bytes=10**9), Machine(read_bytes=((8, 50e9),)), Placement()),
    ],
)
def test_what_is_not_known_is_not_invented(info: ModelInfo, machine: Machine, placement: Placement) -> None:
    found = predict(info, machine, Way(placement=placement))
    assert found.prompt is None and found.generation is None
    assert found.generation_tokens_per_s is found.prompt_tokens_per_s is found.limited_by is None


@pytest.mark.parametrize("run", GOLDEN["runs"], ids=lambda run: f"{run['machine']} {run['model']}")
def test_published_speeds_lie_in_the_range(run: dict[str, Any]) -> None:
    info, hardware = shaped(GOLDEN["models"][run["model"]]), as_hardware(imagine(run["machine"]))
    count, layers = len(hardware.gpus), info.num_layers or 0
    placement = Placement((layers // count,) * count, count - 1)
    found = predict(info, machine_of(hardware), Way(num_threads=8, generated_tokens=run["generated"], placement=placement))
    assert found.generation is not None
    assert found.generation.low <= run["generation"] <= found.generation.high
    assert found.generation.high < 2.2 * found.generation.low
    if run["prompt"] is not None:
        assert found.prompt is not None
        assert found.prompt.low <= run["prompt"] <= found.prompt.high


def test_published_generation_is_met_closely_in_the_middle() -> None:
    errors = []
    for run in GOLDEN["runs"]:
        info, hardware = shaped(GOLDEN["models"][run["model"]]), as_hardware(imagine(run["machine"]))
        count, layers = len(hardware.gpus), info.num_layers or 0
        way = Way(generated_tokens=run["generated"], placement=Placement((layers // count,) * count, count - 1))
        found = predict(info, machine_of(hardware), way).generation_tokens_per_s
        assert found is not None
        errors.append(abs(found / run["generation"] - 1))
    assert sorted(errors)[len(errors) // 2] < 0.1


def test_runs_move_the_prediction_and_narrow_its_range() -> None:
    machine, way = Machine(read_bytes=((8, 50e9),)), Way(num_threads=8)
    before = predict(SEVEN, machine, way)
    made = generation_work(SEVEN, way, 128, 0)
    assert before.generation is not None and made is not None
    slower = before.generation.tokens_per_s / 1.5
    sample = sample_of("generation", made, machine, 8, 128 / slower)
    assert sample is not None
    once, often = (predict(SEVEN, machine, way, calibration=fit([sample] * count)) for count in (1, 8))
    assert once.generation is not None and often.generation is not None
    assert often.generation.tokens_per_s == pytest.approx(slower, rel=0.02)
    assert (often.num_runs, before.num_runs) == (8, 0)
    widths = [(rate.high - rate.low) / rate.tokens_per_s for rate in (before.generation, once.generation, often.generation)]
    assert widths[0] > widths[1] > widths[2]
    # Nothing was learnt of prompts, and nothing of another machine's cards.
    assert once.prompt == before.prompt and once.generation.is_calibrated
    elsewhere = replace(way, placement=Placement((32,), 0))
    card = machine_of(as_hardware(imagine("rtx3090")))
    assert predict(SEVEN, card, elsewhere, calibration=fit([sample])) == predict(SEVEN, card, elsewhere)


@given(
    st.integers(1, 64),
    st.integers(0, 10**6),
    st.integers(1, 16),
    st.floats(1e9, 1e12),
    st.sampled_from([SEVEN, MOE]),
    st.integers(1, 5000),
)
def test_every_prediction_is_sane(threads: int, depth: int, streams: int, bandwidth: float, info: ModelInfo, tokens: int) -> None:
    machine = Machine(peak_bytes=bandwidth)
    way = Way(num_threads=threads, num_streams=streams, prompt_tokens=tokens)
    found = predict(info, machine, way, depth)
    deeper = predict(info, machine, way, depth + 1000)
    for rate, later in ((found.prompt, deeper.prompt), (found.generation, deeper.generation)):
        assert rate is not None and later is not None
        assert 0 < rate.low < rate.tokens_per_s < rate.high
        assert later.tokens_per_s <= rate.tokens_per_s * (1 + 1e-9)
        assert rate.limited_by in ("bandwidth", "compute", "overhead", "mixed")

"""Which models are recommended: what is left out, what comes first, and why."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from support.plans_made import model_of, plan_of
from zhibei.options import LoadOptions
from zhibei.planner import quality, shapes
from zhibei.planner.recommend import Offer, Wish, recommend, suits, worth
from zhibei.plans import Plan

NOW = date(2026, 1, 1)


def offer(name: str, billions: float, quantisation: str = "Q4_K_M", **changes: object) -> Offer:
    size = quality.file_bytes(round(billions * 1e9), quantisation) or 0
    made = Offer(
        name=name,
        ref=name,
        title=name,
        quantisation=quantisation,
        model=model_of(quantisation, size, name=name),
        num_parameters=round(billions * 1e9),
        num_active_parameters=None,
        context_length=32768,
        tasks=("generate",),
        strengths=(),
        languages=("en",),
        licence="Apache-2.0",
        is_commercial=True,
        released_on=NOW,
        has_known_shape=True,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def limited(max_bytes: int, bytes_per_s: float = 1e12) -> object:
    """Plans of a machine with so much memory, read so fast."""

    def make(offer: Offer, wishes: LoadOptions) -> Plan:
        size = offer.model.size_bytes
        rate = bytes_per_s / size
        if size > max_bytes:
            return plan_of("does_not_fit")
        return plan_of("runs_well" if rate >= 10 else "runs" if rate >= 5 else "runs_slowly", rate, ctx_size=wishes.ctx_size or 0)

    return make


def names(offers: list[Offer], wish: Wish = Wish(), max_bytes: int = 10**11, speed: float = 1e12, limit: int = 9) -> list[str]:
    found = recommend(offers, wish, limited(max_bytes, speed), limit)  # type: ignore[arg-type]
    return [f"{item.offer.name} {item.offer.quantisation}" for item in found]


def test_a_bigger_model_at_fewer_bits_before_a_smaller_one_at_more() -> None:
    offers = [offer("small:7b", 7, "Q8_0"), offer("big:14b", 14, "Q4_K_M"), offer("big:14b", 14, "Q8_0")]
    assert names(offers, max_bytes=9_500_000_000) == ["big:14b Q4_K_M", "small:7b Q8_0"]


def test_but_not_below_the_line_of_life() -> None:
    assert names([offer("big:14b", 14, "Q2_K"), offer("small:7b", 7)], max_bytes=6_000_000_000) == ["small:7b Q4_K_M"]


def test_what_a_poor_quantisation_costs_counts_as_size() -> None:
    assert names([offer("big:70b", 70, "Q2_K"), offer("middle:32b", 32, "Q6_K")]) == ["middle:32b Q6_K", "big:70b Q2_K"]


def test_the_speed_that_is_asked_for_is_kept() -> None:
    offers = [offer("big:14b", 14), offer("small:7b", 7)]
    assert names(offers, Wish(min_tokens_per_s=15), speed=1e11) == ["small:7b Q4_K_M"]
    assert names(offers, Wish(min_tokens_per_s=1), speed=1e11)[0] == "big:14b Q4_K_M"
    assert names(offers, Wish(min_tokens_per_s=1000), speed=1e11) == []


def test_of_equal_quality_the_smaller_file() -> None:
    assert names([offer("a:7b", 7, kind) for kind in ("Q4_K_M", "Q6_K", "Q8_0", "F16")]) == ["a:7b Q6_K"]


@pytest.mark.parametrize(
    ("changes", "wish", "expected"),
    [
        ({}, Wish(), True),
        ({"is_commercial": False}, Wish(is_commercial=True), False),
        ({"languages": ("en",)}, Wish(language="zh"), False),
        ({"languages": ("zh", "en")}, Wish(language="zh"), True),
        ({"tasks": ("embed",)}, Wish(), False),
        ({"tasks": ("embed",)}, Wish("embed"), True),
        ({"tasks": ("rerank",)}, Wish("embed"), False),
        ({}, Wish("vision"), False),
        ({"strengths": ("vision",)}, Wish("vision"), True),
        ({"context_length": 8192}, Wish(ctx_size=32768), False),
    ],
)
def test_what_does_not_suit_is_left_out(changes: dict[str, object], wish: Wish, expected: bool) -> None:
    assert suits(offer("a:7b", 7, **changes), wish) is expected
    assert bool(names([offer("a:7b", 7, **changes)], wish)) is expected


def test_age_and_purpose_count() -> None:
    plain = worth(offer("a:7b", 7), "code", NOW)
    assert worth(offer("b:7b", 7, released_on=date(2024, 1, 1)), "code", NOW) < plain / 2
    assert worth(offer("b:7b", 7, strengths=("code",)), "code", NOW) > plain
    assert worth(offer("b-coder:7b", 7, strengths=("code",)), "chat", NOW) < plain
    mixture = offer("m:30b", 30, num_active_parameters=3 * 10**9)
    assert plain < worth(mixture, "code", NOW) < worth(offer("d:30b", 30), "code", NOW)


def test_few_of_one_name_and_one_of_a_size() -> None:
    offers = [offer(f"q:{size}b", size) for size in (4, 8, 14, 32)] + [offer("q:32b-thinking", 32), offer("r:3b", 3)]
    assert names(offers) == ["q:32b Q4_K_M", "q:14b Q4_K_M", "r:3b Q4_K_M"]


def test_planning_ends_when_nothing_better_can_come() -> None:
    planned: list[str] = []

    def make(offer: Offer, wishes: LoadOptions) -> Plan:
        planned.append(offer.name)
        return plan_of("runs_well", 50)

    offers = [offer(f"m{size}:{size}b", size) for size in range(1, 60)]
    found = recommend(offers, Wish(), make, 3)
    assert [item.offer.name for item in found] == ["m59:59b", "m58:58b", "m57:57b"]
    assert len(planned) == 3


def test_the_context_is_the_purposes_or_what_was_asked() -> None:
    asked: list[int | None] = []

    def make(offer: Offer, wishes: LoadOptions) -> Plan:
        asked.append(wishes.ctx_size)
        return plan_of("runs_well", 50)

    for wish in (Wish("code"), Wish("chat"), Wish(ctx_size=12345)):
        recommend([offer("a:7b", 7)], wish, make, 1)
    recommend([offer("a:7b", 7, context_length=2048)], Wish(), make, 1)
    assert asked == [32768, 8192, 12345, 2048]


def test_the_reasons_tell_size_loss_memory_licence_and_doubt() -> None:
    made = offer("m:30b", 30, num_active_parameters=3 * 10**9, is_commercial=False, has_known_shape=False, strengths=("code",))
    (found,) = recommend([made], Wish("code"), limited(10**12), 1)  # type: ignore[arg-type]
    told = " ".join(message.format_map(values) for message, values in found.reasons)
    for word in ("30.0B", "3.0B", "Q4_K_M", "32768", "made for this", "Apache-2.0", "half or twice"):
        assert word in told


@pytest.mark.parametrize(
    "name", ["qwen2.5:7b", "llama3.1:8b", "gemma3:27b", "mixtral:8x7b", "gpt-oss:20b", "not-in-the-table:9b"]
)
def test_a_shape_carries_the_weights_it_is_given(name: str) -> None:
    info = shapes.info_of(shapes.Named(name, 9 * 10**9, context_length=8192), "Q4_K_M", 5 * 10**9)
    laid = sum((layer.dense_bytes + layer.expert_bytes) * layer.count for layer in info.layers)
    assert laid + (info.embedding_bytes or 0) + (info.output_bytes or 0) == pytest.approx(5 * 10**9, rel=0.001)
    assert (info.num_parameters, info.quantisation) == (9 * 10**9, "Q4_K_M")
    assert shapes.is_known(name) is (name != "not-in-the-table:9b")


def test_published_shapes_have_the_published_cache() -> None:
    def row_bytes(name: str) -> int:
        info = shapes.info_of(shapes.Named(name, 10**9), "Q4_K_M", 10**9)
        return sum(layer.count * layer.num_kv_heads * (layer.key_length + layer.value_length) * 2 for layer in info.layers)

    # Bytes that one token keeps at 16 bits: 2 × layers × key heads × length × 2.
    assert row_bytes("qwen2.5:7b") == 57_344
    assert row_bytes("llama3.1:8b") == 131_072
    assert row_bytes("qwen2.5:72b") == 327_680

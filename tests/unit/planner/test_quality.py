"""What quantisation costs: the tables are whole, and what is said of them holds."""

from __future__ import annotations

import math
import statistics

import pytest

from zhibei.planner import quality
from zhibei.planner.quality import Candidate

PER_BILLION = 10**9


def measured(model: str) -> quality.Measurement:
    return next(item for item in quality.tables().measurements if item.model == model)


def test_bits_of_files_and_blocks() -> None:
    assert quality.bits_per_weight("Q4_K_M") == pytest.approx(4.8944)
    assert quality.bits_per_weight("q4-k-m") == quality.bits_per_weight("Q4_K") == quality.bits_per_weight("UD-Q4_K_XL")
    assert quality.bits_per_weight("Q6_K_L") == quality.bits_per_weight("Q6_K")
    assert quality.bits_per_weight("Q3_K_XL") == quality.bits_per_weight("Q3_K_L")
    assert quality.bits_per_weight("Q9_Z") is None
    tables = quality.tables()
    assert tables.file_bits.keys() == tables.block_bits.keys()
    # Embeddings and output keep more bits than the rest, never fewer.
    assert all(tables.file_bits[name] >= tables.block_bits[name] for name in tables.file_bits)


@pytest.mark.parametrize(
    ("num_parameters", "quantisation", "published_gib"),
    [
        (8_030_261_248, "Q4_K_M", 4.58),
        (8_030_261_248, "IQ2_XXS", 2.23),
        (68_976_648_192, "Q4_K_M", 38.54),
        (68_976_648_192, "Q6_K", 52.70),
    ],
)
def test_file_sizes_are_within_a_few_per_cent(num_parameters: int, quantisation: str, published_gib: float) -> None:
    expected = quality.file_bytes(num_parameters, quantisation)
    assert expected is not None
    assert expected == pytest.approx(published_gib * 2**30, rel=0.03)


def test_losses_of_the_reference_are_the_published_ones() -> None:
    assert quality.loss("Q4_K_M", 8_030_261_248) == pytest.approx(0.0282, abs=0.0002)  # published ratio 1.028160
    assert quality.loss("Q6_K", 8_030_261_248) == pytest.approx(0.0035, abs=0.0002)  # 1.003490
    assert quality.loss("Q2_K", 8_030_261_248) == pytest.approx(0.5648, abs=0.0005)  # 1.564849
    assert quality.loss("MXFP4", 8_030_261_248) is None
    assert quality.loss("Q4_K_M", 0) is None


def test_more_bits_lose_less_where_the_kind_is_the_same() -> None:
    for family in (
        ["Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0"],
        ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_XS", "IQ4_NL"],
    ):
        losses = [quality.loss(name, 8 * PER_BILLION) for name in family]
        assert None not in losses
        assert losses == sorted(losses, key=lambda value: -(value or 0.0)), family


def test_every_type_that_has_a_loss_has_bits() -> None:
    for item in quality.tables().measurements:
        assert item.losses.keys() <= quality.tables().file_bits.keys()
        assert item.source.startswith("https://")
        assert all(value >= -0.001 for value in item.losses.values())


def test_the_exponent_is_what_its_comment_says() -> None:
    small, large = measured("LLaMA 7B"), measured("LLaMA 13B")
    growth = math.log(large.num_parameters / small.num_parameters)
    types = [name for name in small.losses if name != "Q6_K"]
    exponents = [-math.log(large.losses[name] / small.losses[name]) / growth for name in types]
    assert len(types) == 8
    assert statistics.median(exponents) == pytest.approx(quality.tables().exponent, abs=0.01)


def test_the_law_meets_a_model_nine_times_as_large_within_a_factor_of_two() -> None:
    seventy = measured("Llama 2 70B")
    for name in ("Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_K_S", "Q5_K_M"):
        expected = quality.loss(name, seventy.num_parameters)
        assert expected is not None
        assert 0.5 < expected / seventy.losses[name] < 2.0, name


def test_a_bigger_model_with_fewer_bits_comes_first() -> None:
    candidates = [Candidate(8 * PER_BILLION, "Q8_0"), Candidate(70 * PER_BILLION, "Q2_K"), Candidate(32 * PER_BILLION, "Q4_K_M")]
    assert quality.rank(candidates) == (1, 2, 0)


def test_four_bits_are_the_line_of_life_for_the_small() -> None:
    candidates = [Candidate(8 * PER_BILLION, "Q2_K"), Candidate(3 * PER_BILLION, "Q4_K_M"), Candidate(8 * PER_BILLION, "Q3_K_M")]
    assert [quality.is_worthwhile(candidate) for candidate in candidates] == [False, True, False]
    assert quality.rank(candidates) == (1, 2, 0)


def test_under_three_bits_only_the_very_large() -> None:
    assert not quality.is_worthwhile(Candidate(32 * PER_BILLION, "IQ2_M"))
    assert quality.is_worthwhile(Candidate(72 * PER_BILLION, "IQ2_M"))
    assert not quality.is_worthwhile(Candidate(72 * PER_BILLION, "IQ1_S"))
    assert [quality.least_bits(size * PER_BILLION) for size in (1, 8, 14, 32, 110)] == [4.2, 4.2, 3.6, 3.2, 2.3]


def test_of_one_size_more_bits_come_first_and_order_of_equals_is_kept() -> None:
    size = 14 * PER_BILLION
    assert quality.rank([Candidate(size, name) for name in ("Q4_K_M", "Q6_K", "Q5_K_M", "Q6_K")]) == (1, 3, 2, 0)
    assert quality.rank([]) == ()


def test_a_mixture_is_worth_less_than_a_dense_model_of_its_size() -> None:
    mixture = Candidate(30_500_000_000, "Q4_K_M", num_active_parameters=3_300_000_000)
    assert mixture.effective_parameters == pytest.approx(10.03e9, rel=0.01)
    assert quality.rank([mixture, Candidate(14 * PER_BILLION, "Q4_K_M"), Candidate(8 * PER_BILLION, "Q4_K_M")]) == (1, 0, 2)


def test_needs_of_tasks() -> None:
    chat = quality.need("chat")
    assert chat is not None
    assert chat.min_tokens_per_s is not None
    # As fast as people read: 238 words a minute, 4 tokens to 3 words.
    assert chat.min_tokens_per_s == pytest.approx(238 / 60 * 4 / 3, rel=0.1)
    assert {"chat", "code", "translate", "rag", "embed", "roleplay", "vision"} <= quality.tables().needs.keys()
    embed = quality.need("embed")
    assert embed is not None
    assert embed.min_tokens_per_s is None
    assert quality.need("dance") is None
    for name, item in quality.tables().needs.items():
        assert item.ctx_size >= 2048, name
        assert (item.min_tokens_per_s or 0) <= (item.good_tokens_per_s or 0), name


def test_tables_without_a_reference_are_refused() -> None:
    text = quality.QUALITY_PATH.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="reference"):
        quality.read(text.replace("reference = true", "reference = false"))

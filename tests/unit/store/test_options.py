"""How pulls fetch: pauses between attempts, the usual choice of a variant, and values that keep secrets to themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.store.options import FetchOptions, PullOptions, Retries
from zhibei.store.sources.base import HUBS, Hub, SourceContext, Variant, prefer_four_bits

LABELS = st.sampled_from("Q2_K IQ1_S Q3_K_M IQ4_XS Q4_0 Q4_K_M q4_k_m Q5_K_M Q6_K Q8_0 F16 MXFP4 tiny TQ1_0".split())
VARIANTS = st.lists(st.builds(Variant, LABELS, st.none() | st.integers(0, 10**12)), min_size=1, max_size=8).map(tuple)


def of(*labels: str) -> tuple[Variant, ...]:
    """Variants of growing size."""
    return tuple(Variant(label, 1000 + position) for position, label in enumerate(labels))


@given(st.integers(1, 1000), st.floats(0.001, 10), st.floats(0.001, 100))
def test_pauses_grow_are_random_and_end(num_failures: int, first_s: float, longest_s: float) -> None:
    pause_s = Retries(first_s=first_s, longest_s=longest_s).pause_s(num_failures)
    whole_s = min(longest_s, first_s * 2.0 ** (num_failures - 1))
    assert whole_s / 2 <= pause_s <= whole_s <= longest_s


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        (("Q2_K", "Q4_K_M", "Q8_0"), "Q4_K_M"),
        (("Q2_K", "q4_k_m", "Q8_0"), "q4_k_m"),
        (("Q4_0", "Q4_K_S", "IQ4_XS"), "Q4_K_S"),
        (("IQ1_S", "UD-Q4_K_XL", "BF16"), "UD-Q4_K_XL"),
        (("Q2_K", "Q3_K_M", "Q8_0"), "Q3_K_M"),
        (("TQ1_0", "Q8_0"), "TQ1_0"),
        (("Q5_K_M", "Q8_0", "F16"), "Q5_K_M"),
        (("F16", "F32"), "F16"),
        (("small", "large"), "small"),
    ],
)
def test_four_bits_are_preferred_else_fewer_else_the_smallest(labels: tuple[str, ...], chosen: str) -> None:
    assert prefer_four_bits(of(*labels)).label == chosen


@given(VARIANTS, st.randoms())
def test_the_choice_is_one_of_them_and_does_not_depend_on_their_order(variants: tuple[Variant, ...], random: Random) -> None:
    distinct = tuple({variant.label.upper(): replace(variant, size_bytes=at) for at, variant in enumerate(variants)}.values())
    shuffled = list(distinct)
    random.shuffle(shuffled)
    assert prefer_four_bits(distinct) in distinct
    assert prefer_four_bits(tuple(shuffled)) == prefer_four_bits(distinct)


def test_secrets_are_in_no_text() -> None:
    hub = Hub("https://a.example", token="hf_secret")
    options = PullOptions(pip_environment={"PIP_INDEX_URL": "https://me:secret@a.example"}, hubs={"hf": hub})
    context = SourceContext(Path("/w"), FetchOptions(), {"X": "secret"}, {"hf": hub})
    assert "secret" not in f"{hub!r} {options!r} {context!r}"


def test_the_public_hubs_are_reached_over_tls() -> None:
    for hub in HUBS.values():
        assert all(url.startswith("https://") and not url.endswith("/") for url in (hub.endpoint, *hub.mirrors))
        assert hub.token is None
    assert set(HUBS) == {"hf", "ms", "ollama"}

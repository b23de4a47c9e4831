"""The tables of known models and of guides agree with themselves: each figure against another, written down apart from it."""

from __future__ import annotations

import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
MODELS: list[dict[str, Any]] = tomllib.loads((HERE / "models.toml").read_text(encoding="utf-8"))["model"]
GUIDES: dict[str, Any] = tomllib.loads((HERE / "guides.toml").read_text(encoding="utf-8"))
TYPES = {"f16": Fraction(2), "q8_0": Fraction(34, 32), "q4_0": Fraction(18, 32)}
CONTEXTS = ("4096", "8192", "32768", "131072")
each_model = pytest.mark.parametrize("model", MODELS, ids=[model["name"] for model in MODELS])


def attention_parameters(model: dict[str, Any]) -> int:
    width, heads = model["embedding_length"], model["num_heads"]
    if model["attention"] == "latent":
        rank, rope, nope, value = (model[key] for key in ("kv_lora_rank", "rope_length", "nope_length", "value_length"))
        q_rank = model.get("q_lora_rank")
        queries = width * heads * (nope + rope) if q_rank is None else width * q_rank + q_rank + q_rank * heads * (nope + rope)
        return int(queries + width * (rank + rope) + rank + rank * heads * (nope + value) + heads * value * width)
    length, kv_heads = model["key_length"], model["num_kv_heads"]
    total = 2 * width * heads * length + 2 * width * kv_heads * length
    total += (heads + 2 * kv_heads) * length if model.get("has_qkv_bias") else 0
    total += 2 * length if model.get("has_qk_norm") else 0
    total += (heads + kv_heads) * length if model.get("has_per_head_qk_norm") else 0
    # gpt-oss: a learned sink for each head, and a bias on the output of attention.
    return int(total + (heads + width if model.get("has_sinks") else 0))


def feed_forward_parameters(model: dict[str, Any]) -> int:
    """Of all layers together."""
    width, num_layers = model["embedding_length"], model["num_layers"]
    experts = model.get("num_experts")
    if experts is None:
        return int(num_layers * 3 * width * model["feed_forward_length"])
    inner, dense = model["expert_feed_forward_length"], model.get("num_dense_layers", 0)
    sparse = experts * 3 * width * inner + 3 * width * model.get("shared_feed_forward_length", 0) + width * experts
    sparse += experts if model.get("has_router_bias") else 0
    sparse += experts * (2 * inner + width) + experts if model.get("has_expert_bias") else 0
    return int((num_layers - dense) * sparse + dense * 3 * width * model["feed_forward_length"])


@each_model
def test_the_figures_give_the_published_parameter_count(model: dict[str, Any]) -> None:
    width, num_layers = model["embedding_length"], model["num_layers"]
    embeddings = model["vocabulary_size"] * width * (1 if model.get("has_tied_embeddings") else 2)
    norms = num_layers * model.get("num_norms_per_layer", 2) * width + width
    total = embeddings + norms + num_layers * attention_parameters(model) + feed_forward_parameters(model)
    assert total == model["num_parameters"]


@each_model
def test_the_cache_figures_agree(model: dict[str, Any]) -> None:
    if model["attention"] == "latent":
        assert model["elements_per_token_and_layer"] == model["kv_lora_rank"] + model["rope_length"]
    else:
        assert model["elements_per_token_and_layer"] == model["num_kv_heads"] * (model["key_length"] + model["value_length"])
    window = model.get("window")
    num_full = model["num_layers"] - (window["num_layers"] if window else 0)
    for name, size in TYPES.items():
        per_layer = model["elements_per_token_and_layer"] * size
        assert model["bytes_per_token"][name] == num_full * per_layer
        for context in CONTEXTS:
            windowed = window["num_layers"] * per_layer * window["cells"][context] if window else 0
            assert model["kv_bytes"][name][context] == model["bytes_per_token"][name] * int(context) + windowed


def test_the_pattern_of_sliding_layers_gives_their_number() -> None:
    for model in MODELS:
        if "window" in model:
            sliding = [layer for layer in range(model["num_layers"]) if (layer + 1) % model["full_attention_every"]]
            assert len(sliding) == model["num_sliding_layers"] == model["window"]["num_layers"]


def test_the_windows_hold_a_window_and_a_micro_batch() -> None:
    cells = {model["name"]: model["window"]["cells"] for model in MODELS if "window" in model}
    assert cells == {
        "gemma-2-9b": {"4096": 4096, "8192": 4608, "32768": 4608, "131072": 4608},
        "gemma-3-27b": {"4096": 1536, "8192": 1536, "32768": 1536, "131072": 1536},
        "gpt-oss-20b": {"4096": 768, "8192": 768, "32768": 768, "131072": 768},
    }


def test_the_cache_of_two_models_is_what_everyone_knows() -> None:
    """llama.cpp prints 2048 MiB for Llama 2 7B at 4096 tokens, and 1024 MiB for Llama 3 8B at 8192."""
    by_name = {model["name"]: model["kv_bytes"]["f16"] for model in MODELS}
    assert by_name["llama-2-7b"]["4096"] == 2048 << 20
    assert by_name["llama-3-8b"]["8192"] == 1024 << 20


def test_derivations_in_comments_are_true() -> None:
    text = (HERE / "models.toml").read_text(encoding="utf-8")
    lines = re.findall(r"^# (\d+ layers × .+?) = ([\d,]+)(?: bytes a cell)?$", text, re.MULTILINE)
    assert len(lines) == 3 * (len(MODELS) + 3)
    for product, result in lines:
        factors = [sum(map(Fraction, part.strip("()").split(" + "))) for part in product.replace(" layers", "").split(" × ")]
        value = Fraction(1)
        for factor in factors:
            value *= factor
        assert value == int(result.replace(",", "")), product


def test_names_are_distinct_and_every_model_says_how_it_was_checked() -> None:
    assert len({model["name"] for model in MODELS}) == len(MODELS) >= 20
    assert all(model["checked"] and model["config"].startswith("https://huggingface.co/") for model in MODELS)


@pytest.mark.parametrize("table", GUIDES["table"], ids=[table["name"] for table in GUIDES["table"]])
def test_guides_are_plausible(table: dict[str, Any]) -> None:
    """A file of Q2 to Q8 has between 2 and 9 bits a weight; what is said to be needed in memory, at most a third more."""
    assert table["source"].startswith("https://")
    for row in table["rows"]:
        for name, size in row.items():
            if re.fullmatch(r"I?Q\d.*", name):
                unit = 2**30 if table["unit"] == "GiB" else 10**9
                bits = size * unit * 8 / (row["params_b"] * 1e9)
                assert 2 < bits < (9 if table["what"] == "file" else 12), (row, name)


def test_single_files_have_the_bits_of_their_type() -> None:
    for file in GUIDES["file"]:
        bits = file["num_bytes"] * 8 / (file["params_b"] * 1e9)
        low, high = {"Q2_K": (2.5, 3.4), "Q4_K_M": (4.5, 5.0)}[file["quantisation"]]
        assert low < bits < high, file

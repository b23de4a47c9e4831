"""What a model's ``generation_config.json`` says of how to draw tokens: what makes sense is taken, the rest is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.models import ModelDefaults
from zhibei.options import Sampling
from zhibei.store.model_defaults import read_generation_config, sampling_from

NAME = "generation_config.json"
KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)


async def read(path: Path, text: bytes) -> ModelDefaults | None:
    path.write_bytes(text)
    return await read_generation_config({NAME: path})


async def test_what_it_says_is_taken(tmp_path: Path) -> None:
    config = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0, "repetition_penalty": 1.1, "eos_token_id": [1, 2]}
    expected = Sampling(temperature=0.6, top_p=0.95, top_k=20, min_p=0.0, repeat_penalty=1.1)
    assert await read(tmp_path / "blob", json.dumps(config).encode()) == ModelDefaults(sampling=expected)


async def test_what_says_nothing_of_it_is_nothing(tmp_path: Path) -> None:
    for config in ({}, {"eos_token_id": 2, "do_sample": True}, {"temperature": "hot"}, {"top_k": None}):
        assert await read(tmp_path / "blob", json.dumps(config).encode()) is None


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"temperature": 0.5} x', b'{"a": "' + b"x" * (1 << 20) + b'"}']
)
async def test_what_cannot_be_read_is_nothing(tmp_path: Path, text: bytes) -> None:
    assert await read(tmp_path / "blob", text) is None


async def test_a_file_that_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert await read_generation_config({}) is None
    assert await read_generation_config({NAME: tmp_path / "gone"}) is None
    assert await read_generation_config({"sub/" + NAME: tmp_path / "gone"}) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 11),
        ("temperature", True),
        ("top_p", 1.01),
        ("top_k", 1.5),
        ("top_k", -1),
        ("top_k", False),
        ("top_k", 10**7),
        ("min_p", float("nan")),
        ("repetition_penalty", 0),
        ("repetition_penalty", float("inf")),
        ("repetition_penalty", "1.1"),
    ],
)
def test_values_out_of_range_are_passed_over_alone(key: str, value: object) -> None:
    good = {"temperature": 0.5, "top_p": 0.9, "top_k": 4, "min_p": 0.1, "repetition_penalty": 1.2}
    expected = sampling_from({name: found for name, found in good.items() if name != key})
    assert sampling_from({**good, key: value}) == expected


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, VALUES)))
def test_whatever_it_says_no_engine_gets_nonsense(config: dict[str, Any]) -> None:
    found = sampling_from(config)
    for value, least, most in (
        (found.temperature, 0, 10),
        (found.top_p, 0, 1),
        (found.top_k, 0, 10**6),
        (found.min_p, 0, 1),
        (found.repeat_penalty, 0.01, 10),
    ):
        assert value is None or least <= value <= most

"""Values of options: what is taken, what is refused, where it goes."""

from __future__ import annotations

from dataclasses import fields

import pytest

from zhibei.cli import flags
from zhibei.cli.kinds import Kind, OneOf, Rate, Real, Switch, Whole, Words
from zhibei.errors import BadRequest
from zhibei.options import Limits, LoadOptions, Sampling


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Whole(0, 9), "7", 7),
        (Whole(0, 9), " 7 ", 7),
        (Real(0, 1), "0.5", 0.5),
        (Real(0, 1), "1", 1.0),
        (OneOf(("on", "off")), "ON", "on"),
        (Switch(), "off", False),
        (Words(), "x y", "x y"),
        (flags.Shares(), "3, 1", (3.0, 1.0)),
        (flags.Adapter(), "a.gguf", ("a.gguf", 1.0)),
        (flags.Adapter(), "a=b.gguf=0.5", ("a=b.gguf", 0.5)),
        (flags.Adapter(), "dir=1/a.gguf", ("dir=1/a.gguf", 1.0)),
        (flags.Duration(), "5m", "5m"),
    ],
)
def test_taken(kind: Kind, text: str, value: object) -> None:
    assert kind.read(text, "--x") == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Whole(0, 9), "10"),
        (Whole(0, 9), "-1"),
        (Whole(0, 9), "1.5"),
        (Real(0, 1), "nan"),
        (Real(0, 1), "inf"),
        (Real(0, 1), ""),
        (OneOf(("on", "off")), "maybe"),
        (Switch(), "1"),
        (Words(), ""),
        (flags.Shares(), "1,,2"),
        (flags.Adapter(), "a.gguf=x"),
        (flags.Duration(), "soon"),
    ],
)
def test_refused(kind: Kind, text: str) -> None:
    with pytest.raises(BadRequest):
        kind.read(text, "--x")


@pytest.mark.parametrize("flag", flags.MODEL_FLAGS, ids=lambda flag: flag.field)
def test_every_flag_has_a_field(flag: flags.Flag) -> None:
    record = {"load": LoadOptions, "sampling": Sampling, "limits": Limits}[flag.field.partition(".")[0]]
    assert flag.word in {field.name for field in fields(record)}


def test_names_are_unique() -> None:
    names = [name for flag in (*flags.MODEL_FLAGS, flags.KEEP_ALIVE) for name in flag.names]
    assert len(names) == len(set(names))


def test_given_values_fill_their_records() -> None:
    params = {
        "sampling__top_k": 0,
        "load__mmap": False,
        "limits__stop": ("x",),
        "sampling__seed": None,
        "load__lora": (),
        "other": 1,
    }
    values = flags.given(params, flags.MODEL_FLAGS)
    assert values == {"load.mmap": False, "sampling.top_k": 0, "limits.stop": ("x",)}
    assert flags.filled(Sampling(), values) == Sampling(top_k=0)
    assert flags.filled(LoadOptions(), values) == LoadOptions(mmap=False)
    assert flags.filled(Limits(max_tokens=3), values) == Limits(max_tokens=3, stop=("x",))


@pytest.mark.parametrize("text", ["5M", "800K", "2MiB", "1024", "1.5 GB"])
def test_a_rate_stays_as_it_was_written(text: str) -> None:
    assert Rate().read(text, "--max-rate") == text


@pytest.mark.parametrize("text", ["", "5q", "-1M", "fast", "1023", "0", "5M/s"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Rate().read(text, "--max-rate")
    assert caught.value.param == "--max-rate"

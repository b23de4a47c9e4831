"""Requests: values only."""

from __future__ import annotations

import dataclasses

import pytest

from zhibei import chat
from zhibei.chat import ImagePart, Message, TextPart
from zhibei.options import Sampling

RECORDS = [item for item in vars(chat).values() if dataclasses.is_dataclass(item) and isinstance(item, type)]


def test_a_message_of_text() -> None:
    assert Message.of("user", "Hi.") == Message("user", (TextPart("Hi."),))
    assert Message.of("user", "").text == ""


def test_the_text_of_a_message_leaves_images_out() -> None:
    message = Message("user", (TextPart("a"), ImagePart(b"x", "image/png"), TextPart("b")))
    assert message.text == "ab"
    assert Message("assistant").text == ""


@pytest.mark.parametrize(
    ("mine", "defaults", "joined"),
    [
        (Sampling(), Sampling(temperature=0.5, seed=1), Sampling(temperature=0.5, seed=1)),
        (
            Sampling(temperature=0.0, top_k=0, seed=0),
            Sampling(temperature=0.5, top_k=4, seed=1),
            Sampling(temperature=0.0, top_k=0, seed=0),
        ),
        (Sampling(top_p=0.1), Sampling(top_k=4), Sampling(top_p=0.1, top_k=4)),
        (Sampling(logit_bias=()), Sampling(logit_bias=((1, 2.0),)), Sampling(logit_bias=((1, 2.0),))),
        (Sampling(logit_bias=((3, 4.0),)), Sampling(logit_bias=((1, 2.0),)), Sampling(logit_bias=((3, 4.0),))),
    ],
)
def test_sampling_over_defaults(mine: Sampling, defaults: Sampling, joined: Sampling) -> None:
    assert mine.over(defaults) == joined


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_records_are_frozen_and_slotted(record: type) -> None:
    assert record.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(record)

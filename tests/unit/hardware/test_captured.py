"""Machines that people showed in public: what they answered is replayed, and the facts compared with those written by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from unit.hardware.replay import CAPTURED, Capture, read
from zhibei.hardware.detect import Detector
from zhibei.hardware.document import document

NAMES = sorted(path.stem for path in CAPTURED.glob("*.txt"))
SECRETS = re.compile(r"GPU-[0-9a-f]{8}-|\bserial\b.*[0-9a-f]{8}|/home/|/Users/|\b[\w.-]+@[\w-]+[.:~]", re.IGNORECASE)


@pytest.fixture(params=NAMES)
def capture(request: pytest.FixtureRequest) -> Capture:
    return read(CAPTURED / f"{request.param}.txt")


def test_there_are_many() -> None:
    assert len(NAMES) >= 40


def test_the_source_and_the_facts_are_told(capture: Capture) -> None:
    assert capture.head["source"].startswith("https://")
    assert capture.expected


def test_facts(capture: Capture) -> None:
    found = document(Detector(capture.machine)())
    for name, value in capture.expected.items():
        if name == "gpus":
            assert len(found["gpus"]) == len(value)
            for gpu, expected in zip(found["gpus"], value, strict=True):
                assert {key: gpu[key] for key in expected} == expected
        else:
            assert found[name] == value, name


def test_a_second_look_says_the_same(capture: Capture) -> None:
    detector = Detector(capture.machine)
    first, asked = document(detector()), len(capture.machine.asked)
    second = document(detector())
    for gpu in (*first["gpus"], *second["gpus"]):
        gpu.pop("free_bytes")
    assert first == second
    assert not [command for command in capture.machine.asked[asked:] if "query-gpu" not in command]


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_an_answer_that_breaks_off_is_no_error(capture: Capture, kept: float) -> None:
    for answers in (capture.machine.files, capture.machine.outputs):
        answers.update({name: text[: int(len(text) * kept)] for name, text in answers.items()})
    found: dict[str, Any] = document(Detector(capture.machine)())
    assert set(capture.expected) <= set(found)


def test_nothing_private_is_kept() -> None:
    for path in CAPTURED.iterdir():
        assert not SECRETS.search(path.read_text(encoding="utf-8")), path.name

"""What the queue says to those it turns away."""

from __future__ import annotations

import pytest

from zhibei.errors import Busy, DoesNotFit, ShareFull, ZhibeiError
from zhibei.runtime.refusals import Bounds, Outlook, refusal, retry_after_s
from zhibei.runtime.scheduler import RefuseReason


@pytest.mark.parametrize(
    ("outlook", "expected"),
    [
        (Outlook(), 1),
        (Outlook(load_left_s=0.0), 1),
        (Outlook(load_left_s=7.2), 8),
        (Outlook(load_left_s=7.2, request_s=30.0), 8),
        (Outlook(load_left_s=900.0), 60),
        (Outlook(request_s=30.0), 30),
        (Outlook(request_s=30.0, num_slots=4), 8),
        (Outlook(request_s=0.001, num_slots=4), 1),
    ],
)
def test_when_to_try_again(outlook: Outlook, expected: int) -> None:
    assert retry_after_s(outlook) == expected


@pytest.mark.parametrize(
    ("reason", "cls", "words"),
    [
        ("draining", Busy, "stopping"),
        ("queue_full", Busy, "(5)"),
        ("share_full", ShareFull, "others"),
        ("too_late", Busy, "within 9 seconds"),
        ("no_memory", DoesNotFit, "1.0 KiB"),
        ("no_place", DoesNotFit, "no more than 3 models"),
    ],
)
def test_every_reason_has_words_and_a_hint(reason: RefuseReason, cls: type[ZhibeiError], words: str) -> None:
    error = refusal("m:latest", reason, 1024, Bounds(5, 3, 8.5), Outlook(request_s=4.0))
    assert type(error) is cls and words in str(error) and error.hint_text
    if isinstance(error, Busy):
        assert error.retry_after_s == (5 if reason == "draining" else 4)

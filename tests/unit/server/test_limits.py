"""What each key may use, against a clock of the test's own."""

from __future__ import annotations

import pytest

from zhibei.errors import ZhibeiError
from zhibei.events import Finished, Usage
from zhibei.server.ask import Ask, Caller, ErrorReply
from zhibei.server.drain import Drain
from zhibei.server.errors import headers_of, row_of
from zhibei.server.keys import MAX_KEYS, KeyLimits
from zhibei.server.limits import Limiter, RateLimited, TokenCount, duration


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def say(error: ZhibeiError) -> ErrorReply:
    return ErrorReply(500, b"", [])


def ask(key_id: str) -> Ask:
    return Ask("1", False, Drain(), say, Caller(key_id))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(clock)


def pass_one(limiter: Limiter, limits: KeyLimits, key_id: str = "k_1") -> dict[str, str]:
    with limiter.request(key_id, limits) as left:
        return {name.decode(): value.decode() for name, value in left}


def test_a_key_without_limits_is_not_counted(limiter: Limiter) -> None:
    for _ in range(1000):
        assert pass_one(limiter, KeyLimits()) == {}


def test_a_minutes_worth_may_come_at_once_and_then_evenly(limiter: Limiter, clock: Clock) -> None:
    limits = KeyLimits(requests_per_minute=6)
    for _ in range(6):
        pass_one(limiter, limits)
    with pytest.raises(RateLimited, match="6 requests a minute") as caught:
        pass_one(limiter, limits)
    assert caught.value.retry_after_s == 10
    clock.now_s += 9.9
    with pytest.raises(RateLimited) as caught:
        pass_one(limiter, limits)
    assert caught.value.retry_after_s == 1
    clock.now_s += 0.2
    pass_one(limiter, limits)
    with pytest.raises(RateLimited):
        pass_one(limiter, limits)
    clock.now_s += 3600
    for _ in range(6):
        pass_one(limiter, limits)
    with pytest.raises(RateLimited):
        pass_one(limiter, limits)


def test_waiting_as_long_as_was_said_is_enough(limiter: Limiter, clock: Clock) -> None:
    for limits in (KeyLimits(requests_per_minute=1), KeyLimits(requests_per_minute=7), KeyLimits(requests_per_minute=1000)):
        key_id = str(limits)
        for _ in range(20):
            try:
                while True:
                    pass_one(limiter, limits, key_id)
            except RateLimited as error:
                clock.now_s += error.retry_after_s
            pass_one(limiter, limits, key_id)


def test_refused_requests_cost_nothing(limiter: Limiter, clock: Clock) -> None:
    limits = KeyLimits(requests_per_minute=1)
    pass_one(limiter, limits)
    for _ in range(100):
        with pytest.raises(RateLimited):
            pass_one(limiter, limits)
    clock.now_s += 60
    pass_one(limiter, limits)


def test_tokens_are_counted_when_an_answer_ends_and_a_debt_is_waited_for(limiter: Limiter, clock: Clock) -> None:
    limits, count = KeyLimits(tokens_per_minute=600), TokenCount(limiter)
    pass_one(limiter, limits)
    count.finished(ask("k_1"), "m", Finished(("stop",), Usage(500, 90, 300)), 1.0)
    assert pass_one(limiter, limits)["x-ratelimit-remaining-tokens"] == "10"
    count.finished(ask("k_1"), "m", Finished(("stop",), Usage(300, 309)), 1.0)
    with pytest.raises(RateLimited, match="600 tokens a minute") as caught:
        pass_one(limiter, limits)
    assert caught.value.retry_after_s == 60
    clock.now_s += 60
    pass_one(limiter, limits)


def test_an_answer_that_was_left_costs_what_came_of_it(limiter: Limiter) -> None:
    limits, count = KeyLimits(tokens_per_minute=100), TokenCount(limiter)
    pass_one(limiter, limits)
    left = ask("k_1")
    left.meter.num_pieces = 40
    count.failed(left, "m", GeneratorExit())
    assert pass_one(limiter, limits)["x-ratelimit-remaining-tokens"] == "60"


def test_so_many_at_once_and_no_more(limiter: Limiter) -> None:
    limits = KeyLimits(concurrent=2)
    with limiter.request("k_1", limits), limiter.request("k_1", limits):
        with pytest.raises(RateLimited, match="2 requests under way") as caught:
            pass_one(limiter, limits)
        assert caught.value.retry_after_s == 1
        pass_one(limiter, limits, "k_2")
    with limiter.request("k_1", limits):
        pass_one(limiter, limits)


def test_one_key_does_not_use_up_what_is_anothers(limiter: Limiter) -> None:
    limits = KeyLimits(requests_per_minute=3, tokens_per_minute=10)
    for _ in range(3):
        pass_one(limiter, limits, "flood")
    limiter.spend("flood", 10**6)
    with pytest.raises(RateLimited):
        pass_one(limiter, limits, "flood")
    assert pass_one(limiter, limits, "other")["x-ratelimit-remaining-requests"] == "2"


def test_new_limits_hold_at_once_and_what_runs_is_still_counted(limiter: Limiter) -> None:
    with limiter.request("k_1", KeyLimits(concurrent=5)), pytest.raises(RateLimited):
        pass_one(limiter, KeyLimits(concurrent=1))
    pass_one(limiter, KeyLimits(concurrent=1))
    for _ in range(2):
        pass_one(limiter, KeyLimits(requests_per_minute=2))
    with pytest.raises(RateLimited):
        pass_one(limiter, KeyLimits(requests_per_minute=2))
    pass_one(limiter, KeyLimits(requests_per_minute=3))


def test_headers_say_what_is_left(limiter: Limiter) -> None:
    told = pass_one(limiter, KeyLimits(requests_per_minute=10, tokens_per_minute=6000))
    assert told["x-ratelimit-limit-requests"] == "10" and told["x-ratelimit-remaining-requests"] == "9"
    assert told["x-ratelimit-reset-requests"] == "6s" and told["x-ratelimit-reset-tokens"] == "0ms"
    assert told["x-ratelimit-limit-tokens"] == told["x-ratelimit-remaining-tokens"] == "6000"
    assert told["anthropic-ratelimit-requests-remaining"] == "9"
    assert told["anthropic-ratelimit-tokens-reset"].endswith("Z")
    assert not any("tokens" in name for name in pass_one(limiter, KeyLimits(requests_per_minute=10), "k_2"))


def test_what_is_remembered_is_bounded(limiter: Limiter) -> None:
    for number in range(3 * MAX_KEYS):
        pass_one(limiter, KeyLimits(requests_per_minute=1), f"k_{number}")
    assert len(limiter._uses) <= MAX_KEYS


def test_it_is_429_and_clients_may_try_again() -> None:
    error = RateLimited("No.", retry_after_s=7)
    assert (row_of(error).status, row_of(error).type, row_of(error).code) == (429, "rate_limit_error", "rate_limit_exceeded")
    headers = dict(headers_of(error))
    assert headers[b"retry-after"] == b"7" and b"x-should-retry" not in headers


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.1201, "121ms"), (1, "1s"), (59.2, "1m0s"), (360, "6m0s"), (3661, "1h1m1s")]
)
def test_durations_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text

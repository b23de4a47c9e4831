"""What an engine has written: counted while it writes, and by what it says at the end."""

from __future__ import annotations

from zhibei.chat import ChatRequest, Message
from zhibei.engines.echo import EchoEngine, EchoScript
from zhibei.errors import ZhibeiError
from zhibei.events import Finished, ReasoningDelta, TextDelta, Usage
from zhibei.plans import EngineSpec
from zhibei.runtime.counted import CountedEngine

REQUEST = ChatRequest((Message.of("user", "a"),))
ANSWER = (ReasoningDelta("Hm."), TextDelta("one"), TextDelta(" two"), Finished(("stop",), Usage(5, 4, 2)))


def engine(*answers: tuple[ReasoningDelta | TextDelta | Finished, ...]) -> CountedEngine:
    def crashed(error: ZhibeiError) -> None:
        raise AssertionError(error)

    spec = EngineSpec("echo", "x", "x", "generate", 128, 1, 1, 1, None, None, "f16", "f16", "auto", None, 0)
    return CountedEngine(EchoEngine(spec, EchoScript(answers)), crashed)


async def test_tokens_count_as_they_come_and_are_put_right_at_the_end() -> None:
    counted = engine(ANSWER)
    seen = [counted.usage.num_generated_tokens async for _ in counted.chat(REQUEST)]
    assert seen == [1, 2, 3, 4] and counted.usage == Usage(5, 4, 2)


async def test_what_was_broken_off_stays_counted() -> None:
    counted = engine(ANSWER, ANSWER)
    events = counted.chat(REQUEST)
    assert [await anext(events), await anext(events)] == list(ANSWER[:2])
    await events.aclose()
    assert counted.usage == Usage(0, 2, 0)
    assert len([event async for event in counted.chat(REQUEST)]) == 4
    assert counted.usage == Usage(5, 6, 2)

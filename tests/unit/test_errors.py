"""The error tree: the drawing in the docstring is the real one, and every message can be put together."""

from __future__ import annotations

import ast
import inspect
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

import zhibei
from zhibei import errors
from zhibei.errors import Busy, ContextTooLong, EngineDied, EngineStartFailed, ModelFileError, ZhibeiError

CLASSES = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, ZhibeiError)]
SOURCES = sorted(Path(zhibei.__file__).parent.rglob("*.py"))


def make(cls: type[ZhibeiError]) -> ZhibeiError:
    if cls is ContextTooLong:
        return ContextTooLong(5000, 4096)
    if cls is ModelFileError:
        return ModelFileError("the count {count} is too large", field="tensors", offset=16, count=7)
    return cls("Nothing about {name!r}.", hint="Ask {name}.", name="x")


def drawn() -> dict[str, str | None]:
    """Class → the class above it, as the docstring draws them."""
    found: dict[str, str | None] = {}
    above: list[str] = []
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]
        match = re.fullmatch(r"((?:[│ ] {3})*)(?:[├└]── )?([A-Z]\w+)(?: {2,}\S.*)?", line.removeprefix("    "))
        if match is None or not line.startswith("    "):
            continue
        depth = 0 if match[2] == "ZhibeiError" else len(match[1]) // 4 + 1
        del above[depth:]
        found[match[2]] = above[-1] if above else None
        above.append(match[2])
    return found


def test_the_drawn_tree_is_the_real_one() -> None:
    real = {cls.__name__: None if cls is ZhibeiError else cls.__mro__[1].__name__ for cls in CLASSES}
    assert drawn() == real
    assert list(drawn()) == list(real), "drawn and written in the same order"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_message_and_hint_are_templates(cls: type[ZhibeiError]) -> None:
    error = make(cls)
    for text in (str(error), error.hint_text or ""):
        assert "{" not in text
    assert error.args == (error.message,)
    assert inspect.getdoc(cls)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_values_may_hold_braces(cls: type[ZhibeiError]) -> None:
    if cls not in (ContextTooLong, ModelFileError):
        assert str(cls("{a}", hint="{a}", a="{b}")) == "{b}"
        assert cls("{a}", hint="{a}", a="{b}").hint_text == "{b}"


def test_a_message_without_values() -> None:
    assert str(ZhibeiError("It is so.")) == "It is so."
    assert ZhibeiError("It is so.").hint_text is None


@pytest.mark.parametrize("template", ["{missing}", "{", "}", "{a.b}", "{a[0]}", "{a:zz}", "{}"])
def test_a_template_that_cannot_be_filled_is_shown_as_it_is(template: str) -> None:
    error = ZhibeiError(template, hint=template, a=1)
    assert (str(error), error.hint_text) == (template, template)


def test_what_some_errors_also_carry() -> None:
    assert errors.BadRequest("x", param="top_p").param == "top_p"
    assert errors.BadRequest("x").param is None
    assert ContextTooLong(5000, 4096).param == "messages"
    assert str(ContextTooLong(5000, 4096)) == "The prompt has 5000 tokens; this model was loaded with a context of 4096."
    assert EngineStartFailed("x", log_tail=("a",)).log_tail == EngineDied("x", log_tail=("a",)).log_tail == ("a",)
    assert Busy("x", retry_after_s=5).retry_after_s == 5
    broken = ModelFileError("the count {count} is too large", field="tensors", offset=16, count=7)
    assert (broken.field, broken.offset) == ("tensors", 16)
    assert "the count 7 is too large (field tensors, byte 16)" in str(broken)


def raised() -> Iterator[tuple[str, ast.Call, type[ZhibeiError]]]:
    """Every place in the sources that makes an error of the tree."""
    known = {cls.__name__: cls for cls in CLASSES}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
                if name in known and node.args:
                    yield f"{path.name}:{node.lineno}", node, known[str(name)]


def placeholders(node: ast.expr | None) -> set[str]:
    """Names that a literal template asks for."""
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return set()
    return {re.split(r"[.\[!]", name)[0] for _, name, _, _ in string.Formatter().parse(node.value) if name is not None}


def test_every_template_gets_its_values_where_it_is_used() -> None:
    """``str(error)`` would raise KeyError, at the worst moment."""
    wrong = []
    for where, call, cls in raised():
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        if None in keywords:
            continue
        given = set(keywords) | ({"param"} if issubclass(cls, errors.BadRequest) else set())
        missing = (placeholders(call.args[0]) | placeholders(keywords.get("hint"))) - given
        wrong += [f"{where}: {sorted(missing)}"] if missing else []
    assert wrong == []

"""The table of exit codes is complete."""

from __future__ import annotations

import inspect

import pytest

from zhibei import errors
from zhibei.cli.exit_codes import EXIT_CODES, MEANINGS, exit_code

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.ZhibeiError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_has_a_code_with_a_meaning(cls: type[errors.ZhibeiError]) -> None:
    assert EXIT_CODES[cls] in dict(MEANINGS)


def test_a_class_that_is_not_in_the_table_takes_the_code_of_the_nearest_above() -> None:
    class Special(errors.Offline):
        pass

    assert exit_code(Special("x")) == 4
    assert exit_code(errors.Busy("x")) == 8
    assert exit_code(errors.ZhibeiError("x")) == 1

"""Messages in English and Simplified Chinese. Owns the look-up; knows no message itself and keeps no state.

A message is an English template in ``str.format`` style, marked where it is written: the first argument or ``hint`` of
an error, the argument of ``Notice``, ``N_``, ``_`` or ``Phrase``. ``scripts/messages`` collects them into
``locales/zh_CN/LC_MESSAGES/zhibei.po`` and compiles the ``.mo`` that is read here. English needs no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from zhibei.errors import ModelFileError, ZhibeiError

_LOCALES = {"zh": "zh_CN"}
_DOMAIN = "zhibei"
# Values of these names are phrases, which are looked up too.
PHRASES = frozenset(("problem", "reason", "how", "kind", "hub"))


class Template(Protocol):
    """A template and its values: what ``zhibei.events.Notice`` is."""

    @property
    def message(self) -> str:
        """The English template."""
        ...

    @property
    def values(self) -> tuple[tuple[str, object], ...]:
        """Names and values for it."""
        ...


def N_(template: str) -> str:
    """Mark a template for translation where it is only stored."""
    return template


class Phrase(str):
    """Part of a message: a template and its values. To all but a translator it is its English text, also where it is sent."""

    def __new__(cls, template: str, /, **values: object) -> Phrase:
        """As an error is given them; a value may be a phrase too."""
        phrase = super().__new__(cls, template.format_map(values) if values else template)
        phrase.template, phrase.values = template, values
        return phrase

    template: str
    values: Mapping[str, object]


class Translator:
    """Shows templates in one language. ``lang`` is ``en`` or ``zh``; an untranslated template is shown in English."""

    def __init__(self, lang: str) -> None:
        self.lang = lang
        self._look_up = _catalogue(lang)

    def text(self, template: str, /, **values: object) -> str:
        """The template in this language, with its values filled in."""
        return self._fill(template, values)

    def error(self, error: ZhibeiError) -> tuple[str, str | None]:
        """The message and the hint of an error."""
        hint = None if error.hint is None else self._fill(error.hint, error.values)
        if isinstance(error, ModelFileError):
            problem = self._fill(error.problem, error.values)
            return self._fill(error.FRAME, {**error.values, "problem": problem}), hint
        return self._fill(error.message, error.values), hint

    def notice(self, notice: Template) -> str:
        """The text of a notice."""
        return self._fill(notice.message, dict(notice.values))

    def phrase(self, text: str) -> str:
        """A value that is shown by itself: a ``Phrase``, or a phrase that was sent as text."""
        return self._fill(text.template, text.values) if isinstance(text, Phrase) else self._fill(text, {})

    def _fill(self, template: str, values: Mapping[str, object]) -> str:
        translated = self._look_up(template) if template else ""
        values = {name: self._phrase(name, value) for name, value in values.items()}
        for text in (translated, template):
            try:
                return text.format_map(values) if values else text
            except (LookupError, ValueError, AttributeError):
                continue
        return template

    def _phrase(self, name: str, value: object) -> object:
        if isinstance(value, ZhibeiError):
            return self.error(value)[0]
        if isinstance(value, Phrase) or (name in PHRASES and isinstance(value, str)):
            return self.phrase(value)
        return value


def _catalogue(lang: str) -> Callable[[str], str]:
    if lang not in _LOCALES:
        return str
    from gettext import GNUTranslations

    path = Path(__file__).parent / "locales" / _LOCALES[lang] / "LC_MESSAGES" / f"{_DOMAIN}.mo"
    try:
        with path.open("rb") as file:
            return GNUTranslations(file).gettext
    except OSError:
        return str

"""What every command is given: the printer, the language and the settings, decided once for this run of the program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zhibei.cli.printer import Printer
from zhibei.cli.render import printable
from zhibei.errors import ZhibeiError
from zhibei.i18n import Template, Translator
from zhibei.settings import Resolved, Settings, resolve


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of the program. ``flags`` are the dotted settings that global options gave.

    ``resolved`` is a problem where the settings do not parse: help is shown all the same, commands raise it.
    """

    printer: Printer
    translator: Translator
    resolved: Resolved | ZhibeiError
    flags: Mapping[str, object]
    config: Path | None = None
    debug: bool = False

    @property
    def settings(self) -> Settings:
        """The settings.

        Raises:
            BadSetting: they do not parse.
        """
        return self.all_settings().settings

    def all_settings(self, flags: Mapping[str, object] | None = None) -> Resolved:
        """The settings and their origins; ``flags`` are a command's own, over all others.

        Raises:
            BadSetting: they do not parse.
        """
        if isinstance(self.resolved, ZhibeiError):
            raise self.resolved
        return resolve({**self.flags, **flags}, config=self.config) if flags else self.resolved

    def text(self, template: str, /, **values: object) -> str:
        """A template in the person's language."""
        return self.translator.text(template, **values)

    def note(self, template: str, /, **values: object) -> None:
        """A line of talk from a template."""
        self.printer.note(self.translator.text(template, **values))

    def warn(self, template: str, /, **values: object) -> None:
        """A line of talk that something is not as it should be."""
        self._warn(self.translator.text(template, **values))

    def notice(self, notice: Template) -> None:
        """A notice that work under way gave."""
        self._warn(self.translator.notice(notice))

    def error(self, error: ZhibeiError) -> None:
        """An error, its hint, and what the engine said last."""
        for line in getattr(error, "log_tail", ()):
            self.printer.error(self.printer.styled(f"  | {printable(line)}", "dim", err=True))
        message, hint = self.translator.error(error)
        self.printer.error(self._labelled(self.text("error:"), "red", message))
        if hint:
            self.printer.error(self._labelled(self.text("hint:"), "cyan", hint))

    def _warn(self, text: str) -> None:
        self.printer.note(self._labelled(self.text("notice:"), "yellow", text))

    def _labelled(self, label: str, style: str, text: str) -> str:
        """A Chinese colon brings its own space."""
        return self.printer.styled(label, style, err=True) + ("" if label.endswith("：") else " ") + printable(text)

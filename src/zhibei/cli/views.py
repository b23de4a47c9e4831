"""How an answer looks: plain text for programs and ``--plain``, rendered Markdown on a terminal, nothing for ``--json``."""

from __future__ import annotations

from zhibei.cli.answers import View
from zhibei.cli.invocation import Invocation
from zhibei.cli.render import printable


def choose_view(invocation: Invocation, *, plain: bool) -> View:
    """The view for stdout as it is."""
    if plain or not invocation.printer.out_is_terminal:
        return PlainView(invocation)
    return MarkdownView(invocation)


class SilentView:
    """Shows nothing but that the model is being loaded."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._printer = invocation.printer

    def loading(self, model: str, fraction: float | None) -> None:
        """A line that goes away."""
        percent = "" if fraction is None else f" {fraction:.0%}"
        self._printer.transient(self._invocation.text("Loading {model} …", model=printable(model)) + percent)

    def reasoning(self, text: str) -> None:
        """Nothing."""

    def text(self, text: str) -> None:
        """Nothing."""

    def end(self) -> None:
        """Take the line away."""
        self._printer.clear_transient()


class PlainView(SilentView):
    """The text as it comes. What the model thinks is shown to people only, dimmed."""

    def __init__(self, invocation: Invocation) -> None:
        super().__init__(invocation)
        self._for_person = self._printer.out_is_terminal
        self._thinking = False
        self._last = "\n"

    def reasoning(self, text: str) -> None:
        """Dimmed text on a terminal."""
        shown = printable(text)
        if self._for_person and shown:
            self._thinking = True
            self._write(self._printer.styled(shown, "dim"))
            self._last = shown[-1]

    def text(self, text: str) -> None:
        """The text; without control characters on a terminal."""
        self._end_thinking()
        shown = printable(text) if self._for_person else text
        if shown:
            self._write(shown)
            self._last = shown[-1]

    def end(self) -> None:
        """End the line."""
        if self._last != "\n":
            self._write("\n")
        self._printer.clear_transient()

    def _end_thinking(self) -> None:
        if self._thinking:
            self._thinking = False
            self._write("\n\n" if self._last != "\n" else "\n")
            self._last = "\n"

    def _write(self, text: str) -> None:
        self._printer.stream(text)


class MarkdownView(PlainView):
    """Rendered Markdown. Thoughts are streamed as plain dimmed text above it."""

    def __init__(self, invocation: Invocation) -> None:
        from zhibei.cli.painter import Painter

        super().__init__(invocation)
        self._painter = Painter(self._printer)

    def text(self, text: str) -> None:
        """Hand it to the painter, which shows it within a moment."""
        self._end_thinking()
        self._printer.clear_transient()
        self._painter.feed(printable(text))

    def end(self) -> None:
        """Show what is left."""
        super().end()
        self._painter.finish()

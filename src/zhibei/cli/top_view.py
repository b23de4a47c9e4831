"""``zhibei top`` as it is drawn: a line of figures, a table, the engine's last lines. Needs the package textual."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, Footer, Label, RichLog
from textual.worker import Worker

from zhibei.cli import top_text
from zhibei.cli.overview import SORT_KEYS, Look, Overview, SortKey, overview
from zhibei.cli.render import printable
from zhibei.cli.top_text import Texts
from zhibei.errors import ModelNotFound, ZhibeiError
from zhibei.i18n import N_
from zhibei.service import Service

_NUM_LINES = 200
_ORDERED: dict[SortKey, str] = {
    "name": N_("Ordered by name"),
    "memory": N_("Ordered by memory"),
    "rate": N_("Ordered by speed"),
    "requests": N_("Ordered by number of requests"),
}


class TopView(App[None]):
    """The live view. Looks every so often; what fails is said in place of the figures, and tried again."""

    CSS = """
    #figures { padding: 0 1; height: auto; text-style: bold; }
    #problem { padding: 0 1; height: auto; color: $error; }
    #models { height: 1fr; min-height: 4; }
    #title { padding: 0 1; height: 1; color: $text-muted; }
    #lines { height: 1fr; border-top: solid $panel; }
    """
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, server: Service, text: Texts, every_s: float) -> None:
        super().__init__()
        self._server = server
        self._text = text
        self._every_s = every_s
        self._before: Look | None = None
        self._sort: SortKey = "name"
        self._shown: str | None = None
        self._following: Worker[None] | None = None
        self.seen: Overview | None = None
        for keys, action, words in (
            ("q", "quit", text("Leave")),
            ("s", "stop_model", text("Stop the model")),
            ("o", "order", text("Order")),
        ):
            self.bind(keys, action, description=words)

    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", show=False)]

    def compose(self) -> ComposeResult:
        """The parts, from top to bottom."""
        with Vertical():
            yield Label("", id="figures", markup=False)
            yield Label("", id="problem", markup=False)
            yield DataTable(id="models", cursor_type="row", zebra_stripes=True)
            yield Label("", id="title", markup=False)
            yield RichLog(id="lines", wrap=False, markup=False, max_lines=_NUM_LINES)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one(DataTable).add_columns(*top_text.headings(self._text))
        self.query_one("#problem", Label).display = False
        self.set_interval(self._every_s, self.look)
        self.call_later(self.look)

    async def look(self) -> None:
        """Ask the server, and show what it says."""
        try:
            now = Look(await self._server.pool(), time.monotonic())
        except ZhibeiError as error:
            self._say(printable(self._text(error.message, **error.values)))
            return
        self._say("")
        seen = overview(now, self._before, self._sort)
        self._before, self.seen = now, seen
        self._draw(seen)

    def _draw(self, seen: Overview) -> None:
        self.query_one("#figures", Label).update("\n".join(top_text.above(seen, self._text)))
        models = self.query_one(DataTable)
        chosen, place = self.chosen, models.cursor_row
        models.clear()
        for row in seen.rows:
            models.add_row(*top_text.cells(row, self._text), key=f"{row.resident.name} {row.resident.task}")
        names = [row.resident.name for row in seen.rows]
        if names:
            models.move_cursor(row=names.index(chosen) if chosen in names else min(place, len(names) - 1))
        self._follow(self.chosen)

    @property
    def chosen(self) -> str | None:
        """The model that the cursor is on."""
        models = self.query_one(DataTable)
        if not models.is_valid_row_index(models.cursor_row):
            return None
        key = models.coordinate_to_cell_key((models.cursor_row, 0)).row_key.value  # type: ignore[arg-type]
        return key.rpartition(" ")[0] if key else None

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Another model was chosen: its engine's lines."""
        self._follow(self.chosen)

    def _follow(self, name: str | None) -> None:
        if name is None or name == self._shown:
            return
        self._shown = name
        self.query_one("#title", Label).update(self._text(N_("What the engine of {model} wrote"), model=name))
        self.query_one(RichLog).clear()
        if self._following is not None:
            self._following.cancel()
        self._following = self.run_worker(self._lines_of(name), exclusive=False, exit_on_error=False)

    async def _lines_of(self, name: str) -> None:
        log = self.query_one(RichLog)
        try:
            async with aclosing(self._server.logs(name, num_lines=_NUM_LINES, follow=True)) as lines:
                async for line in lines:
                    log.write(f"{line.at.astimezone():%H:%M:%S}  {printable(line.text)}")
        except ZhibeiError:
            # The server is gone or stops; the next look says so.
            self._shown = None

    def action_order(self) -> None:
        """Order by the next thing."""
        self._sort = SORT_KEYS[(SORT_KEYS.index(self._sort) + 1) % len(SORT_KEYS)]
        self.notify(self._text(_ORDERED[self._sort]))
        self.call_later(self.look)

    async def action_stop_model(self) -> None:
        """Unload the chosen model, once its answers are done."""
        name = self.chosen
        if name is not None:
            self.notify(self._text(N_("Stopping {model} …"), model=name))
            self.run_worker(self._stop(name), exit_on_error=False)

    async def _stop(self, name: str) -> None:
        try:
            await self._server.stop_model(name)
        except ModelNotFound:
            pass
        except ZhibeiError as error:
            self._say(printable(self._text(error.message, **error.values)))
        await self.look()

    def _say(self, problem: str) -> None:
        label = self.query_one("#problem", Label)
        label.update(problem)
        label.display = bool(problem)

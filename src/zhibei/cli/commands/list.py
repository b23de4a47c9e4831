"""``zhibei list``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from zhibei.cli import documents, foreign
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import Words
from zhibei.cli.leftovers import name_of
from zhibei.cli.render import named_table
from zhibei.cli.wording import command, json_option, option
from zhibei.errors import BadRequest
from zhibei.i18n import N_
from zhibei.models import Leftover, StoredModel
from zhibei.units import format_bytes, format_count

if TYPE_CHECKING:
    from zhibei.store.foreign import ForeignModel

_OWN = "zhibei"


@command("list", N_("List the models on this machine."))
@option("--all", "-a", "with_others", help=N_("Also the models that other programs keep on this disk."))
@option(
    "--folder",
    "folders",
    kind=Words("DIR"),
    multiple=True,
    help=N_("As --all, and look into a folder of models too; may be given several times."),
)
@option("--partial", help=N_("Downloads that are under way or were cut off, instead of models."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, with_others: bool, folders: Sequence[str], partial: bool, as_json: bool) -> None:
    """Print a row for every model, or for every download that is not complete."""
    with_others = with_others or bool(folders)
    if partial:
        if with_others:
            raise BadRequest("--partial cannot be used together with --all or --folder.", param="--partial")
        _list_partial(invocation, as_json)
        return
    connection = connect(invocation)
    # The store answers without waiting; other servers do not.
    ask = connection.work if invocation.settings.upstreams else connection.ask
    models = ask(lambda service: service.list_models())
    others = foreign.find(invocation.settings, folders) if with_others else ()
    if as_json:
        elsewhere = {"elsewhere": [foreign.document(model) for model in others]} if with_others else {}
        invocation.printer.json({"models": [documents.model(stored) for stored in models], **elsewhere})
        return
    if not models and not others:
        invocation.note("There are no models yet. Pull one: zhibei pull {model}", model=invocation.settings.model)
        return
    if with_others:
        _print_all(invocation, models, others)
    else:
        _print(invocation, models)
    for name, problem in (*((model.name, model.problem) for model in models), *((model.name, model.problem) for model in others)):
        if problem:
            invocation.warn("{model} cannot be used: {problem}", model=name, problem=problem)
    usable = next((model for model in others if model.problem is None), None)
    if usable is not None:
        # What lies in a folder that only this command was told of, only its path names.
        reference = usable.model_path if usable.program == foreign.FOLDER else usable.name
        invocation.note("Use one of them where it lies: zhibei use {model}", model=reference)


def _print(invocation: Invocation, models: Sequence[StoredModel]) -> None:
    headings = [N_("NAME"), N_("SIZE"), N_("PARAMETERS"), N_("QUANTISATION"), N_("CONTEXT"), N_("ADDED")]
    _print_table(invocation, headings, [_row(stored) for stored in models], right=(1, 2, 4))


def _print_all(invocation: Invocation, models: Sequence[StoredModel], others: Sequence[ForeignModel]) -> None:
    headings = [N_("NAME"), N_("SIZE"), N_("QUANTISATION"), N_("KEPT BY")]
    own = [[row[0], row[1], row[3], _OWN] for row in map(_row, models)]
    _print_table(invocation, headings, [*own, *foreign.rows_of(others)], right=(1,))


def _list_partial(invocation: Invocation, as_json: bool) -> None:
    found = connect(invocation).ask(lambda service: service.leftovers(partial_only=True))
    if as_json:
        invocation.printer.json({"partial": [documents.leftover(leftover) for leftover in found]})
        return
    if not found:
        invocation.note("No download is under way, and none was cut off.")
        return
    headings = [N_("NAME"), N_("FETCHED"), N_("TOTAL"), N_("STATE")]
    _print_table(invocation, headings, [_partial_row(invocation, leftover) for leftover in found], right=(1, 2))
    if not all(leftover.is_active for leftover in found):
        invocation.note("Run the same zhibei pull to go on; zhibei prune removes what has come so far.")


def _print_table(invocation: Invocation, headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> None:
    for line in named_table([invocation.text(text) for text in headings], rows, invocation.printer.width, right=right):
        invocation.printer.data(line)


def _row(stored: StoredModel) -> list[str]:
    info = stored.info
    parameters = format_count(info.num_parameters) if info and info.num_parameters else "-"
    quantisation = (info.quantisation if info else None) or "-"
    context = str(info.context_length) if info and info.context_length else "-"
    added = stored.added_at.astimezone().strftime("%Y-%m-%d %H:%M")
    size = format_bytes(stored.size_bytes) if not stored.is_upstream else "-"
    return [stored.name, size, parameters, quantisation, context, added]


def _partial_row(invocation: Invocation, leftover: Leftover) -> list[str]:
    total = leftover.total_bytes
    return [
        name_of(leftover),
        format_bytes(leftover.size_bytes),
        format_bytes(total) if total is not None else "-",
        invocation.text("under way") if leftover.is_active else invocation.text("cut off"),
    ]

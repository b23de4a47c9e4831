"""``zhibei use``."""

from __future__ import annotations

import click

from zhibei.cli import documents
from zhibei.cli.connect import local_store, run_sync
from zhibei.cli.foreign import complete_foreign
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import Words
from zhibei.cli.references import as_reference
from zhibei.cli.wording import command, json_option, option
from zhibei.errors import BadReference
from zhibei.i18n import N_
from zhibei.refs import ModelRef


@command(
    "use",
    N_(
        "Use a model that another program keeps, where it lies.\n"
        "REFERENCE is a name that zhibei list --all shows, or a path. Nothing is copied, and nothing of theirs is changed."
    ),
)
@click.argument("reference", shell_complete=complete_foreign)
@option("--name", kind=Words("NAME"), help=N_("Name for the model, instead of the one it brings."))
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, reference: str, name: str | None, as_json: bool) -> None:
    """Record the model in this machine's store, and say how to run it."""
    wanted = _absolute(reference)
    # A server may be another machine's, where these files are not.
    stored = run_sync(local_store(invocation.settings).use_model(wanted, name))
    if as_json:
        invocation.printer.json(documents.model_details(stored))
        return
    invocation.printer.data(stored.name)
    invocation.note("It is used where it lies: {path}", path=stored.model_path)
    invocation.note('Run it: zhibei run {model} "…"', model=stored.name)


def _absolute(reference: str) -> str:
    """A path made absolute; anything else as it is, for it may be a name that only another program would give."""
    try:
        is_path = ModelRef.parse(reference).source == "file"
    except BadReference:
        return reference
    return as_reference(reference) if is_path else reference

"""``zhibei show``."""

from __future__ import annotations

import click

from zhibei.cli import documents
from zhibei.cli.completing import complete_model
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.references import as_reference
from zhibei.cli.render import pairs
from zhibei.cli.wording import command, json_option
from zhibei.i18n import N_
from zhibei.models import ModelInfo, StoredModel
from zhibei.refs import ModelRef
from zhibei.units import format_bytes, format_count


@command("show", N_("Show what is known of a model."))
@click.argument("name", shell_complete=complete_model)
@json_option
@click.pass_obj
def COMMAND(invocation: Invocation, /, name: str, as_json: bool) -> None:
    """Print all that is known of one model."""
    connection, reference = connect(invocation), as_reference(name)
    # The store knows nothing of other servers.
    ask = connection.work if ModelRef.parse(reference).source == "upstream" else connection.ask
    stored = ask(lambda service: service.show_model(reference))
    if as_json:
        invocation.printer.json(documents.model_details(stored))
        return
    translator = invocation.translator
    warnings = stored.info.warnings if stored.info else ()
    rows = [
        *_store_rows(stored, translator.phrase(stored.problem or "")),
        *(_info_rows(stored.info) if stored.info else []),
        *((N_("Warning"), translator.phrase(warning)) for warning in warnings),
    ]
    for line in pairs([(invocation.text(label), value) for label, value in rows if value]):
        invocation.printer.data(line)


def _store_rows(stored: StoredModel, problem: str) -> list[tuple[str, str]]:
    files = [(N_("File"), f"{file.path}  ({file.role}, {format_bytes(file.size_bytes)})") for file in stored.files]
    return [
        (N_("Name"), stored.name),
        (N_("Problem"), problem),
        (N_("Size"), format_bytes(stored.size_bytes) if not stored.is_upstream else ""),
        (N_("Source"), stored.source),
        (N_("Licence"), stored.licence or ""),
        (N_("Added"), stored.added_at.astimezone().strftime("%Y-%m-%d %H:%M")),
        *files,
    ]


def _info_rows(info: ModelInfo) -> list[tuple[str, str]]:
    experts = f"{info.num_experts} ({info.num_experts_used})" if info.num_experts else ""
    types = ", ".join(f"{kind} × {count}" for kind, count, _ in info.tensor_types)
    return [
        (N_("Title"), info.name or ""),
        (N_("Format"), info.format),
        (N_("Architecture"), info.architecture),
        (N_("Parameters"), format_count(info.num_parameters) if info.num_parameters else ""),
        (N_("Quantisation"), info.quantisation or ""),
        (N_("Context"), _number(info.context_length)),
        (N_("Embedding length"), _number(info.embedding_length)),
        (N_("Layers"), _number(info.num_layers)),
        (N_("Heads"), _number(info.num_heads)),
        (N_("Experts (used)"), experts),
        (N_("Vocabulary"), _number(info.vocabulary_size)),
        (N_("Tokenizer"), info.tokenizer or ""),
        (N_("Tensors"), types),
    ]


def _number(value: int | None) -> str:
    return "" if value is None else str(value)

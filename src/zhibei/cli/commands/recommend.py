"""``zhibei recommend``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zhibei.cli import plan_documents, plan_text
from zhibei.cli.connect import ask_server, elsewhere
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import OneOf, Real, Whole
from zhibei.cli.planning import CTX_OPTION, HARDWARE_OPTION, LANGUAGE_OPTION, LICENCE_OPTION, PURPOSES, bench
from zhibei.cli.render import named_table
from zhibei.cli.sections import bullets
from zhibei.cli.wording import command, json_option, option
from zhibei.i18n import N_
from zhibei.units import format_bytes

if TYPE_CHECKING:
    from zhibei.options import LoadOptions
    from zhibei.planner.recommend import Offer, Recommendation, Wish
    from zhibei.plans import Plan

_WIDE = 72


@command(
    "recommend",
    N_(
        "Recommend models for this machine.\n"
        "From the catalogue, without asking any hub: the best first, each in the quantisation that suits this machine. "
        "A bigger model at fewer bits comes before a smaller one at more, down to four bits, or less where it is very big."
    ),
)
@option("--task", "purpose", kind=OneOf(PURPOSES), default="chat", help=N_("What it is for."))
@LANGUAGE_OPTION
@LICENCE_OPTION
@option("--speed", kind=Real(0, 100_000), help=N_("Only models that write at least so many tokens per second."))
@CTX_OPTION
@HARDWARE_OPTION
@option("--limit", kind=Whole(1, 100), default=8, help=N_("Show at most this many models."))
@json_option
@click.pass_obj
def COMMAND(  # noqa: PLR0913 - its options
    invocation: Invocation,
    /,
    purpose: str,
    language: str | None,
    licence: str,
    speed: float | None,
    ctx_size: int | None,
    described: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Rank the catalogue's models and print them."""
    from zhibei.planner.recommend import Wish

    wish = Wish(purpose, language.lower() if language else None, licence == "commercial", speed, ctx_size)
    server = elsewhere(invocation) if described is None else None
    if server is not None:
        found = tuple(ask_server(server, lambda there: there.recommend(wish, limit=limit)))
    else:
        found = _found_here(invocation, wish, described, limit)
    if as_json:
        invocation.printer.json({"models": [_document(item) for item in found]})
    elif not found:
        invocation.note("No model of the catalogue does all that on this machine. Ask for less speed or context.")
    else:
        _print(invocation, found)


def _found_here(invocation: Invocation, wish: Wish, described: str | None, limit: int) -> tuple[Recommendation, ...]:
    from zhibei.judging.catalogue import offers
    from zhibei.planner.recommend import recommend

    asked = bench(invocation, described, may_measure=True)

    def make(offer: Offer, wishes: LoadOptions) -> Plan:
        return asked.plan(offer.model, offer.task, wishes, wish.purpose, with_changes=False)

    invocation.printer.transient(invocation.text("Planning …"))
    try:
        return recommend(offers(), wish, make, limit)
    finally:
        invocation.printer.clear_transient()


def _print(invocation: Invocation, found: tuple[Recommendation, ...]) -> None:
    text, printer = invocation.text, invocation.printer
    is_wide = printer.width >= _WIDE
    headings = [
        text("NAME"),
        text("QUANT"),
        text("SIZE"),
        text("TOKENS/S"),
        *([text("CONTEXT")] if is_wide else []),
        text("VERDICT"),
    ]
    rows = [_row(invocation, item, is_wide=is_wide) for item in found]
    for line in named_table(headings, rows, printer.width, right=(2, 3, 4) if is_wide else (2, 3)):
        printer.data(line)
    first = found[0]
    printer.data("")
    printer.data(printer.styled(text("Why {model}", model=first.offer.title), "bold"))
    told = [plan_text.said(invocation, message, values) for message, values in (*first.reasons, *first.plan.reasons)]
    for line in bullets(told, printer.width):
        printer.data(line)
    invocation.note("All about one: zhibei fit {ref}", ref=first.offer.name)
    invocation.note("Fetch it: zhibei pull {ref}", ref=first.offer.ref)


def _row(invocation: Invocation, item: Recommendation, *, is_wide: bool) -> list[str]:
    speed = item.plan.speed
    rate = speed.generation_tokens_per_s if speed is not None else None
    return [
        item.offer.name,
        item.offer.quantisation,
        format_bytes(item.offer.model.size_bytes),
        plan_text.per_second(rate) if rate is not None else "-",
        *([plan_text.tokens(item.plan.ctx_size or 0)] if is_wide else []),
        invocation.text(plan_text.VERDICT_WORDS[item.plan.verdict]),
    ]


def _document(item: Recommendation) -> dict[str, Any]:
    offer = item.offer
    return {
        "name": offer.name,
        "ref": offer.ref,
        "title": offer.title,
        "quantisation": offer.quantisation,
        "size_bytes": offer.model.size_bytes,
        "num_parameters": offer.num_parameters,
        "num_active_parameters": offer.num_active_parameters,
        "licence": offer.licence,
        "commercial": offer.is_commercial,
        "languages": list(offer.languages),
        "strengths": list(offer.strengths),
        "has_known_shape": offer.has_known_shape,
        "engine": item.plan.spec.engine if item.plan.spec is not None else None,
        "reasons": [message.format_map(values) if values else message for message, values in item.reasons],
        "plan": plan_documents.plan_document(item.plan),
    }

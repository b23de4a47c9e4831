"""``zhibei advise``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from zhibei.cli import looking, plan_text
from zhibei.cli.completing import complete_model
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import OneOf, Real, Whole, Words
from zhibei.cli.planning import CTX_OPTION, HARDWARE_OPTION, PURPOSES, bench
from zhibei.cli.references import as_reference
from zhibei.cli.render import named_table, wrap
from zhibei.cli.wording import command, json_option, option
from zhibei.i18n import N_
from zhibei.options import LoadOptions
from zhibei.units import format_bytes

if TYPE_CHECKING:
    from zhibei.planner.advise import Advice, Currency, Machine
    from zhibei.plans import Hardware, Plan
    from zhibei.store.appraisal import Appraised

_SIGNS = {"USD": "$", "CNY": "¥"}
_MAKERS = re.compile(r"^(?:NVIDIA GeForce|NVIDIA|AMD|Intel) ")
_WIDE = 72


@command(
    "advise",
    N_(
        "Advise which hardware would run a model.\n"
        "This machine with more memory, with one or several graphics cards, and machines of which both are one chip; the "
        "cheapest first. Prices are those that were asked when a card was new: look up today's before you buy."
    ),
)
@option(
    "--model",
    kind=Words("REFERENCE"),
    required=True,
    help=N_("The model, as zhibei fit takes it."),
    shell_complete=complete_model,
)
@option("--budget", kind=Whole(1, 100_000_000), help=N_("The most that the new parts may cost."))
@option("--currency", kind=OneOf(("cny", "usd")), help=N_("Of the budget and the prices."))
@option("--speed", kind=Real(0, 100_000), help=N_("The least tokens per second; without it, enough to read along."))
@CTX_OPTION
@option("--task", "purpose", kind=OneOf(PURPOSES), default="chat", help=N_("What it is for."))
@HARDWARE_OPTION
@option("--limit", kind=Whole(1, 100), default=10, help=N_("Show at most this many machines."))
@json_option
@click.pass_obj
def COMMAND(  # noqa: PLR0913 - its options
    invocation: Invocation,
    /,
    model: str,
    budget: int | None,
    currency: str | None,
    speed: float | None,
    ctx_size: int | None,
    purpose: str,
    described: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Plan the model on many machines and print those that run it."""
    from zhibei.planner.advise import advise, machines_from
    from zhibei.planner.fit import task_of
    from zhibei.planner.recommend import Wish

    wanted: Currency = "CNY" if (currency or ("cny" if invocation.translator.lang == "zh" else "usd")) == "cny" else "USD"
    form = looking.usual_form(looking.appraise_quickly(invocation, as_reference(model)))
    here = bench(invocation, described)
    task, what_for = task_of(form.model.info, purpose)
    wishes = LoadOptions(ctx_size=ctx_size, parallel=1)

    def make(hardware: Hardware) -> Plan:
        return here.elsewhere(hardware).plan(form.model, task, wishes, what_for, with_changes=False)

    invocation.printer.transient(invocation.text("Planning …"))
    least = Wish(what_for, min_tokens_per_s=speed).least_tokens_per_s
    active_bytes = form.model.info.active_bytes if form.model.info is not None else None
    machines = machines_from(here.hardware, wanted)
    priced, unpriced = advise(machines, make, least_rate=least, budget=budget, active_bytes=active_bytes, limit=limit)
    invocation.printer.clear_transient()
    if as_json:
        rows = [_document(item) for item in (*priced, *unpriced)]
        invocation.printer.json({"ref": form.ref, "currency": wanted, "min_tokens_per_s": least, "machines": rows})
        return
    _print(invocation, form, priced, unpriced, least)


def _print(invocation: Invocation, form: Appraised, priced: Sequence[Advice], unpriced: Sequence[Advice], least: float) -> None:
    printer, text = invocation.printer, invocation.text
    size = format_bytes(form.model.size_bytes)
    printer.data(
        printer.styled(
            text("{model} ({size}), {rate} tokens per second at least", model=form.ref, size=size, rate=f"{least:g}"), "bold"
        )
    )
    if not priced and not unpriced:
        invocation.note("No machine of the table runs it so, or none within the budget. Ask for less speed, context or bits.")
        return
    if priced:
        headings = [text("MACHINE"), text("PRICE"), text("OF"), text("TOKENS/S"), text("VERDICT")]
        _print_table(invocation, headings, [_row(invocation, item, has_price=True) for item in priced], right=(1, 3))
    if unpriced:
        if priced:
            printer.data("")
            printer.data(printer.styled(text("Without a known price"), "bold"))
        headings = [text("MACHINE"), text("TOKENS/S"), text("VERDICT")]
        _print_table(invocation, headings, [_row(invocation, item, has_price=False) for item in unpriced], right=(1,))
    for line in _talk(invocation, priced):
        printer.note(line)


def _talk(invocation: Invocation, priced: Sequence[Advice]) -> list[str]:
    """What must be known of the prices."""
    costs = [item.machine.cost for item in priced if item.machine.cost is not None]
    if not costs:
        return []
    oldest, newest = min(cost.asked_on for cost in costs), max(cost.asked_on for cost in costs)
    told = invocation.text(
        "Prices are of the cards alone, as asked when they were new ({oldest} to {newest}); today's differ.",
        oldest=f"{oldest:%Y-%m}",
        newest=f"{newest:%Y-%m}",
    )
    if any(cost.is_converted for cost in costs):
        told += " " + invocation.text("~ is converted from the other currency.")
    return wrap(told, invocation.printer.width)


def _row(invocation: Invocation, item: Advice, *, has_price: bool) -> list[str]:
    cost = item.machine.cost
    facts = [plan_text.per_second(item.rate) if item.rate else "-", invocation.text(plan_text.VERDICT_WORDS[item.plan.verdict])]
    if not has_price or cost is None:
        return [_name(invocation, item.machine), *facts]
    amount = f"{'~' if cost.is_converted else ''}{_SIGNS[cost.currency]}{cost.amount}"
    return [_name(invocation, item.machine), amount, f"{cost.asked_on:%Y-%m}", *facts]


def _name(invocation: Invocation, machine: Machine) -> str:
    text = invocation.text
    size = format_bytes(machine.memory_bytes) if machine.memory_bytes else ""
    if machine.kind == "this":
        return text("this machine as it is")
    if machine.kind == "memory":
        return text("this machine with {size} of memory", size=size)
    if machine.kind == "whole":
        return text("{title}, {size}", title=machine.title, size=size)
    title = machine.title if invocation.printer.width >= _WIDE else _MAKERS.sub("", machine.title)
    return f"{machine.count} × {title}" if machine.count > 1 else title


def _print_table(invocation: Invocation, headings: list[str], rows: list[list[str]], *, right: Sequence[int]) -> None:
    for line in named_table(headings, rows, invocation.printer.width, right=right):
        invocation.printer.data(line)


def _document(item: Advice) -> dict[str, Any]:
    machine, cost = item.machine, item.machine.cost
    return {
        "kind": machine.kind,
        "device": machine.title or None,
        "count": machine.count,
        "memory_bytes": machine.memory_bytes,
        "price": None
        if cost is None
        else {
            "amount": cost.amount,
            "currency": cost.currency,
            "asked_on": cost.asked_on.isoformat(),
            "is_converted": cost.is_converted,
        },
        "tokens_per_s": item.rate or None,
        "verdict": item.plan.verdict,
        "needed_bytes": item.plan.needed_bytes,
        "gpu_layers": item.plan.spec.gpu_layers if item.plan.spec is not None else None,
    }

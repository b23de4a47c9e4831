"""A plan in words: verdict, memory by device, speed, why, and what would change it; a table of many plans. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zhibei.cli.invocation import Invocation
from zhibei.cli.render import printable, table, wrap
from zhibei.cli.sections import Section, bullets, lines
from zhibei.i18n import N_
from zhibei.plans import Change, DeviceUse, Plan, Speed, Verdict
from zhibei.units import format_bytes

if TYPE_CHECKING:
    from zhibei.judging.fit import KernelsGain
    from zhibei.planner.fit import Row, Table
    from zhibei.runtime.runs import Run
    from zhibei.store.appraisal import Appraisal

VERDICT_WORDS: Mapping[Verdict, str] = {
    "runs_well": N_("runs well"),
    "runs": N_("runs"),
    "runs_slowly": N_("runs slowly"),
    "does_not_fit": N_("does not fit"),
    "unsupported": N_("not supported"),
}
_STYLES: Mapping[Verdict, str] = {
    "runs_well": "green",
    "runs": "green",
    "runs_slowly": "yellow",
    "does_not_fit": "red",
    "unsupported": "red",
}
MARKS: Mapping[Verdict, str] = {"runs_well": "✓✓", "runs": "✓", "runs_slowly": "~", "does_not_fit": "✗", "unsupported": "-"}
_LINE_WORDS = {
    "weights": N_("weights"),
    "repacked": N_("weights rewritten for this processor"),
    "kv cache": N_("keys and values of the context"),
    "recurrent state": N_("recurrent state"),
    "compute": N_("scratch space"),
    "overhead": N_("driver"),
    "output": N_("output"),
    "projector": N_("projector"),
    "adapter": N_("adapter"),
    "draft": N_("draft model"),
    "checkpoints": N_("points of return"),
    "prompt cache": N_("prompts that may come again, at most"),
    "process": N_("program"),
    "work": N_("working memory of zhibei-kernels"),
}
_BASIS_WORDS = {
    "headers": "",
    "some headers": N_("Not all headers were read: the weights follow from the sizes of the files."),
    "shape": N_("Only its configuration was read: the weights follow from the sizes of the files."),
    "another variant": N_("Judged by the header of another quantisation and the size of its file."),
    "catalogue": N_("Judged by the catalogue's sizes and the model's published shape; its source was not read."),
    "usual shape": N_(
        "Judged by the catalogue's sizes and the usual shape of models of this size: "
        "what the context takes may be half or twice as much."
    ),
}
_LIMITS = {"memory": N_("memory"), "compute": N_("computing"), "link": N_("the link between devices")}
_WIDE = 72


@dataclass(frozen=True, slots=True)
class Said:
    """A template and its values, as plans have them, for the translator."""

    message: str
    values: tuple[tuple[str, object], ...]


def said(invocation: Invocation, message: str, values: Mapping[str, Any]) -> str:
    """A reason or a change in the person's language."""
    return invocation.translator.notice(Said(message, tuple(values.items())))


def verdict_line(invocation: Invocation, plan: Plan) -> str:
    """``Runs well: about 12 tokens per second.``"""
    words = invocation.text(VERDICT_WORDS[plan.verdict])
    words = words[:1].upper() + words[1:]
    speed = plan.speed
    if plan.is_runnable and speed is not None and speed.generation_tokens_per_s is not None:
        rate = per_second(speed.generation_tokens_per_s)
        words = invocation.text("{verdict}: about {rate} tokens per second", verdict=words, rate=rate)
    return invocation.printer.styled(words, _STYLES[plan.verdict])


def plan_lines(
    invocation: Invocation,
    plan: Plan,
    *,
    basis: str = "headers",
    loss: float | None = None,
    runs: Sequence[str] = (),
    gain: str = "",
) -> list[str]:
    """The whole answer, but for its headline. ``runs``: what was measured here. ``gain``: what kernels of ours do for it."""
    width, text = invocation.printer.width, invocation.text

    def style(title: str) -> str:
        return invocation.printer.styled(title, "bold")

    sections = [
        Section(text("How it runs"), [*_run_rows(invocation, plan, loss, runs), (text("Kernels"), gain)]),
        Section(text("Memory"), _memory_rows(invocation, plan)),
    ]
    found = lines(sections, width, style)
    why = [said(invocation, message, values) for message, values in plan.reasons]
    if _BASIS_WORDS[basis]:
        why.append(text(_BASIS_WORDS[basis]))
    for title, texts in (
        (text("Why"), why),
        (text("What would change it"), [change_text(invocation, change) for change in plan.changes]),
    ):
        if texts:
            found += ["", style(title), *bullets(texts, width)]
    return found


def run_lines(invocation: Invocation, run: Run | None) -> list[str]:
    """What was measured of a model's last run here, beside what was predicted of it."""
    if run is None:
        return []
    day = f"{run.measured_at.astimezone():%Y-%m-%d}"
    found = []
    if run.generation_s is not None:
        rate = per_second(run.num_generated_tokens / run.generation_s)
        if run.predicted_generation_s is not None:
            predicted = per_second(run.num_generated_tokens / run.predicted_generation_s)
            values = {"rate": rate, "predicted": predicted, "day": day}
            found.append(invocation.text("{rate} tokens/s on {day} (predicted before: {predicted})", **values))
        else:
            found.append(invocation.text("{rate} tokens/s on {day}", rate=rate, day=day))
    if run.measured_bytes is not None and run.planned_bytes is not None:
        values = {"measured": format_bytes(run.measured_bytes), "planned": format_bytes(run.planned_bytes)}
        found.append(invocation.text("{measured} of memory (planned: {planned})", **values))
    return found


def gain_text(invocation: Invocation, gain: KernelsGain | None) -> str:
    """What kernels of ours do for a plan's speed, in a line; nothing where they cannot be had."""
    if gain is None:
        return ""
    fast, plain = gain.speed, gain.plain_speed
    pairs = (fast.generation_tokens_per_s, plain.generation_tokens_per_s, fast.prompt_tokens_per_s, plain.prompt_tokens_per_s)
    answers, plain_answers, prompts, plain_prompts = (per_second(rate) if rate is not None else "?" for rate in pairs)
    values = {"answers": answers, "plain_answers": plain_answers, "prompts": prompts, "plain_prompts": plain_prompts}
    message = N_(
        "with zhibei-kernels answers about {answers} tokens/s, prompts {prompts}; without {plain_answers} and {plain_prompts}"
    )
    told = invocation.text(message, **values)
    return f"{told}. {invocation.text(gain.hint)}" if gain.hint is not None else told


def change_text(invocation: Invocation, change: Change) -> str:
    """``With a context of 4096 tokens: runs well.``"""
    told = said(invocation, change.message, change.values)
    if change.verdict is None or change.kind == "engine":
        return told
    facts = [invocation.text(VERDICT_WORDS[change.verdict])]
    if change.num_bytes is not None:
        facts.append(format_bytes(change.num_bytes))
    return told.rstrip(".。") + " → " + ", ".join(facts)


def per_second(rate: float) -> str:
    """``9.5``, ``35``."""
    return f"{rate:.1f}" if rate < 10 else f"{rate:.0f}"


def tokens(count: int) -> str:
    """``32768`` → ``32k``; what is no multiple is written out."""
    return f"{count >> 10}k" if count >= 1024 and count % 1024 == 0 else str(count)


def percent(loss: float) -> str:
    """``0.015`` → ``1.5%``."""
    return f"{loss:.1%}" if loss < 0.1 else f"{loss:.0%}"


def _run_rows(invocation: Invocation, plan: Plan, loss: float | None, runs: Sequence[str]) -> list[tuple[str, str]]:
    text = invocation.text
    context = text("{tokens} tokens", tokens=plan.ctx_size) if plan.ctx_size else ""
    if plan.num_slots and plan.num_slots > 1:
        context = text("{tokens} tokens for each of {count} conversations", tokens=plan.ctx_size, count=plan.num_slots)
    return [
        (text("Answers"), _generation(invocation, plan.speed)),
        (text("Prompts"), _prompt(invocation, plan.speed)),
        *((text("Measured"), run) for run in runs),
        (text("Context"), context),
        (text("Layers"), _layers(invocation, plan)),
        (text("Quality"), _quality(invocation, loss)),
    ]


def _generation(invocation: Invocation, speed: Speed | None) -> str:
    if speed is None or speed.generation_tokens_per_s is None:
        return ""
    told = _range(invocation, speed.generation_tokens_per_s, speed.generation_low, speed.generation_high)
    if speed.limited_by in _LIMITS:
        told += invocation.text("; limited by {what}", what=invocation.text(_LIMITS[speed.limited_by]))
    return told + invocation.text("; learnt from runs here") if speed.is_calibrated else told


def _prompt(invocation: Invocation, speed: Speed | None) -> str:
    if speed is None or speed.prompt_tokens_per_s is None:
        return ""
    return _range(invocation, speed.prompt_tokens_per_s, speed.prompt_low, speed.prompt_high)


def _range(invocation: Invocation, rate: float, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return invocation.text("about {rate} tokens/s", rate=per_second(rate))
    values = {"rate": per_second(rate), "low": per_second(low), "high": per_second(high)}
    return invocation.text("about {rate} tokens/s ({low} to {high})", **values)


def _layers(invocation: Invocation, plan: Plan) -> str:
    """Where the layers lie; nothing where there is only the processor."""
    if not plan.num_layers or len(plan.devices) < 2:
        return ""
    shares = [
        invocation.text("{count} on {device}", count=use.num_layers, device=_device(invocation, use, is_short=True))
        for use in plan.devices
        if use.num_layers
    ]
    return invocation.text("{shares}, of {total}", shares=", ".join(shares), total=plan.num_layers)


def _quality(invocation: Invocation, loss: float | None) -> str:
    if loss is None:
        return ""
    if loss < 0.001:
        return invocation.text("as good as 16 bits")
    return invocation.text("perplexity about {loss} over that of 16 bits", loss=percent(loss))


def _memory_rows(invocation: Invocation, plan: Plan) -> list[tuple[str, str]]:
    text = invocation.text
    rows = []
    for use in plan.devices:
        if not use.num_bytes:
            continue
        total = format_bytes(use.num_bytes)
        if use.available_bytes is not None:
            total = text("{needed} of {available} free", needed=total, available=format_bytes(use.available_bytes))
        rows.append((_device(invocation, use), total))
        parts = [line for line in plan.memory if line.device == use.device]
        told = [f"{_line_word(invocation, line.what)} {format_bytes(line.num_bytes)}" for line in parts]
        rows.append((" ", ", ".join(told)))
    if plan.guide is not None:
        told_guide = text("{size} (the file and 2 GB)", size=format_bytes(plan.guide.needed_bytes))
        if plan.guide.gpu_layers is not None and plan.num_layers:
            told_guide += text("; {count} of {total} layers on the card", count=plan.guide.gpu_layers, total=plan.num_layers)
        rows.append((text("Rule of thumb"), told_guide))
    return rows


def _line_word(invocation: Invocation, what: str) -> str:
    draft = what.removeprefix("draft ")
    word = invocation.text(_LINE_WORDS.get(draft, N_("other")))
    return invocation.text("draft model: {what}", what=word) if draft != what else word


def _device(invocation: Invocation, use: DeviceUse, *, is_short: bool = False) -> str:
    if use.device == "cpu":
        return invocation.text("the processor") if is_short else invocation.text("Main memory")
    return use.device


def table_lines(invocation: Invocation, found: Table) -> list[str]:
    """Every quantisation with every context: a mark and tokens per second."""
    text, width = invocation.text, invocation.printer.width
    has_loss = width >= _WIDE and any(row.loss is not None for row in found.rows)
    headings = [text("QUANT"), text("SIZE"), *([text("LOSS")] if has_loss else []), *map(tokens, found.contexts)]
    rows = [_table_row(row, has_loss=has_loss, is_best=number == found.best) for number, row in enumerate(found.rows)]
    headings[0] = "  " + headings[0]
    return table(headings, rows, right=tuple(range(1, len(headings))))


def _table_row(row: Row, *, has_loss: bool, is_best: bool) -> list[str]:
    loss = [percent(row.loss) if row.loss is not None else "-"] if has_loss else []
    label = printable(row.form.label or "-")
    return [("* " if is_best else "  ") + label, format_bytes(row.form.model.size_bytes), *loss, *map(cell, row.plans)]


def cell(plan: Plan) -> str:
    """``✓✓ 35``: the verdict and tokens per second."""
    rate = plan.speed.generation_tokens_per_s if plan.speed is not None else None
    mark = MARKS[plan.verdict]
    return f"{mark} {per_second(rate)}" if rate is not None and plan.is_runnable else mark


def legend_lines(invocation: Invocation) -> list[str]:
    """What the marks mean."""
    told = [f"{MARKS[verdict]}\N{NO-BREAK SPACE}{invocation.text(words)}" for verdict, words in VERDICT_WORDS.items()]
    told.append(invocation.text("numbers: tokens per second"))
    return wrap("; ".join(told), invocation.printer.width)


def basis_lines(invocation: Invocation, found: Appraisal) -> list[str]:
    """What the plans rest on; nothing where every header was read."""
    bases = {form.basis for form in found.models}
    if bases <= {"headers"}:
        return []
    read = next((form.label for form in found.models if form.basis in ("headers", "some headers")), None)
    if read is None:
        told = invocation.text(_BASIS_WORDS[found.models[0].basis])
    else:
        told = invocation.text(
            "Only the header of {label} was read; the others are judged by the sizes of their files.", label=read
        )
    return wrap(told, invocation.printer.width)


def change_lines(invocation: Invocation, told: Sequence[str]) -> list[str]:
    """What would change it, as a list of its own; nothing where nothing would."""
    if not told:
        return []
    title = invocation.printer.styled(invocation.text("What would change it"), "bold")
    return ["", title, *bullets(told, invocation.printer.width)]

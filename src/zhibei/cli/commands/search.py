"""``zhibei search``."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import click

from zhibei.app import pull_options
from zhibei.cli.connect import connect
from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import OneOf, Whole
from zhibei.cli.planning import LANGUAGE_OPTION, LICENCE_OPTION, bench
from zhibei.cli.render import cut, named_table, printable
from zhibei.cli.wording import command, json_option, option
from zhibei.i18n import N_
from zhibei.judging.catalogue import of_size
from zhibei.options import LoadOptions
from zhibei.settings import Settings
from zhibei.store import owners
from zhibei.store.catalog import Catalog
from zhibei.store.search import Filters, Found, Judge, SearchHit, search
from zhibei.store.sources.base import SourceContext
from zhibei.units import format_bytes

_HUBS = {"all": ("hf", "ms"), "catalogue": (), "hf": ("hf",), "ms": ("ms",)}
_LICENCE_COLUMNS = 12
_MARK, _UNMARKED = "* ", "  "


@command(
    "search",
    N_(
        "Find models: in the catalogue and at the hubs.\n"
        "WORDS are names or parts of them, and what the model is to do, know or be: code, translation, embedding, "
        "chinese, small; in English or Chinese. Without words the catalogue is listed."
    ),
)
@click.argument("words", metavar="WORDS...", nargs=-1)
@option("--task", kind=OneOf(("generate", "embed", "rerank")), help=N_("Only models for this task."))
@LANGUAGE_OPTION
@LICENCE_OPTION
@option("--limit", kind=Whole(1, 100), default=20, help=N_("Show at most this many models."))
@option("--hub", kind=OneOf(tuple(_HUBS)), default="all", help=N_("Where to look: everywhere, or in one place only."))
@json_option
@click.pass_obj
def COMMAND(
    invocation: Invocation,
    /,
    words: Sequence[str],
    task: Any,
    language: str | None,
    licence: str,
    limit: int,
    hub: str,
    as_json: bool,
) -> None:
    """Search, and print a row for every hit."""
    filters = Filters(task, language.lower() if language else None, licence == "commercial")
    found = asyncio.run(_search(invocation.settings, words, filters, limit, hub, _judge(invocation)))
    stored = connect(invocation).ask(lambda service: service.list_models())
    here = frozenset((*(model.name for model in stored), *(_repository(model.source) for model in stored)))
    for notice in found.notices:
        invocation.notice(notice)
    if as_json:
        invocation.printer.json({"models": [_document(hit, here) for hit in found.hits]})
    elif not found.hits:
        invocation.note("No model was found. Try fewer words, or: zhibei search --hub catalogue")
    else:
        _print(invocation, found.hits, here)


async def _search(settings: Settings, words: Sequence[str], filters: Filters, limit: int, hub: str, judge: Judge | None) -> Found:
    """Search as the settings have it."""
    options = pull_options(settings)
    # A search is no pull: a hub that fails is asked again later by the person, not several times by us.
    fetch = replace(options.fetch, retries=replace(options.fetch.retries, attempts=1, connect_attempts=0))
    context = SourceContext(settings.home / "tmp" / owners.new_token(), fetch, hubs=options.hubs)
    return await search(
        words,
        catalog=Catalog(),
        context=context,
        limit=limit,
        filters=filters,
        hubs=_HUBS[hub],
        with_catalogue=hub in ("all", "catalogue"),
        judge=judge,
    )


def _judge(invocation: Invocation) -> Judge | None:
    """Whether a model of that size and of usual shape fits this machine when it is idle; None: its memory is not known."""
    here = bench(invocation, None)
    total_bytes = here.hardware.total_bytes
    if total_bytes is None:
        return None
    idle = replace(here, hardware=replace(here.hardware, available_bytes=total_bytes))

    def judge(size_bytes: int) -> str:
        plan = idle.plan(of_size(size_bytes), "generate", LoadOptions(), "chat", with_changes=False)
        return "yes" if plan.is_runnable else "no"

    return judge


def _print(invocation: Invocation, hits: Sequence[SearchHit], here: Collection[str]) -> None:
    headings = [invocation.text(text) for text in (N_("NAME"), N_("SIZE"), N_("LICENCE"), N_("DOWNLOADS"), N_("FITS"))]
    headings[0] = " " * len(_UNMARKED) + headings[0]
    rows = [_row(invocation, hit, here) for hit in hits]
    for line in named_table(headings, rows, invocation.printer.width, right=(1, 3)):
        invocation.printer.data(line)
    if any(row[0].startswith(_MARK) for row in rows):
        invocation.note("Models with {mark} are on this machine.", mark=_MARK.strip())
    wanted = next((hit for hit in hits if not _is_here(hit, here)), None)
    if wanted is None:
        invocation.note("Ask one: zhibei run {model}", model=hits[0].ref)
    else:
        invocation.note("Fetch one: zhibei pull {model}", model=wanted.ref)


def _row(invocation: Invocation, hit: SearchHit, here: Collection[str]) -> list[str]:
    mark = _MARK if _is_here(hit, here) else _UNMARKED
    fits = {"yes": invocation.text("yes"), "no": invocation.text("no")}.get(hit.fits or "", hit.fits or "-")
    return [
        mark + printable(hit.ref),
        format_bytes(hit.usual[1]) if hit.usual else "-",
        cut(hit.licence or "-", _LICENCE_COLUMNS),
        _count(hit.num_downloads),
        fits,
    ]


def _count(number: int | None) -> str:
    """``1234567`` → ``1.2M``."""
    if number is None:
        return "-"
    for factor, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= factor:
            return f"{number / factor:.1f}{unit}"
    return str(number)


def _is_here(hit: SearchHit, here: Collection[str]) -> bool:
    return hit.ref in here or (hit.origin != "catalogue" and _repository(hit.ref) in here)


def _repository(source: str) -> str:
    """``hf:owner/name:Q4_K_M`` → ``hf:owner/name``, in lower case; other references as they are."""
    kind, colon, location = source.partition(":")
    if kind not in ("hf", "ms"):
        return source
    return f"{kind}{colon}{location.partition(':')[0].partition('@')[0]}".lower()


def _document(hit: SearchHit, here: Collection[str]) -> dict[str, Any]:
    return {
        "ref": hit.ref,
        "title": hit.title,
        "origin": hit.origin,
        "licence": hit.licence,
        "commercial": hit.commercial,
        "languages": list(hit.languages),
        "tasks": list(hit.tasks),
        "num_parameters": hit.num_parameters,
        "num_downloads": hit.num_downloads,
        "sizes": dict(hit.sizes),
        "sources": list(hit.sources),
        "fits": hit.fits,
        "is_here": _is_here(hit, here),
    }

"""What is asked about models, as one value each, and the answers for this machine. I/O: looks at models wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass

from zhibei.app import App, pull_options
from zhibei.errors import SourceError
from zhibei.judging.bench import Bench, described_bench, this_machine
from zhibei.judging.catalogue import appraised_entry, offers
from zhibei.judging.fit import Judgement, judge
from zhibei.options import LoadOptions
from zhibei.planner.recommend import Offer, Recommendation, Wish, recommend
from zhibei.plans import Plan
from zhibei.settings import Settings
from zhibei.store.appraisal import Appraisal, appraise
from zhibei.store.threads import in_thread


@dataclass(frozen=True, slots=True)
class FitQuestion:
    """Whether and how a model runs. ``hardware``: a described machine; None: this one. ``engine`` None: as the settings say."""

    reference: str
    load: LoadOptions = LoadOptions()
    purpose: str | None = None
    engine: str | None = None
    hardware: str | None = None


async def fit(app: App, question: FitQuestion) -> Judgement:
    """Look at a model, and plan it. Measures nothing.

    Raises:
        BadRequest: the described machine does not parse.
        BadSetting: there is no such engine.
        As ``store.appraisal.appraise``.
    """
    bench = await in_thread(_bench, app.settings, question.hardware, question.engine)
    appraisal = await _appraised(app, question.reference)
    return await in_thread(judge, appraisal, bench, question.load, question.purpose)


async def recommended(app: App, wish: Wish, hardware: str | None = None, limit: int = 8) -> tuple[Recommendation, ...]:
    """The catalogue's models for a wish, the best first. Asks no hub, measures nothing.

    Raises:
        BadRequest: the described machine does not parse.
    """
    return await in_thread(_recommended, app.settings, wish, hardware, limit)


def _recommended(settings: Settings, wish: Wish, hardware: str | None, limit: int) -> tuple[Recommendation, ...]:
    bench = _bench(settings, hardware, None)

    def make(offer: Offer, load: LoadOptions) -> Plan:
        return bench.plan(offer.model, offer.task, load, wish.purpose, with_changes=False)

    return recommend(offers(), wish, make, limit)


def _bench(settings: Settings, hardware: str | None, engine: str | None) -> Bench:
    wanted = engine or settings.engine
    return described_bench(hardware, wanted) if hardware is not None else this_machine(settings.home / "state", wanted)


async def _appraised(app: App, reference: str) -> Appraisal:
    try:
        return await appraise(reference, app.library, pull_options(app.settings))
    except SourceError:
        found = appraised_entry(reference)
        if found is None:
            raise
        return found

"""Which models suit a machine and a purpose: filtered, planned, ranked, with reasons. Pure.

The guides' order: a bigger model at a lower quantisation before a smaller one at a higher, four bits the line of life (where
that lies for which size: ``quality``), the speed that was asked for is kept, and memory is left to the system.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from zhibei.i18n import N_
from zhibei.models import StoredModel
from zhibei.options import LoadOptions
from zhibei.planner import quality
from zhibei.planner.fit import UNNOTICED_LOSS
from zhibei.planner.quality import Candidate
from zhibei.plans import Plan, Reason, Task
from zhibei.units import format_bytes, format_count

# What a model counts for, as a factor on its size. All of it is judgement: no figure says how good a model is for a person.
YEAR_FACTOR = 0.62  # each year that it is older than the newest
MADE_FOR_IT = 1.6
MADE_FOR_ELSE = 0.5
BARELY_RUNS = 0.65  # it runs, how fast is not known
TIGHT = 0.85  # it is fast enough, but memory is tight
# A model of half the size has a perplexity about a ninth higher: loss falls with the 0.076th power of size (Kaplan et al. 2020,
# arXiv:2001.08361), from about 2 nats. So a loss by quantisation is worth so much of the size.
HALVING_LOSS = 0.11
_STRENGTHS = {"code": "code", "translate": "translation", "vision": "vision", "reasoning": "reasoning"}
_SPECIAL = re.compile(r"cod|mt\d|math|vl|-v(?:\d|$)|\dv(?:-|$)")
_MOST_OF_A_NAME = 2
_DAYS = 365.25


@dataclass(frozen=True, slots=True)
class Offer:
    """A model in one quantisation, as the catalogue has it. ``ref`` fetches it. ``is_commercial``: known to be free for business.

    ``has_known_shape``: its context's memory follows from its published shape, not from others of its size.
    """

    name: str
    ref: str
    title: str
    quantisation: str
    model: StoredModel
    num_parameters: int
    num_active_parameters: int | None
    context_length: int | None
    tasks: tuple[Task, ...]
    strengths: tuple[str, ...]
    languages: tuple[str, ...]
    licence: str
    is_commercial: bool
    released_on: date | None
    has_known_shape: bool

    @property
    def candidate(self) -> Candidate:
        """For ranking by quality."""
        return Candidate(self.num_parameters, self.quantisation, self.num_active_parameters)

    @property
    def task(self) -> Task:
        """What an engine does with it."""
        return self.tasks[0] if self.tasks else "generate"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person wants. None: whatever the purpose needs (``quality.need``)."""

    purpose: str = "chat"
    language: str | None = None
    is_commercial: bool = False
    min_tokens_per_s: float | None = None
    ctx_size: int | None = None

    @property
    def least_tokens_per_s(self) -> float:
        """The speed under which a model is not recommended."""
        need = quality.need(self.purpose)
        usual = need.min_tokens_per_s if need is not None else None
        return self.min_tokens_per_s if self.min_tokens_per_s is not None else usual or 0.0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A model in the quantisation that suits best, how it runs, and why it is recommended."""

    offer: Offer
    plan: Plan
    score: float
    reasons: tuple[Reason, ...]


MakePlan = Callable[[Offer, LoadOptions], Plan]


def recommend(offers: Sequence[Offer], wish: Wish, make_plan: MakePlan, limit: int) -> tuple[Recommendation, ...]:
    """The best models first, each in its best quantisation, few of one name."""
    wanted = [offer for offer in offers if suits(offer, wish) and quality.is_worthwhile(offer.candidate)]
    newest = max((offer.released_on for offer in wanted if offer.released_on is not None), default=None)
    by_name: dict[str, list[Offer]] = {}
    for offer in wanted:
        by_name.setdefault(offer.name, []).append(offer)
    most = {name: max(worth(offer, wish.purpose, newest) for offer in forms) for name, forms in by_name.items()}
    found: list[Recommendation] = []
    best: list[Recommendation] = []
    for name in sorted(by_name, key=lambda name: (-most[name], name)):
        if len(best) >= limit and most[name] <= best[limit - 1].score:
            break  # No other can be better than those that are found.
        form = _best_form(by_name[name], wish, make_plan, newest)
        if form is not None:
            found.append(form)
            best = list(_few_of_each(sorted(found, key=lambda item: (-item.score, item.offer.name))))
    return tuple(best[:limit])


def suits(offer: Offer, wish: Wish) -> bool:
    """Whether a model does what is wanted at all, on any machine."""
    if wish.is_commercial and not offer.is_commercial:
        return False
    if wish.language is not None and wish.language not in offer.languages:
        return False
    if wish.purpose in ("embed", "rerank"):
        return wish.purpose in offer.tasks
    if "generate" not in offer.tasks or (wish.purpose == "vision" and "vision" not in offer.strengths):
        return False
    return wish.ctx_size is None or offer.context_length is None or offer.context_length >= wish.ctx_size


def worth(offer: Offer, purpose: str, newest: date | None) -> float:
    """What a model counts for: its parameters, less what its quantisation costs, less for each year; more if made for this."""
    value = offer.candidate.effective_parameters
    loss = max(quality.loss(offer.quantisation, value) or 0.0, UNNOTICED_LOSS)
    value *= 0.5 ** (math.log1p(loss) / math.log1p(HALVING_LOSS))
    if newest is not None and offer.released_on is not None:
        value *= YEAR_FACTOR ** ((newest - offer.released_on).days / _DAYS)
    wanted = _STRENGTHS.get(purpose)
    if wanted is not None and wanted in offer.strengths:
        value *= MADE_FOR_IT
    elif _is_special(offer):
        value *= MADE_FOR_ELSE
    return float(value)


def _is_special(offer: Offer) -> bool:
    """Whether it was made for one thing, and is called so."""
    return _SPECIAL.search(offer.name.partition(":")[0]) is not None


def _best_form(forms: Sequence[Offer], wish: Wish, make_plan: MakePlan, newest: date | None) -> Recommendation | None:
    """The quantisation that runs best and, of equals, loses least; None: none runs as it should."""
    best: tuple[float, Offer, Plan] | None = None
    for offer in sorted(forms, key=lambda offer: offer.model.size_bytes):
        plan = make_plan(offer, _wishes(offer, wish))
        if not _is_good(plan, wish):
            # The larger ones take more memory and are slower still.
            break
        score = worth(offer, wish.purpose, newest) * _pace(plan, wish)
        if best is None or score > best[0]:
            best = score, offer, plan
    if best is None:
        return None
    score, offer, plan = best
    return Recommendation(offer, plan, score, tuple(_reasons(offer, plan, wish)))


def _pace(plan: Plan, wish: Wish) -> float:
    """What waiting takes from a model's worth: nothing where it runs well, else the more the slower it is."""
    if plan.verdict == "runs_well":
        return 1.0
    need = quality.need(wish.purpose)
    good = need.good_tokens_per_s if need is not None else None
    rate = plan.speed.generation_tokens_per_s if plan.speed is not None else None
    if good is None or rate is None:
        return BARELY_RUNS
    return min(TIGHT, math.sqrt(rate / good))


def _wishes(offer: Offer, wish: Wish) -> LoadOptions:
    need = quality.need(wish.purpose) or quality.Need(4096)
    ctx_size = wish.ctx_size or min(need.ctx_size, offer.context_length or need.ctx_size)
    return LoadOptions(ctx_size=ctx_size, parallel=1)


def _is_good(plan: Plan, wish: Wish) -> bool:
    if not plan.is_runnable:
        return False
    rate = plan.speed.generation_tokens_per_s if plan.speed is not None else None
    return rate is None or rate >= wish.least_tokens_per_s


def _few_of_each(found: Sequence[Recommendation]) -> Iterator[Recommendation]:
    """Of models of one name and of one size only the best: they are the same thing trained again."""
    seen: dict[str, int] = {}
    sizes: set[tuple[str, int]] = set()
    for item in found:
        name = item.offer.name.partition(":")[0]
        size = (name, round(item.offer.num_parameters / 1e9))
        if seen.get(name, 0) < _MOST_OF_A_NAME and size not in sizes:
            seen[name] = seen.get(name, 0) + 1
            sizes.add(size)
            yield item


def _reasons(offer: Offer, plan: Plan, wish: Wish) -> Iterator[Reason]:
    count = format_count(offer.num_parameters)
    if offer.num_active_parameters is not None:
        values = {"count": count, "active": format_count(offer.num_active_parameters)}
        yield N_("It has {count} parameters, of which a token uses {active}: it knows much and is still fast."), values
    else:
        yield N_("It has {count} parameters."), {"count": count}
    loss = quality.loss(offer.quantisation, offer.candidate.effective_parameters)
    if loss is not None:
        values = {"quantisation": offer.quantisation, "loss": f"{max(loss, 0.0):.1%}"}
        yield N_("As {quantisation} its perplexity rises by about {loss}."), values
    memory = {"needed": format_bytes(plan.needed_bytes), "tokens": plan.ctx_size}
    yield N_("With a context of {tokens} tokens it needs {needed}."), memory
    if _STRENGTHS.get(wish.purpose) in offer.strengths:
        yield N_("It was made for this task."), {}
    if not offer.is_commercial:
        yield N_("Its licence ({licence}) sets limits to business use; read it."), {"licence": offer.licence}
    if not offer.has_known_shape:
        yield N_("Its shape is taken from others of its size: what its context takes may be half or twice as much."), {}

"""Finding models: by words over the catalogue, and at the hubs. The ranking is pure; hubs are asked side by side.

Owns what words mean (``_MEANINGS``) and what a hit is; knows neither the hubs' protocols nor how hits are shown.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module

from zhibei.errors import ZhibeiError
from zhibei.events import Notice
from zhibei.plans import Task
from zhibei.store.catalog import Catalog, CatalogEntry, Commercial
from zhibei.store.hub_choice import HUB_TITLES
from zhibei.store.repositories import HubHit
from zhibei.store.sources.base import SourceContext, Variant, prefer_four_bits

HUB_MODULES = {"hf": "zhibei.store.sources.hf", "ms": "zhibei.store.sources.modelscope"}
HUB_TIMEOUT_S = 15.0
SMALL_PARAMETERS = 4_000_000_000
LARGE_PARAMETERS = 30_000_000_000

HubSearch = Callable[[str, SourceContext, int], Awaitable[Sequence[HubHit]]]
"""A hub's own search: words, context, limit."""
Judge = Callable[[int], str]
"""Says of a model of so many bytes whether it fits this machine."""

# Licences that a hub may name which let a model be used in business without asking anyone.
_FREE_LICENCES = frozenset(
    ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "unlicense")
)
_LANGUAGE_WORDS = {
    "zh": ("chinese", "mandarin", "中文", "汉语", "漢語", "华语"),
    "en": ("english", "英文", "英语", "英語"),
    "ja": ("japanese", "日文", "日语", "日語", "日本語"),
    "ko": ("korean", "韩文", "韩语", "韓語", "한국어"),
    "fr": ("french", "法文", "法语", "法語", "français"),
    "de": ("german", "德文", "德语", "德語", "deutsch"),
    "es": ("spanish", "西班牙语", "西语", "español"),
    "it": ("italian", "意大利语", "italiano"),
    "pt": ("portuguese", "葡萄牙语", "português"),
    "ru": ("russian", "俄文", "俄语", "俄語", "русский"),
    "ar": ("arabic", "阿拉伯语", "العربية"),
    "hi": ("hindi", "印地语"),
    "th": ("thai", "泰语", "泰文"),
    "vi": ("vietnamese", "越南语"),
    "id": ("indonesian", "印尼语"),
}
_TASK_WORDS: Mapping[Task, tuple[str, ...]] = {
    "generate": ("chat", "llm", "instruct", "聊天", "对话", "對話", "写作", "生成"),
    "embed": ("embed", "embedding", "embeddings", "vector", "vectors", "嵌入", "向量", "检索", "檢索"),
    "rerank": ("rerank", "reranker", "reranking", "重排序", "重排"),
}
_STRENGTH_WORDS = {
    "code": ("code", "coder", "coding", "programming", "代码", "代碼", "编程", "編程", "写代码", "程序"),
    "maths": ("math", "maths", "mathematics", "数学", "數學"),
    "reasoning": ("reasoning", "thinking", "think", "推理", "思考"),
    "tools": ("tools", "tool", "agent", "agents", "function-calling", "工具", "智能体"),
    "translation": ("translate", "translation", "translator", "翻译", "翻譯"),
    "vision": ("vision", "vl", "image", "images", "multimodal", "ocr", "视觉", "視覺", "图像", "图片", "多模态", "看图"),
}
_SIZE_WORDS = {
    "small": ("small", "tiny", "little", "小", "小型", "轻量", "輕量"),
    "large": ("large", "big", "huge", "大型", "超大"),
}
# What people call the makers or the models; names here begin with the value.
_FAMILY_WORDS = {
    "qwen": ("千问", "通义", "通义千问", "alibaba", "阿里"),
    "deepseek": ("深度求索",),
    "glm": ("智谱", "zhipu", "chatglm"),
    "yi": ("零一万物", "零一"),
    "internlm": ("书生", "浦语", "书生浦语"),
    "minicpm": ("面壁",),
    "ernie": ("文心", "baidu", "百度"),
    "bge": ("智源", "baai"),
    "llama": ("meta", "羊驼"),
    "gemma": ("google", "谷歌"),
    "phi": ("microsoft", "微软"),
    "granite": ("ibm",),
    "gpt-oss": ("openai",),
}
# They say nothing that tells one model from another.
_EMPTY_WORDS = frozenset(("model", "models", "的", "模型", "大模型", "大语言模型", "语言模型", "本地", "最好", "最好的", "for"))
_MEANINGS: Mapping[str, tuple[str, str]] = {
    word: (kind, value)
    for kind, table in (
        ("language", _LANGUAGE_WORDS),
        ("task", _TASK_WORDS),
        ("strength", _STRENGTH_WORDS),
        ("size", _SIZE_WORDS),
        ("family", _FAMILY_WORDS),
    )
    for value, words in table.items()
    for word in words
}
_LONGEST_WORD = max(map(len, (*_MEANINGS, *_EMPTY_WORDS)))
# Characters that are written without spaces between words.
_UNSPACED = re.compile(r"[぀-ヿ㐀-䶿一-鿿가-힣]+")
_PARTS = re.compile(r"[\s:/_\-()]+")
_PARAMETERS_WORD = re.compile(r"\d+(?:\.\d+)?[bm]")
_LANGUAGE_TAG = re.compile(r"[a-z]{2}")
# How well a word fits: the whole text or tag, its beginning, a part of it, a part's beginning, within; and by what it means.
_IN_NAME, _IN_TITLE, _MEANT, _MEANT_FIRST = (10, 9, 8, 7, 3), (5, 5, 4, 4, 1), 4, 6
# What hubs tag repositories with.
_TASK_TAGS: Mapping[str, Task] = {
    "text-generation": "generate",
    "image-text-to-text": "generate",
    "conversational": "generate",
    "feature-extraction": "embed",
    "sentence-similarity": "embed",
    "text-ranking": "rerank",
    "reranker": "rerank",
}


@dataclass(frozen=True, slots=True)
class Filters:
    """What hits must be, whatever the words say. None: anything. What is not known of a hit does not pass."""

    task: Task | None = None
    language: str | None = None
    is_commercial: bool = False


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A model that was found. ``ref`` is what ``pull`` takes; ``origin`` says where it is from: ``catalogue``, ``hf``, ``ms``.

    ``sources`` are all references that have it. ``sizes`` are bytes by quantisation; ``fits`` is the judge's word on the
    usual one.
    """

    ref: str
    title: str
    origin: str
    licence: str | None = None
    commercial: Commercial | None = None
    languages: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    num_parameters: int | None = None
    num_downloads: int | None = None
    sizes: tuple[tuple[str, int], ...] = ()
    sources: tuple[str, ...] = ()
    fits: str | None = None

    @property
    def usual(self) -> tuple[str, int] | None:
        """The quantisation that is usually taken, and its bytes; None: no size is known."""
        if not self.sizes:
            return None
        chosen = prefer_four_bits(tuple(Variant(label, size) for label, size in self.sizes))
        return chosen.label, chosen.size_bytes or 0


@dataclass(frozen=True, slots=True)
class Found:
    """Hits, best first, and what a person should know of how they were found."""

    hits: tuple[SearchHit, ...]
    notices: tuple[Notice, ...] = ()


async def search(
    words: Sequence[str],
    *,
    catalog: Catalog,
    context: SourceContext | None,
    limit: int,
    filters: Filters = Filters(),
    hubs: Sequence[str] = tuple(HUB_MODULES),
    with_catalogue: bool = True,
    judge: Judge | None = None,
) -> Found:
    """Look in the catalogue and ask the hubs. Offline, or without words, the catalogue alone is searched.

    Args:
        context: how hubs are asked; None: not at all.
        limit: the most hits to return, and to ask each hub for.
    """
    hits = search_catalogue(words, catalog.entries.values(), filters) if with_catalogue else ()
    others: tuple[SearchHit, ...] = ()
    notices: tuple[Notice, ...] = ()
    text = " ".join(words).strip()
    if context is not None and hubs and text:
        if context.fetch is not None and context.fetch.is_offline:
            notices = (Notice("Zhibei is set to be offline: only the catalogue was searched."),)
        else:
            answer = await search_hubs(text, context, limit, hubs=hubs)
            # All of the catalogue, so that what it has under a name of its own is not shown a second time.
            known = map(catalogue_hit, catalog.entries.values()) if with_catalogue else ()
            hits, others = merge(hits, known, answer.hits)
            notices = answer.notices
    kept = shared_out(filter(_test(filters), hits), filter(_test(filters), others), limit)
    return Found(tuple(judged(hit, judge) for hit in kept) if judge else kept, notices)


async def search_hubs(
    words: str,
    context: SourceContext,
    limit: int,
    *,
    hubs: Sequence[str] = tuple(HUB_MODULES),
    timeout_s: float = HUB_TIMEOUT_S,
    searches: Mapping[str, HubSearch] | None = None,
) -> Found:
    """Ask the hubs at the same time. One that does not answer is named in a notice and does not spoil the rest.

    Args:
        searches: how each hub is asked, instead of the sources' own way.
    """
    asked = [searches[hub] if searches is not None else _hub_search(hub) for hub in hubs]
    answers = await asyncio.gather(
        *(_ask(hub, ask, words, context, limit, timeout_s) for hub, ask in zip(hubs, asked, strict=True))
    )
    lists, notices = [], []
    for hub, answer in zip(hubs, answers, strict=True):
        if isinstance(answer, Notice):
            notices.append(answer)
        else:
            lists.append([_from_hub(hub, hit) for hit in answer])
    return Found(tuple(_by_turns(lists)), tuple(notices))


def search_catalogue(
    words: Sequence[str], entries: Iterable[CatalogEntry], filters: Filters = Filters()
) -> tuple[SearchHit, ...]:
    """Hits in the catalogue, best first: every word must fit the model's names, or mean something that it is."""
    wanted, passes = tuple(_split(words)), _test(filters)
    scored = []
    for entry in entries:
        scores = [_score(word, entry) for word in wanted]
        if all(scores) and passes(hit := catalogue_hit(entry)):
            released = entry.released_on.toordinal() if entry.released_on else 0
            scored.append(((-sum(scores), not entry.is_default, -released, entry.num_parameters or 0, str(entry.name)), hit))
    return tuple(hit for _, hit in sorted(scored, key=lambda pair: pair[0]))


def catalogue_hit(entry: CatalogEntry) -> SearchHit:
    """An entry of the catalogue as a hit."""
    return SearchHit(
        ref=str(entry.name),
        title=entry.title,
        origin="catalogue",
        licence=entry.licence,
        commercial=entry.commercial,
        languages=entry.languages,
        tasks=entry.tasks,
        num_parameters=entry.num_parameters,
        sizes=tuple(entry.sizes.items()),
        sources=tuple(str(source.ref) for source in entry.sources),
    )


def merge(
    hits: Iterable[SearchHit], known: Iterable[SearchHit], from_hubs: Iterable[SearchHit]
) -> tuple[tuple[SearchHit, ...], tuple[SearchHit, ...]]:
    """The catalogue's hits and the hubs' others, each repository once.

    What the catalogue has under a name of its own is shown by that, with the downloads that a hub counts.
    """
    rows = {hit.ref: hit for hit in hits}
    owners = {source.lower(): hit for hit in known for source in hit.sources}
    others: dict[str, SearchHit] = {}
    for hit in from_hubs:
        owner = owners.get(hit.ref.lower())
        if owner is not None:
            row = rows.get(owner.ref, owner)
            counts = [count for count in (row.num_downloads, hit.num_downloads) if count is not None]
            rows[owner.ref] = replace(row, num_downloads=max(counts, default=None))
            continue
        repository = hit.ref.partition(":")[2].lower()
        first = others.setdefault(repository, hit)
        if hit.ref not in first.sources:
            others[repository] = replace(first, sources=(*first.sources, hit.ref))
    return tuple(rows.values()), tuple(others.values())


def shared_out(hits: Iterable[SearchHit], others: Iterable[SearchHit], limit: int) -> tuple[SearchHit, ...]:
    """So many of both, the catalogue's first; a third of the places is kept for the hubs'."""
    first, second = tuple(hits), tuple(others)
    num_others = max(limit - len(first), limit // 3)
    second = second[: max(0, min(num_others, limit))]
    return first[: limit - len(second)] + second


def judged(hit: SearchHit, judge: Judge) -> SearchHit:
    """The hit with the judge's word on its usual size."""
    return hit if hit.usual is None else replace(hit, fits=judge(hit.usual[1]))


def _test(filters: Filters) -> Callable[[SearchHit], bool]:
    def passes(hit: SearchHit) -> bool:
        return (
            (filters.task is None or filters.task in hit.tasks)
            and (filters.language is None or filters.language in hit.languages)
            and (not filters.is_commercial or hit.commercial is True)
        )

    return passes


def _split(words: Sequence[str]) -> Iterator[str]:
    """Lower-case words; Chinese, which has no spaces, is cut where the longest words that are known begin and end."""
    for word in " ".join(words).lower().split():
        position = 0
        for run in _UNSPACED.finditer(word):
            yield from _kept(word[position : run.start()])
            yield from _cut(run[0])
            position = run.end()
        yield from _kept(word[position:])


def _cut(text: str) -> Iterator[str]:
    rest = ""
    while text:
        lengths = range(min(_LONGEST_WORD, len(text)), 0, -1)
        length = next((n for n in lengths if text[:n] in _MEANINGS or text[:n] in _EMPTY_WORDS), 0)
        if not length:
            rest, text = rest + text[0], text[1:]
            continue
        yield from _kept(rest)
        yield from _kept(text[:length])
        rest, text = "", text[length:]
    yield from _kept(rest)


def _kept(word: str) -> Iterator[str]:
    if word and word not in _EMPTY_WORDS:
        yield word


def _score(word: str, entry: CatalogEntry) -> int:
    """How well a word fits a model; 0: not at all."""
    names = [entry.name, *entry.aliases]
    score = _found(word, [text for name in names for text in (name.name, name.tag, str(name))], _IN_NAME)
    # "small" in a title is the name of a model of any size.
    if _MEANINGS.get(word, ("", ""))[0] != "size":
        score = max(score, _found(word, [entry.title.lower(), entry.licence.lower()], _IN_TITLE))
    return max(score, _meant(word, entry))


def _found(word: str, texts: Sequence[str], scores: tuple[int, int, int, int, int]) -> int:
    is_whole, begins, is_part, begins_part, is_within = scores
    is_parameters = _PARAMETERS_WORD.fullmatch(word) is not None
    parts = {part for text in texts for part in _PARTS.split(text)}
    if word in texts:
        return is_whole
    if not is_parameters and any(text.startswith(word) for text in texts):
        return begins
    if word in parts:
        return is_part
    # "7b" is not meant to find 27b.
    if is_parameters:
        return 0
    if any(part.startswith(word) for part in parts):
        return begins_part
    return is_within if any(word in text for text in texts) else 0


def _meant(word: str, entry: CatalogEntry) -> int:
    kind, value = _MEANINGS.get(word, ("language", word))
    if kind == "size":
        size = entry.num_parameters
        fits = size is not None and (size <= SMALL_PARAMETERS if value == "small" else size >= LARGE_PARAMETERS)
        return _MEANT if fits else 0
    if kind == "family":
        return _MEANT if entry.name.name.startswith(value) else 0
    tables: Mapping[str, Sequence[str]] = {"language": entry.languages, "task": entry.tasks, "strength": entry.strengths}
    values = tables[kind]
    # The language that a model knows best comes first.
    return 0 if value not in values else _MEANT_FIRST if kind == "language" and value == values[0] else _MEANT


def _hub_search(hub: str) -> HubSearch:
    search_there: HubSearch = import_module(HUB_MODULES[hub]).search
    return search_there


async def _ask(
    hub: str, ask: HubSearch, words: str, context: SourceContext, limit: int, timeout_s: float
) -> Sequence[HubHit] | Notice:
    try:
        return await asyncio.wait_for(ask(words, context, limit), timeout_s)
    except asyncio.TimeoutError:
        return Notice("{hub} did not answer within {seconds} seconds.", (("hub", HUB_TITLES[hub]), ("seconds", round(timeout_s))))
    except ZhibeiError as error:
        return Notice("{hub} could not be searched: {reason}", (("hub", HUB_TITLES[hub]), ("reason", error)))


def _by_turns(lists: Sequence[Sequence[SearchHit]]) -> Iterator[SearchHit]:
    """The best of each hub, then the second of each: their downloads cannot be compared."""
    for place in range(max(map(len, lists), default=0)):
        yield from (hits[place] for hits in lists if place < len(hits))


def _from_hub(hub: str, hit: HubHit) -> SearchHit:
    tags = [tag.lower() for tag in hit.tags]
    return SearchHit(
        ref=hit.ref,
        title=hit.title,
        origin=hub,
        licence=hit.licence,
        # Other licences may allow it too; who asks for certainty is not told so.
        commercial=True if (hit.licence or "").lower() in _FREE_LICENCES else None,
        languages=tuple(tag for tag in tags if _LANGUAGE_TAG.fullmatch(tag)),
        tasks=tuple(dict.fromkeys(_TASK_TAGS[tag] for tag in tags if tag in _TASK_TAGS)),
        num_downloads=hit.downloads,
        sizes=tuple((form.label, form.size_bytes) for form in hit.variants if form.size_bytes),
        sources=(hit.ref,),
    )

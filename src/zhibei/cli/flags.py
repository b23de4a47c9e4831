"""The options that say how a model is loaded and how it answers: one table, shared by ``run``, ``serve`` and ``/set``.

Owns their names, ranges and help; what they mean is said where ``LoadOptions``, ``Sampling`` and ``Limits`` are defined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from zhibei.cli.kinds import Kind, OneOf, Real, Switch, Whole, Words
from zhibei.cli.wording import option
from zhibei.i18n import N_
from zhibei.options import CacheType, Limits, LoadOptions, Sampling, Speculation
from zhibei.units import parse_keep_alive

_MAX_INT32 = 2**31 - 1
Record = TypeVar("Record", LoadOptions, Sampling, Limits)


@dataclass(frozen=True, slots=True)
class Shares:
    """Numbers separated by commas."""

    metavar: str = "X,X..."

    def read(self, text: str, name: str) -> tuple[float, ...]:
        """The numbers."""
        number = Real(0, 1e9)
        return tuple(number.read(item.strip(), name) for item in text.split(","))


@dataclass(frozen=True, slots=True)
class Adapter:
    """A file and how strongly it is applied: ``PATH`` or ``PATH=SCALE``."""

    metavar: str = "PATH[=SCALE]"

    def read(self, text: str, name: str) -> tuple[str, float]:
        """Path and scale."""
        path, equals, scale = text.rpartition("=")
        if not equals or "/" in scale:
            return text, 1.0
        return Words().read(path, name), Real(-100, 100).read(scale, name)


@dataclass(frozen=True, slots=True)
class Duration:
    """A duration, kept as text."""

    metavar: str = "TIME"

    def read(self, text: str, name: str) -> str:
        """The text, if it is a duration."""
        parse_keep_alive(text)
        return text


@dataclass(frozen=True, slots=True)
class Flag:
    """An option. ``field`` is ``load.…``, ``sampling.…`` or ``limits.…``; ``is_list`` may be given again and again."""

    field: str
    names: tuple[str, ...]
    kind: Kind
    help: str
    is_list: bool = False

    @property
    def param(self) -> str:
        """The name that the parser keeps its value under."""
        return self.field.replace(".", "__")

    @property
    def word(self) -> str:
        """The name that ``/set`` knows it by."""
        return self.field.partition(".")[2]


_CACHE_TYPE = OneOf(get_args(CacheType))
_AUTO = OneOf(("on", "off", "auto"))
_PATH = Words("PATH")
_COUNT = Whole(1, 1024)

LOAD_FLAGS = (
    Flag(
        "load.ctx_size",
        ("--ctx-size", "-c"),
        Whole(16, 1 << 24),
        N_("Context in tokens: how much of a conversation the model sees."),
    ),
    Flag(
        "load.parallel", ("--parallel",), Whole(1, 256), N_("Requests answered at the same time; each has a context of its own.")
    ),
    Flag("load.threads", ("--threads", "-t"), _COUNT, N_("CPU threads.")),
    Flag("load.threads_batch", ("--threads-batch",), _COUNT, N_("CPU threads while a prompt is read.")),
    Flag("load.batch_size", ("--batch-size", "-b"), Whole(1, 1 << 20), N_("Prompt tokens read in one go.")),
    Flag(
        "load.ubatch_size", ("--ubatch-size",), Whole(1, 1 << 20), N_("Prompt tokens computed at once; at most the batch size.")
    ),
    Flag(
        "load.cache_type_k",
        ("--cache-type-k",),
        _CACHE_TYPE,
        N_("Number format of the keys in the context; smaller ones save memory."),
    ),
    Flag("load.cache_type_v", ("--cache-type-v",), _CACHE_TYPE, N_("Number format of the values in the context.")),
    Flag("load.flash_attn", ("--flash-attn",), _AUTO, N_("Flash attention.")),
    Flag("load.gpu_layers", ("--gpu-layers", "-ngl"), Whole(0, 100_000), N_("Layers computed on the GPU; 0 for none.")),
    Flag("load.main_gpu", ("--main-gpu",), Whole(0, 255), N_("Number of the GPU to prefer.")),
    Flag("load.tensor_split", ("--tensor-split",), Shares(), N_("Share of the model that each GPU gets, such as 3,1.")),
    Flag("load.mmap", ("--mmap",), Switch("--no-mmap"), N_("Map the model file into memory instead of reading it.")),
    Flag("load.mlock", ("--mlock",), Switch(), N_("Keep the model from being swapped out.")),
    Flag(
        "load.cache_ram_mib",
        ("--cache-ram",),
        Whole(0, 1 << 24, "MIB"),
        N_("Memory in MiB for prompts that may come again; 0 for none."),
    ),
    Flag("load.rope_freq_base", ("--rope-freq-base",), Real(0, 1e12), N_("RoPE base frequency, instead of the model's own.")),
    Flag("load.rope_freq_scale", ("--rope-freq-scale",), Real(0, 1e6), N_("RoPE frequency scale.")),
    Flag("load.lora", ("--lora",), Adapter(), N_("A LoRA adapter to apply; may be given several times."), is_list=True),
    Flag("load.mmproj", ("--mmproj",), _PATH, N_("The projector file with which the model sees images.")),
    Flag("load.draft_model", ("--draft-model",), _PATH, N_("A small model file that guesses ahead, to make a large one faster.")),
    Flag("load.chat_template", ("--chat-template-file",), _PATH, N_("A Jinja chat template, instead of the model's own.")),
    Flag(
        "load.speculation",
        ("--speculation",),
        OneOf(get_args(Speculation)),
        N_("Whether words are guessed ahead where a text repeats itself: ngram, off, or auto."),
    ),
    Flag(
        "load.kernels",
        ("--kernels",),
        Switch("--no-kernels"),
        N_("Compute with zhibei-kernels, where they are installed and fit this processor."),
    ),
    Flag("load.reasoning", ("--reasoning",), _AUTO, N_("Whether the model thinks before it answers, where it can.")),
)

SAMPLING_FLAGS = (
    Flag(
        "sampling.temperature",
        ("--temperature", "--temp"),
        Real(0, 5),
        N_("0 always takes the likeliest token; higher is more varied."),
    ),
    Flag("sampling.top_p", ("--top-p",), Real(0, 1), N_("Draw from the likeliest tokens that together reach this probability.")),
    Flag("sampling.top_k", ("--top-k",), Whole(0, _MAX_INT32), N_("Draw from this many of the likeliest tokens; 0 for all.")),
    Flag("sampling.min_p", ("--min-p",), Real(0, 1), N_("Drop tokens less likely than this share of the likeliest one.")),
    Flag("sampling.typical_p", ("--typical-p",), Real(0, 1), N_("Draw from the most typical tokens; 1 for all.")),
    Flag(
        "sampling.repeat_penalty",
        ("--repeat-penalty",),
        Real(0, 10),
        N_("Make tokens that came before less likely; 1 for not at all."),
    ),
    Flag(
        "sampling.repeat_last_n", ("--repeat-last-n",), Whole(0, _MAX_INT32), N_("How many tokens the repeat penalty looks back.")
    ),
    Flag(
        "sampling.presence_penalty",
        ("--presence-penalty",),
        Real(-2, 2),
        N_("Make tokens that came before less likely, however often they came."),
    ),
    Flag("sampling.frequency_penalty", ("--frequency-penalty",), Real(-2, 2), N_("Make tokens less likely each time they come.")),
    Flag("sampling.seed", ("--seed",), Whole(0, 2**32 - 1), N_("The same seed and the same request give the same answer.")),
)

LIMIT_FLAGS = (
    Flag("limits.max_tokens", ("--max-tokens", "-n"), Whole(1, _MAX_INT32), N_("End the answer after this many tokens.")),
    Flag("limits.stop", ("--stop",), Words(), N_("End the answer before this text; may be given several times."), is_list=True),
)

KEEP_ALIVE = Flag("keep_alive", ("--keep-alive",), Duration(), N_("How long the model stays loaded when idle: 5m, 0, forever."))
MODEL_FLAGS = (*LOAD_FLAGS, *SAMPLING_FLAGS, *LIMIT_FLAGS)


def given(params: Mapping[str, Any], flags: Iterable[Flag]) -> dict[str, object]:
    """Dotted field → value of the options that were given."""
    return {flag.field: params[flag.param] for flag in flags if params.get(flag.param) not in (None, ())}


def filled(record: Record, values: Mapping[str, object]) -> Record:
    """The record with the values of its own part: ``load.…`` for LoadOptions, and so on."""
    prefix = {LoadOptions: "load.", Sampling: "sampling.", Limits: "limits."}[type(record)]
    own: dict[str, Any] = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return replace(record, **own)


def options(flags: Iterable[Flag], section: str | None = None) -> Callable[[Any], Any]:
    """Add an option for every flag to a command's function."""

    def decorate(function: Any) -> Any:
        for flag in reversed(tuple(flags)):
            function = _option(flag, section)(function)
        return function

    return decorate


def _option(flag: Flag, section: str | None) -> Callable[[Any], Any]:
    if isinstance(flag.kind, Switch):
        spelling = flag.names[0] + (f"/{flag.kind.off}" if flag.kind.off else "")
        return option(spelling, flag.param, default=None, help=flag.help, section=section)
    return option(*flag.names, flag.param, kind=flag.kind, multiple=flag.is_list, help=flag.help, section=section)

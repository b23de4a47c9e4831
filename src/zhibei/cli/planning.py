"""The options that questions about models share, and the machine that they are asked of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, get_args

from zhibei.cli.invocation import Invocation
from zhibei.cli.kinds import OneOf, Words
from zhibei.cli.wording import option
from zhibei.errors import BadRequest, StoreError
from zhibei.i18n import N_
from zhibei.options import CacheType
from zhibei.plans import Hardware

if TYPE_CHECKING:
    from zhibei.hardware.measured import Measured
    from zhibei.judging.bench import Bench

PURPOSES = ("chat", "code", "translate", "rag", "embed", "roleplay", "vision", "reasoning", "rerank")
_LEAST_CTX, _MOST_CTX = 256, 1 << 24
CACHE_TYPES = OneOf(get_args(CacheType))


@dataclass(frozen=True, slots=True)
class Tokens:
    """A number of tokens: ``8192``, ``8k`` (8 × 1024), ``1m``."""

    metavar: str = "TOKENS"

    def read(self, text: str, name: str) -> int:
        """The number."""
        lowered = text.strip().lower()
        factor = {"k": 1 << 10, "m": 1 << 20}.get(lowered[-1:], 1)
        digits = lowered[:-1] if factor > 1 else lowered
        count = int(digits) * factor if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0
        if not _LEAST_CTX <= count <= _MOST_CTX:
            raise BadRequest(
                "{name} takes a number of tokens from {low} to {high}, not {text!r}.",
                hint="Write it like 8192 or 32k.",
                param=name,
                name=name,
                low=_LEAST_CTX,
                high=_MOST_CTX,
                text=text[:40],
            )
        return count


HARDWARE_OPTION = option(
    "--hardware",
    "described",
    kind=Words("MACHINE"),
    help=N_("Another machine than this one, as in rtx4090x2,ram=64g,ddr5-5600x2 or m2-max-64g."),
)
CTX_OPTION = option("--ctx", "-c", "ctx_size", kind=Tokens(), help=N_("Context in tokens, as in 8192 or 32k."))


LANGUAGE_OPTION = option("--language", kind=Words("CODE"), help=N_("Only models that know this language: zh, en, …"))
LICENCE_OPTION = option(
    "--licence",
    kind=OneOf(("commercial", "any")),
    default="any",
    help=N_("commercial: only models that are known to be free for business use."),
)


def bench(invocation: Invocation, described: str | None, engine: str | None = None, *, may_measure: bool = False) -> Bench:
    """The machine that was described, else this one as it is now; the engine that was named, else the usual one.

    ``may_measure``: what this machine can do is measured if it never was, which takes a few seconds.

    Raises:
        BadRequest: the description does not parse.
        BadSetting: there is no such engine.
    """
    from zhibei.judging.bench import described_bench, this_machine

    wanted = engine or invocation.settings.engine
    if described is not None:
        return described_bench(described, wanted)
    return this_machine(invocation.settings.home / "state", wanted, partial(_measure, invocation) if may_measure else None)


def _measure(invocation: Invocation, hardware: Hardware) -> Measured:
    """Measure this machine once; where that cannot be kept, it is done again the next time."""
    from zhibei.hardware import bandwidth

    invocation.printer.transient(invocation.text("Measuring this machine, once: a few seconds …"))
    try:
        return bandwidth.measured(invocation.settings.home / "state", hardware)
    except StoreError:
        return bandwidth.measure(hardware)
    finally:
        invocation.printer.clear_transient()

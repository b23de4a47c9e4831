"""Our own kernels for llama.cpp, the distribution ``zhibei-kernels``: whether they can be used here, and why not.

Knows what a worker says of them (``kernels_loading.py``); loads nothing but their package's few lines of Python.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib import import_module, util
from pathlib import Path
from typing import Any

from zhibei.hardware.cpuinfo import words
from zhibei.i18n import N_
from zhibei.plans import Kernels

DISTRIBUTION = "zhibei-kernels"
_PACKAGE = "zhibei_kernels"
# Of weights, as the table of formats in kernels/README.md has them.
TYPES = tuple("Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS F16 BF16".split())
_AVX2 = frozenset("avx2 fma f16c".split())
_AVX512 = _AVX2 | frozenset("avx512f avx512bw avx512vl avx512dq".split())
# Best first, as kernels/src/levels.cpp chooses.
_LEVELS = (
    ("amx", _AVX512 | frozenset("avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16".split())),
    ("avx512-bf16", _AVX512 | {"avx512_vnni", "avx512_bf16"}),
    ("avx512-vnni", _AVX512 | {"avx512_vnni"}),
    ("avx512", _AVX512),
    ("avx-vnni", _AVX2 | {"avx_vnni"}),
    ("avx2", _AVX2),
)
# The first processor's flags are within.
_CPUINFO_BYTES = 16 << 10
# What a fault of code ends a process with: an instruction that is missing, an assertion, memory, arithmetic.
_FAULTS = frozenset(f"signal {number}" for number in (4, 6, 7, 8, 11))
_REINSTALL = N_("Install them again, in a clone of Zhibei: pip install --force-reinstall --no-deps ./kernels")
_PROBLEMS: Mapping[str, tuple[str, str | None]] = {
    "not-installed": (N_("they are not installed"), N_("Install them, in a clone of Zhibei: pip install ./kernels")),
    "other-machine": (N_("they are for Linux on x86-64"), None),
    "not-built": (
        N_("their library was not built, since no C++ compiler was there"),
        N_(
            "Install a C++ compiler (g++ or clang++), then, in a clone of Zhibei: "
            "pip install --force-reinstall --no-deps ./kernels"
        ),
    ),
    "not-loaded": (N_("their library cannot be loaded"), _REINSTALL),
    "no-library": (N_("they do not find what they need in llama.cpp"), _REINSTALL),
    "other-version": (
        N_("they were built for another version of xllamacpp"),
        N_("Install both again, in a clone of Zhibei: pip install --upgrade '.[llama-cpp]' ./kernels"),
    ),
    "no-level": (N_("this processor has no AVX2"), None),
    "wrong-results": (N_("they computed something wrong in their self-test"), None),
    "crashed": (N_("the engine crashed while it was loaded with them"), N_("Load it without them: --no-kernels")),
}
_UNKNOWN = (N_("they refused, without a reason that is known"), _REINSTALL)


def installed(engine_version: str | None, flags: frozenset[str] | None = None) -> Kernels:
    """What can be expected of them here, before a worker has tried them. Never raises.

    Args:
        engine_version: of ``xllamacpp``; None: it is not installed.
        flags: the processor's, as Linux calls them; None: this one's.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return refused("other-machine")
    package = found()
    if package is None:
        return refused("not-installed")
    version, status = version_of(package), lacking(package, engine_version)
    if status is not None:
        return refused(status, version)
    level = level_of(_flags() if flags is None else flags)
    return refused("no-level", version) if level is None else Kernels(version, level, TYPES, attention=True)


def found() -> Any | None:
    """Their package, which says where the library is and what it is for; None where there is none that could be used."""
    try:
        if util.find_spec(_PACKAGE) is None:
            return None
        package = import_module(_PACKAGE)
    except (ImportError, ValueError):
        return None
    return package if hasattr(package, "library_path") else None


def version_of(package: Any) -> str | None:
    """Its version, where it tells."""
    version = getattr(package, "__version__", None)
    return version if isinstance(version, str) else None


def lacking(package: Any, engine_version: str | None) -> str | None:
    """Why they need not even be loaded, as a status; None: they may be used."""
    if not Path(package.library_path()).is_file():
        return "not-built"
    # A build for a graphics processor says so after the plus sign.
    if engine_version is None or engine_version.partition("+")[0] != package.XLLAMACPP_VERSION:
        return "other-version"
    return None


def level_of(flags: frozenset[str]) -> str | None:
    """The instruction set that they choose on a processor; None: it has none of theirs."""
    return next((level for level, needed in _LEVELS if needed <= flags), None)


def refused(status: str, version: str | None = None) -> Kernels:
    """Kernels that are not used, and why."""
    problem, hint = _PROBLEMS.get(status, _UNKNOWN)
    return Kernels(version, None, problem=problem, hint=hint)


def told(answer: object) -> Kernels | None:
    """What a worker's answer says of them; None: nothing."""
    if not isinstance(answer, dict):
        return None
    number, level, status = (answer.get(name) for name in ("version", "level", "status"))
    number = number if isinstance(number, str) else None
    if status == "ok" and isinstance(level, str):
        return Kernels(number, level, TYPES, attention=answer.get("attention") is True)
    return refused(str(status), number)


def line(version: str | None, what: str) -> str:
    """What a worker writes of them into its log."""
    return f"{DISTRIBUTION} {version or '?'}: {what}"


def may_have_failed(code: object, said: str | None) -> bool:
    """Whether a process that ended with this code may have done so for a fault of theirs, which ``said`` this of them last."""
    return code in _FAULTS and said is not None and "not used" not in said


def is_of_them(text: str) -> bool:
    """Whether a line of a worker's log speaks of them."""
    return text.startswith(DISTRIBUTION)


def _flags() -> frozenset[str]:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            return words(file.read(_CPUINFO_BYTES), "flags")
    except OSError:
        return frozenset()

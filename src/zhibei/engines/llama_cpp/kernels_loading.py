"""The worker's side of ``kernels.py``: puts them into the engine before its first model. What goes wrong leaves all as it was."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

from zhibei.engines.llama_cpp import kernels


def use(xllamacpp: Any) -> dict[str, Any] | None:
    """Have llama.cpp compute with them; to be called before it loads anything. Says on standard error what came of it.

    Returns:
        What the worker answers of them (``kernels.told`` reads it); None: there are none, or nothing for them to do.
    """
    package = kernels.found()
    if package is None:
        return None
    version = kernels.version_of(package)
    if has_device(xllamacpp):
        # Weights in main memory then lie where the device reads them for long prompts, which no other buffer allows.
        _say(version, "not used beside a graphics processor")
        return None
    status, level, attention, problem = _tried(package, xllamacpp)
    if status == "ok":
        _say(version, f"in use, {level}" + (", with attention" if attention else ""))
        return {"version": version, "status": status, "level": level, "attention": attention}
    why = kernels.refused(status, version)
    _say(version, " ".join(filter(None, (f"not used, {why.problem}", problem and f"({problem})", why.hint))))
    return {"version": version, "status": status}


def has_device(xllamacpp: Any) -> bool:
    """Whether the engine has anything but the processor to compute on."""
    return any(int(device["type"]) != 0 for device in xllamacpp.get_device_info())


def _tried(package: Any, xllamacpp: Any) -> tuple[str, str | None, bool, str]:
    """The status, the level in use, whether attention is computed too, and what the system says of a failure."""
    status = kernels.lacking(package, xllamacpp.__version__)
    if status is not None:
        return status, None, False, ""
    engine = next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"), None)
    if engine is None:
        return "no-library", None, False, ""
    # A crash is only theirs if it comes after this.
    _say(kernels.version_of(package), "loading")
    try:
        library = ctypes.CDLL(str(package.library_path()))
        library.zhibei_kernels_register.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
        number = library.zhibei_kernels_register(str(engine).encode(), None)
        library.zhibei_kernels_level.restype = ctypes.c_char_p
        level = library.zhibei_kernels_level()
        attention = hasattr(library, "zhibei_kernels_attention") and library.zhibei_kernels_attention() == 1
    except (OSError, AttributeError) as error:
        return "not-loaded", None, False, str(error)
    statuses = package.STATUSES
    status = statuses[number] if 0 <= number < len(statuses) else f"status {number}"
    return status, level.decode() if level else None, attention, ""


def _say(version: str | None, what: str) -> None:
    sys.stderr.write(kernels.line(version, what) + "\n")
    sys.stderr.flush()

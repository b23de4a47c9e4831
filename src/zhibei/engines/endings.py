"""How an engine's process ended, in words: from its exit code, its last lines and what the system counted. Knows no process."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zhibei.i18n import N_, Phrase

MAX_SAID_CHARS = 200
_KILLED = 9
_VMSTAT = Path("/proc/vmstat")
# What libraries and drivers of graphics processors write when one fails or is gone: CUDA, ROCm, Vulkan, Metal.
_DEVICE = re.compile(
    r"\b(?:CUDA|ROCm|HIP|MUSA) error: |vk::DeviceLostError|ErrorDeviceLost|ggml_vulkan: device lost|"
    r"command buffer \d+ failed with status"
)
# What they write where there is none; the engine then computes on the processor.
_NO_DEVICE = re.compile(r"failed to initialize (?:CUDA|ROCm|HIP|MUSA)\b|no usable GPU found")
_MEMORY = re.compile(r"out ?of ?memory|OutOf(?:Device|Host)Memory|insufficient memory", re.IGNORECASE)
_SIGNALS = {
    4: N_("this processor lacks an instruction that the engine was built for"),
    6: N_("the engine gave up on an error of its own"),
    7: N_("the model file changed, or the disk failed, while it was used"),
    9: N_("it was killed, which is usually the system's answer when memory runs out"),
    11: N_("a memory fault in the engine"),
    15: N_("told to end by somebody"),
}
KILLED_FOR_MEMORY = N_("the system killed it because memory ran out")
MEMORY_HINT = N_("Close other programs, or choose a smaller model, a smaller quantisation or a smaller --ctx-size.")
DEVICE_HINT = N_(
    "It is started anew when it is next asked for. If that does not help: restart the driver or the machine, "
    "or compute without the graphics processor: --gpu-layers 0."
)

DEVICE_GONE = N_("the graphics processor that it was computed on is gone")
DEVICE_GONE_HINT = N_(
    "Restart the driver or the machine. To load it without a graphics processor: zhibei stop {model}, and ask again."
)


@dataclass(frozen=True, slots=True)
class Ending:
    """``how`` in words, ``code`` exactly; ``hint`` where its cause is known, ``device_failed`` where that was a device."""

    how: str
    code: str
    hint: str | None = None
    device_failed: bool = False


def ending(exit_code: int, lines: Iterable[str] = (), *, for_memory: bool = False) -> Ending:
    """What is known of an end.

    Args:
        exit_code: as processes have it: negative for a signal.
        lines: what it said last.
        for_memory: whether the system ended a process for lack of memory in its time.
    """
    code = f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"
    if exit_code == -_KILLED:
        return Ending(KILLED_FOR_MEMORY if for_memory else _SIGNALS[_KILLED], code, MEMORY_HINT)
    said = device_failure(lines)
    if said is not None:
        return Ending(Phrase("its graphics processor failed: {said}", said=said), code, DEVICE_HINT, device_failed=True)
    if exit_code >= 0:
        return Ending(N_("it ended by itself"), code)
    return Ending(_SIGNALS.get(-exit_code, N_("ended by a signal")), code)


def device_failure(lines: Iterable[str]) -> str | None:
    """The line that tells of a graphics processor that failed; None: there is none, or its memory ran out."""
    said = _first(_DEVICE, lines)
    return None if said is None or _MEMORY.search(said) else said


def device_missing(lines: Iterable[str]) -> str | None:
    """The line that tells that there is no graphics processor to compute on; None: there is no such line."""
    return _first(_NO_DEVICE, lines)


def num_killed_for_memory() -> int | None:
    """How many processes the system has ended so far for lack of memory; None: it does not tell."""
    with suppress(OSError, ValueError):
        for line in _VMSTAT.read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def _first(pattern: re.Pattern[str], lines: Iterable[str]) -> str | None:
    return next((line.strip()[:MAX_SAID_CHARS] for line in lines if pattern.search(line)), None)

"""llama.cpp as a kind of engine: what is installed, and how one is started."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import metadata, util
from typing import Any

from zhibei.engines.base import LogSink
from zhibei.engines.endings import device_failure
from zhibei.engines.liveness import STALL_S
from zhibei.engines.llama_cpp import kernels
from zhibei.engines.llama_cpp.engine import WORKER, LlamaCppEngine
from zhibei.engines.llama_cpp.log_lines import template_problem
from zhibei.engines.llama_cpp.no_template import STAND_IN, WithoutTemplate
from zhibei.engines.llama_cpp.prompts import PromptStore, Shelf
from zhibei.engines.llama_cpp.socket_place import SocketPlace
from zhibei.errors import EngineStartFailed
from zhibei.i18n import N_
from zhibei.plans import EngineInfo, EngineSpec, Kernels

# A device, how the version of a build for it begins after the plus sign, and a library that comes with it.
_BUILDS = (("cuda", "cu", "libcudart"), ("rocm", "rocm", "libamdhip"), ("vulkan", "vulkan", "libggml-vulkan"))
_NUM_SAID = 100


class LlamaCppBackend:
    """See ``zhibei.engines.base.Backend``."""

    def __init__(self, prompts: PromptStore | None = None, stall_s: float = STALL_S, *, command: Sequence[str] = WORKER) -> None:
        """``prompts``: where prompts are kept between loads. ``stall_s``: how long a worker may do nothing while needed.

        ``command``: the worker.
        """
        self._prompts = prompts
        self._stall_s = stall_s
        self._command = command
        self._crashed_with_kernels: set[str] = set()

    def probe(self) -> EngineInfo:
        """Whether ``xllamacpp`` is installed; it is not imported."""
        installed = util.find_spec("xllamacpp") is not None
        version = metadata.version("xllamacpp") if installed else None
        return EngineInfo(
            name="llama.cpp",
            installed=installed,
            version=version,
            formats=("gguf",),
            tasks=("generate", "embed", "rerank"),
            devices=_devices() if installed else ("cpu",),
            problem=None if installed else N_("The engine llama.cpp is not installed."),
            hint=None if installed else N_("Install it: pip install 'zhibei[llama-cpp]'"),
            kernels=kernels.installed(version),
        )

    async def start(self, spec: EngineSpec, log: LogSink) -> LlamaCppEngine:
        """Load the model in a worker and ask it what it can do.

        One whose chat template cannot be used comes up without it; one that crashes with kernels of ours, without them.
        """
        shelf = None
        if self._prompts is not None:
            # A state that was computed with kernels differs from another by rounding alone: both share a shelf.
            shelf = await asyncio.to_thread(self._prompts.shelf, spec, metadata.version("xllamacpp"))
        if not spec.kernels:
            return await self._loaded(spec, _Heard(log), shelf)
        plain = replace(spec, kernels=False)
        if spec.model_path not in self._crashed_with_kernels:
            heard = _Heard(log)
            try:
                return await self._loaded(spec, heard, shelf)
            except EngineStartFailed as error:
                is_theirs = kernels.may_have_failed(error.values.get("code"), heard.of_kernels)
                if not is_theirs or device_failure(heard.lines) is not None:
                    raise
            log(kernels.line(None, "not used, it crashed while it was loaded with them, and is loaded without"))
        left_out = kernels.refused("crashed", kernels.version_of(kernels.found()))
        engine = await self._loaded(plain, _Heard(log), shelf, left_out)
        # Only now is it known that they were why.
        self._crashed_with_kernels.add(spec.model_path)
        return engine

    async def _loaded(
        self, spec: EngineSpec, heard: _Heard, shelf: Shelf | None, left_out: Kernels | None = None
    ) -> LlamaCppEngine:
        given: dict[str, Any] = {"shelf": shelf, "stall_s": self._stall_s, "left_out": left_out, "command": self._command}
        try:
            return await started(LlamaCppEngine(spec, heard.hear, place=SocketPlace(), **given))
        except EngineStartFailed:
            problem = template_problem(heard.lines)
            if problem is None:
                raise
        heard.hear(f"the chat template cannot be used, the model is loaded without it: {problem}")
        plain = replace(spec, chat_template=STAND_IN)
        return await started(WithoutTemplate(plain, heard.hear, problem=problem, place=SocketPlace(), **given))


class _Heard:
    """What a worker said last, and to whom it is told. ``of_kernels``: the last line on those of ours."""

    def __init__(self, log: LogSink) -> None:
        self._log = log
        self.lines: deque[str] = deque(maxlen=_NUM_SAID)
        self.of_kernels: str | None = None

    def hear(self, line: str) -> None:
        self.lines.append(line)
        if kernels.is_of_them(line):
            self.of_kernels = line
        self._log(line)


async def started(engine: LlamaCppEngine) -> LlamaCppEngine:
    """An engine once it is ready; one that does not come up is closed."""
    try:
        await engine.ready()
    except BaseException:
        await engine.close()
        raise
    return engine


def _devices() -> tuple[str, ...]:
    return devices_of(metadata.version("xllamacpp"), (file.name for file in metadata.files("xllamacpp") or ()))


def devices_of(version: str, file_names: Iterable[str]) -> tuple[str, ...]:
    """What a build computes on, without loading it: its version says so, or the libraries that it brings.

    A build that is not recognised counts as one for the processor; the engine then still uses what it finds by itself.
    """
    local, names = version.partition("+")[2], " ".join(file_names)
    found = tuple(device for device, prefix, library in _BUILDS if local.startswith(prefix) or library in names)
    if sys.platform == "darwin" and platform.machine() == "arm64":
        found = (*found, "metal")
    return ("cpu", *found)

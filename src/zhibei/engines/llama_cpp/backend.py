"""llama.cpp as a kind of engine: what is installed, and how one is started."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata, util

from zhibei.engines.base import LogSink
from zhibei.engines.liveness import STALL_S
from zhibei.engines.llama_cpp.engine import LlamaCppEngine
from zhibei.engines.llama_cpp.log_lines import template_problem
from zhibei.engines.llama_cpp.no_template import STAND_IN, WithoutTemplate
from zhibei.engines.llama_cpp.prompts import PromptStore
from zhibei.engines.llama_cpp.socket_place import SocketPlace
from zhibei.errors import EngineStartFailed
from zhibei.i18n import N_
from zhibei.plans import EngineInfo, EngineSpec

# A device, how the version of a build for it begins after the plus sign, and a library that comes with it.
_BUILDS = (("cuda", "cu", "libcudart"), ("rocm", "rocm", "libamdhip"), ("vulkan", "vulkan", "libggml-vulkan"))
_NUM_SAID = 100


class LlamaCppBackend:
    """See ``zhibei.engines.base.Backend``."""

    def __init__(self, prompts: PromptStore | None = None, stall_s: float = STALL_S) -> None:
        """``prompts``: where prompts are kept between loads. ``stall_s``: how long a worker may do nothing while needed."""
        self._prompts = prompts
        self._stall_s = stall_s

    def probe(self) -> EngineInfo:
        """Whether ``xllamacpp`` is installed; it is not imported."""
        installed = util.find_spec("xllamacpp") is not None
        return EngineInfo(
            name="llama.cpp",
            installed=installed,
            version=metadata.version("xllamacpp") if installed else None,
            formats=("gguf",),
            tasks=("generate", "embed", "rerank"),
            devices=_devices() if installed else ("cpu",),
            problem=None if installed else N_("The engine llama.cpp is not installed."),
            hint=None if installed else N_("Install it: pip install 'zhibei[llama-cpp]'"),
        )

    async def start(self, spec: EngineSpec, log: LogSink) -> LlamaCppEngine:
        """Load the model in a worker and ask it what it can do; one whose chat template cannot be used, without it."""
        shelf = None
        if self._prompts is not None:
            shelf = await asyncio.to_thread(self._prompts.shelf, spec, metadata.version("xllamacpp"))
        said: deque[str] = deque(maxlen=_NUM_SAID)

        def hear(line: str) -> None:
            said.append(line)
            log(line)

        try:
            return await started(LlamaCppEngine(spec, hear, shelf=shelf, stall_s=self._stall_s, place=SocketPlace()))
        except EngineStartFailed:
            problem = template_problem(said)
            if problem is None:
                raise
        log(f"the chat template cannot be used, the model is loaded without it: {problem}")
        plain = replace(spec, chat_template=STAND_IN)
        return await started(
            WithoutTemplate(plain, log, shelf=shelf, stall_s=self._stall_s, problem=problem, place=SocketPlace())
        )


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

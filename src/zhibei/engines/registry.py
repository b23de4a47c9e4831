"""The table of engines. Owns name → class and the choice by format; imports an engine only when it is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib import import_module

from zhibei.engines.base import Backend
from zhibei.errors import BadSetting, EngineMissing
from zhibei.i18n import N_
from zhibei.models import ModelInfo
from zhibei.plans import EngineInfo, Task

ENGINES: Mapping[str, str] = {
    "llama.cpp": "zhibei.engines.llama_cpp.backend:LlamaCppBackend",
    "echo": "zhibei.engines.echo:EchoBackend",
    "upstream": "zhibei.engines.upstream.backend:UpstreamBackend",
}
# Tried in this order when nobody names an engine; echo is for tests and is only used when named.
AUTOMATIC = ("llama.cpp",)


def no_engine(name: str, known: Collection[str]) -> BadSetting:
    """The error of a name that is none of the ``known``."""
    return BadSetting("There is no engine {name!r}.", hint="Use auto, {known}.", name=name, known=", ".join(known))


def create(name: str, *arguments: object) -> Backend:
    """The backend of a name, made of what it needs.

    Raises:
        BadSetting: there is no such engine.
    """
    if name not in ENGINES:
        raise no_engine(name, ENGINES)
    module, _, attribute = ENGINES[name].partition(":")
    backend: Backend = getattr(import_module(module), attribute)(*arguments)
    return backend


class Engines(Mapping[str, Backend]):
    """The engines of the table by name, each made when it is first asked for: much of what is done needs none."""

    def __init__(self, arguments: Mapping[str, tuple[object, ...]] | None = None) -> None:
        """Makes none, and imports none.

        Args:
            arguments: what those are made of that need more than their name.
        """
        self._arguments = arguments or {}
        self._made: dict[str, Backend] = {}

    def __getitem__(self, name: str) -> Backend:
        if name not in ENGINES:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = create(name, *self._arguments.get(name, ()))
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(ENGINES)

    def __len__(self) -> int:
        return len(ENGINES)


def choose(wanted: str, info: ModelInfo | None, task: Task, known: Mapping[str, EngineInfo]) -> EngineInfo:
    """The engine for a model: the wanted one, or with ``auto`` the first that is installed and reads its format.

    A model of another server has no choice.

    Raises:
        BadSetting: the wanted engine does not exist.
        EngineMissing: none can run it here.
    """
    model_format = info.format if info is not None else "unknown"
    if model_format == "upstream" and "upstream" in known:
        return known["upstream"]
    names = AUTOMATIC if wanted == "auto" else (wanted,)
    problem: EngineInfo | None = None
    for name in names:
        if name not in known and wanted == "auto":
            continue
        if name not in known:
            raise no_engine(name, known)
        engine = known[name]
        if engine.installed and model_format in engine.formats and task in engine.tasks:
            return engine
        if not engine.installed and model_format in engine.formats:
            problem = engine
    if problem is not None:
        raise EngineMissing(
            problem.problem or N_("The engine {engine} is not installed."), hint=problem.hint, engine=problem.name
        )
    raise EngineMissing(
        "No engine here can run a model of the format {format} for the task {task}.",
        hint="Pull the model as GGUF, which llama.cpp runs.",
        format=model_format,
        task=task,
    )

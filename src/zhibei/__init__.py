"""Zhibei: know the machine, get models, run and serve them.

Five lines::

    import zhibei
    with zhibei.load("smollm2:135m") as model:
        print(model.chat("Why is the sky blue?"))
        for piece in model.stream("Tell me a story."):
            print(piece, end="")

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from zhibei.api import Answer, AsyncModel, Model, list_models, load, load_async
    from zhibei.chat import Message, ResponseFormat, Tool, ToolCall
    from zhibei.errors import ZhibeiError
    from zhibei.events import ReasoningDelta, TextDelta, ToolCallDelta
    from zhibei.options import Sampling

_HOMES = {
    "Answer": "api",
    "AsyncModel": "api",
    "Model": "api",
    "list_models": "api",
    "load": "api",
    "load_async": "api",
    "Message": "chat",
    "ResponseFormat": "chat",
    "Sampling": "options",
    "Tool": "chat",
    "ToolCall": "chat",
    "ReasoningDelta": "events",
    "TextDelta": "events",
    "ToolCallDelta": "events",
    "ZhibeiError": "errors",
}

__all__ = [
    "Answer",
    "AsyncModel",
    "Message",
    "Model",
    "ReasoningDelta",
    "ResponseFormat",
    "Sampling",
    "TextDelta",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ZhibeiError",
    "__version__",
    "list_models",
    "load",
    "load_async",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"zhibei.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'zhibei' has no attribute {name!r}")

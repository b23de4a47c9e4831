"""The engine's worker, as Zhibei starts it, made to log what it allocates. Run by ``memory.py``."""

from __future__ import annotations

from typing import Any

from zhibei.engines.llama_cpp import worker
from zhibei.engines.llama_cpp.order import Order

VERBOSITY = 4
quiet_parameters = worker.parameters


def parameters(xllamacpp: Any, told: Order) -> Any:
    params = quiet_parameters(xllamacpp, told)
    params.verbosity = VERBOSITY
    return params


if __name__ == "__main__":
    worker.parameters = parameters
    worker.main()

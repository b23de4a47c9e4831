"""What the parent tells the worker: the engine's spec as one line of JSON. Used on both sides; standard library only."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from zhibei.plans import EngineSpec


def encode(spec: EngineSpec, key: str) -> bytes:
    """The order for a worker."""
    return json.dumps({"spec": asdict(spec), "key": key}, ensure_ascii=True).encode("ascii")


def decode(line: bytes) -> tuple[EngineSpec, str]:
    """(spec, key) of an order.

    Raises:
        ValueError: it is not one.
    """
    order: Any = json.loads(line)
    if not isinstance(order, dict) or set(order.get("spec", ())) != {field.name for field in fields(EngineSpec)}:
        raise ValueError("not an order")
    raw = order["spec"]
    raw["tensor_split"] = tuple(raw["tensor_split"])
    raw["lora"] = tuple((path, scale) for path, scale in raw["lora"])
    return EngineSpec(**raw), str(order["key"])

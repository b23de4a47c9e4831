"""What the parent tells the worker: the engine's spec as one line of JSON. Used on both sides; standard library only."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from zhibei.plans import EngineSpec


def encode(spec: EngineSpec, key: str, prompts: str | None = None) -> bytes:
    """The order for a worker. ``prompts``: a directory to which it may write the states of its slots."""
    return json.dumps({"spec": asdict(spec), "key": key, "prompts": prompts}, ensure_ascii=True).encode("ascii")


def decode(line: bytes) -> tuple[EngineSpec, str, str | None]:
    """(spec, key, prompts) of an order.

    Raises:
        ValueError: it is not one.
    """
    order: Any = json.loads(line)
    if not isinstance(order, dict) or set(order.get("spec", ())) != {field.name for field in fields(EngineSpec)}:
        raise ValueError("not an order")
    raw = order["spec"]
    raw["tensor_split"] = tuple(raw["tensor_split"])
    raw["lora"] = tuple((path, scale) for path, scale in raw["lora"])
    prompts = order.get("prompts")
    return EngineSpec(**raw), str(order["key"]), None if prompts is None else str(prompts)

"""What the parent tells the worker: the engine's spec as one line of JSON. Used on both sides; standard library only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from zhibei.plans import EngineSpec


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do.

    Attributes:
        key: what its server must demand.
        prompts: a directory to which it may write the states of its slots.
        socket: where its server listens; a port of loopback, if nowhere.
    """

    spec: EngineSpec
    key: str
    prompts: str | None = None
    socket: str | None = None


def encode(order: Order) -> bytes:
    """One line, without its end."""
    return json.dumps(asdict(order), ensure_ascii=True).encode("ascii")


def decode(line: bytes) -> Order:
    """What ``encode`` was given.

    Raises:
        ValueError: it is not an order.
    """
    raw: Any = json.loads(line)
    if not isinstance(raw, dict) or set(raw.get("spec", ())) != {field.name for field in fields(EngineSpec)}:
        raise ValueError("not an order")
    spec = raw["spec"]
    spec["tensor_split"] = tuple(spec["tensor_split"])
    spec["lora"] = tuple((path, scale) for path, scale in spec["lora"])
    return Order(EngineSpec(**spec), str(raw["key"]), _path(raw, "prompts"), _path(raw, "socket"))


def _path(raw: dict[str, Any], name: str) -> str | None:
    return None if raw.get(name) is None else str(raw[name])

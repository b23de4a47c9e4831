"""The machine as a JSON document. Names are stable; sizes are bytes, and what is not known is null."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from zhibei.hardware.measured import Measured
from zhibei.plans import Hardware


def document(hardware: Hardware, measured: Measured | None = None) -> dict[str, Any]:
    """Everything worth printing of a machine, its measurements included if there are any."""
    facts = asdict(hardware)
    gpus = [_plain(gpu) for gpu in facts.pop("gpus")]
    return {**_plain(facts), "gpus": gpus, "measured": None if measured is None else measured.document()}


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()}

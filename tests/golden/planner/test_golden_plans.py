"""Plans as tables: each ``.toml`` file here is a model, a machine and wishes, and the plan that must come of them.

To change what is expected, change the file by hand: the failure shows the whole plan in the file's own form, so that what is
pasted has been read. Sizes in the files are MiB, rounded to a hundredth; ``num_kv_heads`` is that of every layer.
``kernels = true``: an engine with kernels of ours; none otherwise, whatever is installed here.
``layers`` of a model are fields of ``Layer``, ``gpus`` of a machine those of ``Gpu``, with ``_mib`` for ``_bytes``.
"""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from zhibei.models import Layer, ModelInfo, StoredFile, StoredModel
from zhibei.options import LoadOptions
from zhibei.planner.kernels import CORE_GIGA_OPS
from zhibei.planner.plan import plan
from zhibei.plans import EngineSpec, Gpu, Hardware, Kernels, Plan

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MIB = 1 << 20
CASES = sorted(Path(__file__).parent.glob("*.toml"))
_SHOWN = ("ctx_size", "num_slots", "batch_size", "ubatch_size", "threads", "pooling", "mmproj_path", "draft_model_path")


def stored(table: dict[str, Any]) -> StoredModel:
    facts = dict(table.get("info", {}))
    if "num_kv_heads" in facts:
        facts["num_kv_heads"] = (facts["num_kv_heads"],) * facts["num_layers"]
    if "layers" in table:
        facts["layers"] = tuple(Layer(**in_bytes(item)) for item in table["layers"])
    info = ModelInfo(**{"format": "gguf", "architecture": "llama", **in_bytes(facts)}) if facts else None
    files = tuple(StoredFile(item["role"], Path(item["path"]), round(item["mib"] * MIB)) for item in table["files"])
    return StoredModel("golden:latest", files, info, "test", datetime(2026, 1, 1, tzinfo=timezone.utc))


def in_bytes(table: dict[str, Any]) -> dict[str, Any]:
    return {
        key.removesuffix("_mib") + "_bytes" if key.endswith("_mib") else key: round(value * MIB)
        if key.endswith("_mib")
        else value
        for key, value in table.items()
    }


def machine(table: dict[str, Any]) -> Hardware:
    total, available = (None if key not in table else round(table[key] * MIB) for key in ("total_mib", "available_mib"))
    gpus = tuple(Gpu(**in_bytes(gpu)) for gpu in table.get("gpus", ()))
    facts = {key: table[key] for key in ("bandwidth_bytes_per_s",) if key in table}
    backends = tuple(table.get("backends", ()))
    return Hardware("golden", table.get("cores"), table.get("threads"), total, available, gpus, backends=backends, **facts)


def wishes(table: dict[str, Any]) -> LoadOptions:
    return LoadOptions(**{key: tuple(map(tuple, value)) if key == "lora" else value for key, value in table.items()})


def shown(found: Plan) -> str:
    """A plan in the form of the files."""
    lines = ["[plan]", f'verdict = "{found.verdict}"']
    if found.spec is not None:
        lines += list(spec_lines(found.spec))
    said = [template.format_map(dict(values)) for template, values in found.reasons]
    lines += (
        [f'reasons = ["{said[0]}"]']
        if len(said) == 1
        else ["reasons = [", *(f'    "{text}",' for text in said), "]"]
        if said
        else []
    )
    changes = [f'    "{change.message.format_map(dict(change.values))} -> {change.verdict}",' for change in found.changes]
    lines += ["changes = [", *changes, "]"] if changes else []
    lines += ["", "[plan.memory]"]
    where = {line.device: "" if line.device == "cpu" else f" {line.device}" for line in found.memory}
    lines += [f'"{line.what}{where[line.device]}" = {line.num_bytes / MIB:.2f}' for line in found.memory]
    return "\n".join([*lines, f"total = {found.total_bytes / MIB:.2f}"]) + "\n"


def spec_lines(spec: EngineSpec) -> list[str]:
    lines = []
    for name in _SHOWN:
        value = getattr(spec, name)
        if value is not None:
            lines.append(f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}")
    if (spec.cache_type_k, spec.cache_type_v) != ("f16", "f16"):
        lines.append(f'cache_types = "{spec.cache_type_k} {spec.cache_type_v}"')
    if spec.gpu_layers is not None:
        lines.append(f"gpu_layers = {spec.gpu_layers}")
    if spec.tensor_split:
        lines.append(f"tensor_split = {list(spec.tensor_split)}")
    if spec.n_cpu_moe or not spec.kv_offload:
        lines.append(f"n_cpu_moe = {spec.n_cpu_moe}\nkv_offload = {str(spec.kv_offload).lower()}")
    if spec.n_ctx_checkpoints is not None:
        lines.append(f"n_ctx_checkpoints = {spec.n_ctx_checkpoints}")
    if spec.lora:
        lines.append(f"lora = {[list(item) for item in spec.lora]}".replace("'", '"'))
    return lines


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_plan(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    case = tomllib.loads(text)
    found = plan(
        stored(case["model"]),
        machine(case["machine"]),
        "llama.cpp",
        case.get("task", "generate"),
        wishes(case.get("wishes", {})),
        devices=tuple(case["devices"]) if "devices" in case else None,
        kernels=Kernels(None, "avx2", tuple(CORE_GIGA_OPS)) if case.get("kernels") else None,
    )
    expected = text[text.index("[plan]") :]
    assert shown(found) == expected
    available = case["machine"].get("available_mib")
    assert found.available_bytes == (None if available is None else round(available * MIB))


def test_there_are_cases() -> None:
    assert len(CASES) >= 22

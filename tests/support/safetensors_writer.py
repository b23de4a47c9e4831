"""Safetensors files and Hugging Face directories, written by hand."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path

from zhibei.formats.safetensors import DTYPE_BITS

CONFIG: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "vocab_size": 100,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
}
TENSORS = {"model.embed_tokens.weight": ("BF16", (100, 64)), "model.norm.weight": ("F32", (64,))}


def framed(header: bytes, data: bytes = b"") -> bytes:
    """A file with a header of any bytes."""
    return struct.pack("<Q", len(header)) + header + data


def safetensors_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]] = TENSORS, **metadata: str) -> bytes:
    """A valid file: each tensor's name with its type and shape; the data are zeros."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, (dtype, shape) in tensors.items():
        end = position + prod(shape) * DTYPE_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    return framed(text + b" " * (-len(text) % 8), bytes(position))


def repository_files(**changes: object) -> dict[str, bytes]:
    """The files of a whole repository in one weight file; ``changes`` are of its configuration."""
    return {
        "config.json": json.dumps({**CONFIG, **changes}).encode(),
        "model.safetensors": safetensors_bytes(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "LlamaTokenizerFast", "chat_template": "{{ messages }}"}
        ).encode(),
        "README.md": b"---\nlicense: apache-2.0\n---\n# Tiny\n",
    }


def write_files(directory: Path, files: Mapping[str, bytes]) -> Path:
    """The directory, with the files in it."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory

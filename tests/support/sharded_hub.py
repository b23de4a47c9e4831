"""A model in many shards with a vocabulary of the usual size, for a hub: sparse files, of which only headers are ever read."""

from __future__ import annotations

import struct
from pathlib import Path

from hubs.content import Blob, Repository
from support.gguf_writer import GgufFile, Tensor, Value, array, padded, text, texts, tiny_model, u32

NUM_SHARDS = 40
LAYERS_PER_SHARD = 2
WIDTH, FEED_FORWARD, HEADS, KV_HEADS = 512, 1536, 8, 2
NUM_TOKENS = 150_000


def sharded(directory: Path, *, num_tokens: int = NUM_TOKENS, stem: str = "Big-Q4_K_M") -> dict[str, Path]:
    """The shards by their names, all tensors in the order in which converters write them."""
    directory.mkdir(parents=True, exist_ok=True)
    num_layers = NUM_SHARDS * LAYERS_PER_SHARD
    shards = [_layers(range(number * LAYERS_PER_SHARD, (number + 1) * LAYERS_PER_SHARD)) for number in range(NUM_SHARDS)]
    shards[0].insert(0, Tensor("token_embd.weight", (WIDTH, num_tokens), "Q4_K"))
    shards[-1] += [Tensor("output_norm.weight", (WIDTH,)), Tensor("output.weight", (WIDTH, num_tokens), "Q6_K")]
    total = sum(map(len, shards))
    found = {}
    for number, tensors in enumerate(shards):
        name = f"{stem}-{number + 1:05}-of-{NUM_SHARDS:05}.gguf"
        split = {
            "split.no": Value(2, struct.pack("<H", number)),
            "split.count": Value(2, struct.pack("<H", NUM_SHARDS)),
            "split.tensors.count": Value(5, struct.pack("<i", total)),
        }
        model = _first(num_layers, num_tokens, split) if number == 0 else GgufFile(metadata=tuple(split.items()))
        found[name] = write_sparse(directory / name, model.with_tensors(*tensors))
    return found


def write_sparse(path: Path, model: GgufFile) -> Path:
    """The file with its header; its weights are a hole."""
    header = model.header()
    size = sum(padded(tensor.num_bytes, model.alignment) for tensor in model.tensors)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(padded(len(header), model.alignment) + size)
    return path


def repository(name: str, files: dict[str, Path]) -> Repository:
    return Repository(name, {"main": {file: Blob(path) for file, path in files.items()}})


def _first(num_layers: int, num_tokens: int, split: dict[str, Value]) -> GgufFile:
    words = [f"word{number:06}" for number in range(num_tokens)]
    shape = {
        "llama.block_count": u32(num_layers),
        "llama.context_length": u32(32768),
        "llama.embedding_length": u32(WIDTH),
        "llama.feed_forward_length": u32(FEED_FORWARD),
        "llama.attention.head_count": u32(HEADS),
        "llama.attention.head_count_kv": u32(KV_HEADS),
        "tokenizer.ggml.tokens": texts(*words),
        "tokenizer.ggml.token_type": array(5, *([1] * num_tokens)),
        "tokenizer.ggml.merges": texts(*(f"{word[:5]} {word[5:]}" for word in words)),
        "general.file_type": u32(15),
        "general.name": text("Big"),
    }
    return tiny_model(**shape, **split)


def _layers(numbers: range) -> list[Tensor]:
    kv_width = WIDTH // HEADS * KV_HEADS
    dims = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, kv_width),
        "attn_v": (WIDTH, kv_width),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (WIDTH, FEED_FORWARD),
        "ffn_up": (WIDTH, FEED_FORWARD),
        "ffn_down": (FEED_FORWARD, WIDTH),
    }
    found = []
    for number in numbers:
        found += [Tensor(f"blk.{number}.{name}.weight", size, "Q4_K") for name, size in dims.items()]
        found.append(Tensor(f"blk.{number}.attn_norm.weight", (WIDTH,)))
    return found

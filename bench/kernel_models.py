"""Models of random weights for ``kernels.py``: four sizes and one of experts, as the usual mixtures of types. Kept between runs.

Shapes are those of published models of these sizes; where a mixture puts the better types is llama.cpp's rule. Their
vocabulary is of byte pairs, which every engine here reads. What such a model says is noise; how fast it says it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zhibei.workshop.gguf_file import MetadataValue, TensorSpec, write_gguf
from zhibei.workshop.random_blocks import RandomBlocks
from zhibei.workshop.random_models import describe
from zhibei.workshop.shapes import Experts, Shape

EXPERTS = "experts"
_WORDS = 151936
SHAPES = {
    "0.5": Shape("0.5", "qwen2", 24, 1024, 4096, 16, 2, 64, vocabulary_size=_WORDS, tied=True),
    "1.5": Shape("1.5", "qwen2", 28, 1536, 8960, 12, 2, 128, vocabulary_size=_WORDS, tied=True),
    "3": Shape("3", "qwen2", 36, 2048, 11008, 16, 2, 128, vocabulary_size=_WORDS, tied=True),
    "7": Shape("7", "llama", 32, 4096, 14336, 32, 8, 128, vocabulary_size=32000),
    EXPERTS: Shape(EXPERTS, "qwen3moe", 16, 1024, 3072, 16, 4, 64, vocabulary_size=32000, experts=Experts(32, 4, 512)),
}


@dataclass(frozen=True, slots=True)
class Mixture:
    """Types of a file: of most matrices, of those that matter more, of the output; and its number in a header."""

    common: str
    better: str
    output: str
    file_type: int


MIXTURES = {
    "Q4_0": Mixture("Q4_0", "Q4_0", "Q6_K", 2),
    "Q4_K_M": Mixture("Q4_K", "Q6_K", "Q6_K", 15),
    "Q5_K_M": Mixture("Q5_K", "Q6_K", "Q6_K", 17),
    "Q6_K": Mixture("Q6_K", "Q6_K", "Q6_K", 18),
    "Q8_0": Mixture("Q8_0", "Q8_0", "Q8_0", 7),
}
# What costs quality most: the values' matrix and the last one of the feed-forward, in these layers.
_BETTER = ("attn_v.weight", "ffn_down.weight", "ffn_down_exps.weight")
_FIRST_ORDINARY, _FIRST_OTHER_BYTE, _NORMAL, _CONTROL = 259, 256, 1, 3


@dataclass(frozen=True, slots=True)
class Model:
    """A file, and what one token reads of it. ``active_bytes``: weights; ``cache_bytes``: keys and values a token before."""

    size: str
    mixture: str
    path: Path
    num_bytes: int
    active_bytes: int
    cache_bytes: int
    active_parameters: int

    @property
    def name(self) -> str:
        """As tables say it."""
        return f"{self.size} {self.mixture}" if self.size == EXPERTS else f"{self.size}B {self.mixture}"


def model(size: str, mixture: str, directory: Path) -> Model:
    """The model, made if it is not there yet."""
    shape = SHAPES[size]
    metadata, plain = describe(replace(shape, weight_type=MIXTURES[mixture].common))
    tensors = tuple(_mixed(tensor, shape, MIXTURES[mixture]) for tensor in plain)
    path = directory / f"random-{size}-{mixture}.gguf"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        facts = [(key, value) for key, value in metadata if not key.startswith("tokenizer.")]
        facts += [("general.file_type", MIXTURES[mixture].file_type), *_byte_pairs(shape.vocabulary_size)]
        part = path.with_suffix(".part")
        try:
            write_gguf(part, facts, tensors, RandomBlocks(0).pieces)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    cache = shape.num_layers * shape.num_kv_heads * shape.head_length * 2 * 2
    active = [(tensor, _share(tensor, shape)) for tensor in tensors]
    num_active = sum(int(_num_elements(tensor) * share) for tensor, share in active)
    num_bytes = sum(int(tensor.num_bytes * share) for tensor, share in active)
    return Model(size, mixture, path, path.stat().st_size, num_bytes, cache, num_active)


def _mixed(tensor: TensorSpec, shape: Shape, mixture: Mixture) -> TensorSpec:
    is_output = tensor.name == "output.weight" or (shape.tied and tensor.name == "token_embd.weight")
    if is_output:
        return replace(tensor, type=mixture.output)
    if tensor.name.endswith(_BETTER) and _is_better(int(tensor.name.split(".")[1]), shape.num_layers):
        return replace(tensor, type=mixture.better)
    return tensor


def _is_better(layer: int, num_layers: int) -> bool:
    """The first eighth, the last, and every third layer between."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def _share(tensor: TensorSpec, shape: Shape) -> float:
    """How much of a tensor one token needs: one row of a table of tokens is nothing."""
    if tensor.name == "token_embd.weight" and not shape.tied:
        return 0.0
    if shape.experts is not None and "_exps" in tensor.name:
        return shape.experts.num_used / shape.experts.num_experts
    return 1.0


def _num_elements(tensor: TensorSpec) -> int:
    product = 1
    for length in tensor.dims:
        product *= length
    return product


def _byte_pairs(size: int) -> Iterator[tuple[str, MetadataValue]]:
    """Metadata of a vocabulary of ``size`` tokens: bytes, one pair, and fillers that no text is cut into."""
    tokens = [*_bytes(), "<|end|>", "<|pad|>", "th", *(f"filler{number}" for number in range(size - _FIRST_ORDINARY))]
    types = [_CONTROL if token in ("<|end|>", "<|pad|>") else _NORMAL for token in tokens]
    yield "tokenizer.ggml.model", "gpt2"
    yield "tokenizer.ggml.pre", "qwen2"
    yield "tokenizer.ggml.tokens", tokens
    yield "tokenizer.ggml.token_type", types
    yield "tokenizer.ggml.merges", ["t h"]
    yield "tokenizer.ggml.bos_token_id", 256
    yield "tokenizer.ggml.eos_token_id", 256
    yield "tokenizer.ggml.padding_token_id", 257
    yield "tokenizer.ggml.add_bos_token", False
    yield "tokenizer.chat_template", "{% for message in messages %}{{ message.content }}\n{% endfor %}"


def _bytes() -> Iterator[str]:
    """A letter for each byte: itself where it can be seen, else one from behind the first 256."""
    hidden = 0
    for number in range(256):
        if 33 <= number <= 126 or (161 <= number <= 255 and number != 173):
            yield chr(number)
        else:
            yield chr(_FIRST_OTHER_BYTE + hidden)
            hidden += 1


def prompt(seed: int, num_tokens: int, vocabulary: int = 32000) -> list[int]:
    """Tokens that look alike to no other prompt, not even at their beginning."""
    return [
        _FIRST_ORDINARY + (seed * 7919 + position * 104729 + seed * position) % (vocabulary - 300)
        for position in range(num_tokens)
    ]


def models(sizes: Sequence[str], mixtures: Sequence[str], directory: Path) -> Iterator[Model]:
    """Each when it is asked for: making one takes a while."""
    for size in sizes:
        for mixture in mixtures:
            yield model(size, mixture, directory)

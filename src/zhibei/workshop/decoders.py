"""Metadata and tensors of architectures made of attention and feed-forward layers: decoders and encoders. Data and shapes only.

Names and shapes are llama.cpp's (src/llama-arch.cpp, ``load_arch_tensors`` of src/models/*.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zhibei.formats.ggml_types import TENSOR_TYPES
from zhibei.workshop.gguf_file import MetadataValue, TensorSpec
from zhibei.workshop.shapes import Experts, Latent, Shape, type_number


@dataclass(frozen=True, slots=True)
class Traits:
    """What sets a decoder apart from llama's. ``metadata`` is added under the architecture's name."""

    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    fused: bool = False  # one matrix for queries, keys and values; one for both inputs of the feed-forward
    is_parallel: bool = False  # attention and feed-forward see the same norm
    post_norms: bool = False
    tied: bool = False
    sinks: bool = False
    expert_bias: bool = False
    norm: str = "layer_norm_rms_epsilon"
    metadata: tuple[tuple[str, MetadataValue], ...] = ()


DECODERS = {
    "llama": Traits(),
    "qwen2": Traits(qkv_bias=True),
    "qwen3": Traits(qk_norm=True),
    "qwen3moe": Traits(qk_norm=True),
    "gemma2": Traits(post_norms=True, tied=True, metadata=(("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0))),
    "gemma3": Traits(qk_norm=True, post_norms=True, tied=True),
    "phi3": Traits(fused=True),
    "command-r": Traits(is_parallel=True, tied=True, norm="layer_norm_epsilon", metadata=(("logit_scale", 0.0625),)),
    "gpt-oss": Traits(qkv_bias=True, output_bias=True, sinks=True, expert_bias=True),
}
_POST_ATTENTION_NORM_IS_FFN_NORM = ("gpt-oss",)
# These say which layers are attention by a key of their own.
_ATTENTION_BY_INTERVAL = ("qwen3next",)


def weight(shape: Shape, name: str, *dims: int) -> TensorSpec:
    """A matrix of the shape's type; of F16 where its rows are no whole number of blocks."""
    fits = dims[0] % TENSOR_TYPES[type_number(shape.weight_type)].block_size == 0
    return TensorSpec(f"{name}.weight", dims, shape.weight_type if fits else "F16")


def norm(name: str, *dims: int) -> TensorSpec:
    """A norm's weights."""
    return TensorSpec(f"{name}.weight", dims, fill="norm")


def bias(name: str, *dims: int) -> TensorSpec:
    """What is added."""
    return TensorSpec(f"{name}.bias", dims, fill="bias")


def general(shape: Shape) -> Iterator[tuple[str, MetadataValue]]:
    """Metadata every architecture has."""
    yield "general.architecture", shape.architecture
    yield "general.name", "random weights"  # engines read more into the name of a real model
    yield "general.license", "cc0-1.0"
    for key, value in (
        ("block_count", shape.num_layers),
        ("context_length", shape.context_length),
        ("embedding_length", shape.embedding_length),
        ("feed_forward_length", shape.feed_forward_length),
        ("vocab_size", shape.vocabulary_size),
    ):
        yield f"{shape.architecture}.{key}", value


def attention_metadata(shape: Shape) -> Iterator[tuple[str, MetadataValue]]:
    """Metadata of heads, windows and experts."""
    name = shape.architecture
    if name in _ATTENTION_BY_INTERVAL:
        kept: tuple[int, ...] = (shape.num_kv_heads,)
    else:
        kept = tuple(shape.num_kv_heads * shape.is_attention(layer) for layer in range(shape.num_layers))
    yield f"{name}.attention.head_count", shape.num_heads
    yield f"{name}.attention.head_count_kv", kept if 0 in kept else shape.num_kv_heads
    if shape.latent is None:
        yield f"{name}.attention.key_length", shape.head_length
        yield f"{name}.attention.value_length", shape.value_length or shape.head_length
        yield f"{name}.rope.dimension_count", shape.head_length
    yield f"{name}.rope.freq_base", 10000.0
    if shape.sliding_window is not None:
        yield f"{name}.attention.sliding_window", shape.sliding_window
    if shape.experts is not None:
        yield f"{name}.expert_count", shape.experts.num_experts
        yield f"{name}.expert_used_count", shape.experts.num_used
        yield f"{name}.expert_feed_forward_length", shape.experts.feed_forward_length


def decoder_metadata(shape: Shape) -> Iterator[tuple[str, MetadataValue]]:
    """Metadata of a decoder in ``DECODERS``."""
    traits = DECODERS[shape.architecture]
    yield from general(shape)
    yield from attention_metadata(shape)
    yield f"{shape.architecture}.attention.{traits.norm}", 1e-5
    for key, value in traits.metadata:
        yield f"{shape.architecture}.{key}", value


def decoder_tensors(shape: Shape) -> Iterator[TensorSpec]:
    """Tensors of a decoder in ``DECODERS``."""
    traits = DECODERS[shape.architecture]
    yield from embeddings(shape, tied=traits.tied or shape.tied)
    for layer in range(shape.num_layers):
        block = f"blk.{layer}"
        yield norm(f"{block}.attn_norm", shape.embedding_length)
        yield from attention(shape, block, traits)
        if traits.post_norms:
            yield norm(f"{block}.post_attention_norm", shape.embedding_length)
            yield norm(f"{block}.post_ffw_norm", shape.embedding_length)
        if shape.architecture in _POST_ATTENTION_NORM_IS_FFN_NORM:
            yield norm(f"{block}.post_attention_norm", shape.embedding_length)
        elif not traits.is_parallel:
            yield norm(f"{block}.ffn_norm", shape.embedding_length)
        yield from feed_forward(shape, block, layer, traits)


def embeddings(shape: Shape, *, tied: bool, output_norm: str = "output_norm") -> Iterator[TensorSpec]:
    """The table of tokens, the last norm and, where it is not the table, the output matrix."""
    dims = (shape.embedding_length, shape.vocabulary_size)
    kind = shape.embedding_type or shape.weight_type
    yield TensorSpec("token_embd.weight", dims, kind)
    yield norm(output_norm, shape.embedding_length)
    if not tied:
        yield TensorSpec("output.weight", dims, kind)


def attention(shape: Shape, block: str, traits: Traits) -> Iterator[TensorSpec]:
    """One layer's attention."""
    width, value_length = shape.embedding_length, shape.value_length or shape.head_length
    queries = shape.num_heads * shape.head_length
    keys, values = shape.num_kv_heads * shape.head_length, shape.num_kv_heads * value_length
    if traits.fused:
        yield weight(shape, f"{block}.attn_qkv", width, queries + keys + values)
    else:
        for name, length in (("q", queries), ("k", keys), ("v", values)):
            yield weight(shape, f"{block}.attn_{name}", width, length)
            if traits.qkv_bias:
                yield bias(f"{block}.attn_{name}", length)
    yield weight(shape, f"{block}.attn_output", shape.num_heads * value_length, width)
    if traits.output_bias:
        yield bias(f"{block}.attn_output", width)
    if traits.qk_norm:
        yield norm(f"{block}.attn_q_norm", shape.head_length)
        yield norm(f"{block}.attn_k_norm", shape.head_length)
    if traits.sinks:
        yield TensorSpec(f"{block}.attn_sinks.weight", (shape.num_heads,), fill="bias")


def feed_forward(shape: Shape, block: str, layer: int, traits: Traits) -> Iterator[TensorSpec]:
    """One layer's feed-forward, of experts or not."""
    if shape.experts is not None and layer >= shape.experts.num_dense_layers:
        yield from _experts(shape, shape.experts, block, traits)
        return
    width, length = shape.embedding_length, shape.feed_forward_length
    if traits.fused:
        yield weight(shape, f"{block}.ffn_up", width, 2 * length)
    else:
        yield weight(shape, f"{block}.ffn_gate", width, length)
        yield weight(shape, f"{block}.ffn_up", width, length)
    yield weight(shape, f"{block}.ffn_down", length, width)


def _experts(shape: Shape, experts: Experts, block: str, traits: Traits) -> Iterator[TensorSpec]:
    width, length, count = shape.embedding_length, experts.feed_forward_length, experts.num_experts
    yield TensorSpec(f"{block}.ffn_gate_inp.weight", (width, count))
    for name, dims in (("gate", (width, length)), ("up", (width, length)), ("down", (length, width))):
        yield weight(shape, f"{block}.ffn_{name}_exps", *dims, count)
        if traits.expert_bias:
            yield bias(f"{block}.ffn_{name}_exps", dims[1], count)
        if experts.num_shared:
            rows, columns = (size if size == width else size * experts.num_shared for size in dims)
            yield weight(shape, f"{block}.ffn_{name}_shexp", rows, columns)
    if traits.expert_bias:
        yield bias(f"{block}.ffn_gate_inp", count)


def latent_metadata(shape: Shape) -> Iterator[tuple[str, MetadataValue]]:
    """Metadata of deepseek2: keys and values are kept as one vector, as if of one head."""
    latent, name = _latent(shape), shape.architecture
    yield from general(shape)
    yield from attention_metadata(shape)
    yield f"{name}.attention.layer_norm_rms_epsilon", 1e-6
    for key, value in (
        ("attention.kv_lora_rank", latent.kv_rank),
        ("attention.q_lora_rank", latent.query_rank),
        ("attention.key_length", latent.kv_rank + latent.rope_length),
        ("attention.value_length", latent.kv_rank),
        ("attention.key_length_mla", shape.head_length),
        ("attention.value_length_mla", shape.value_length or shape.head_length),
        ("rope.dimension_count", latent.rope_length),
    ):
        yield f"{name}.{key}", value
    if shape.experts is not None:
        yield f"{name}.leading_dense_block_count", shape.experts.num_dense_layers
        yield f"{name}.expert_shared_count", shape.experts.num_shared
        yield f"{name}.expert_weights_scale", 1.0
        yield f"{name}.expert_gating_func", 1
    else:
        yield f"{name}.leading_dense_block_count", shape.num_layers


def latent_tensors(shape: Shape) -> Iterator[TensorSpec]:
    """Tensors of deepseek2."""
    latent, width, heads = _latent(shape), shape.embedding_length, shape.num_heads
    value_length = shape.value_length or shape.head_length
    yield from embeddings(shape, tied=shape.tied)
    for layer in range(shape.num_layers):
        block = f"blk.{layer}"
        yield norm(f"{block}.attn_norm", width)
        yield weight(shape, f"{block}.attn_q_a", width, latent.query_rank)
        yield norm(f"{block}.attn_q_a_norm", latent.query_rank)
        yield weight(shape, f"{block}.attn_q_b", latent.query_rank, heads * shape.head_length)
        yield weight(shape, f"{block}.attn_kv_a_mqa", width, latent.kv_rank + latent.rope_length)
        yield norm(f"{block}.attn_kv_a_norm", latent.kv_rank)
        yield weight(shape, f"{block}.attn_k_b", shape.head_length - latent.rope_length, latent.kv_rank, heads)
        yield weight(shape, f"{block}.attn_v_b", latent.kv_rank, value_length, heads)
        yield weight(shape, f"{block}.attn_output", heads * value_length, width)
        yield norm(f"{block}.ffn_norm", width)
        yield from feed_forward(shape, block, layer, Traits())


def _latent(shape: Shape) -> Latent:
    assert shape.latent is not None
    return shape.latent


def encoder_metadata(shape: Shape) -> Iterator[tuple[str, MetadataValue]]:
    """Metadata of bert and nomic-bert."""
    name = shape.architecture
    yield from general(shape)
    yield f"{name}.attention.head_count", shape.num_heads
    yield f"{name}.attention.causal", False
    yield f"{name}.attention.layer_norm_epsilon", 1e-12
    yield f"{name}.pooling_type", 1
    if name == "nomic-bert":
        yield f"{name}.rope.freq_base", 1000.0


def encoder_tensors(shape: Shape) -> Iterator[TensorSpec]:
    """Tensors of bert (positions learnt, biases) and nomic-bert (rotated, a gate, no biases)."""
    width, length, rotates = shape.embedding_length, shape.feed_forward_length, shape.architecture == "nomic-bert"
    yield TensorSpec("token_embd.weight", (width, shape.vocabulary_size), shape.embedding_type or shape.weight_type)
    yield TensorSpec("token_types.weight", (width, 2))
    if not rotates:
        yield TensorSpec("position_embd.weight", (width, shape.context_length))
    yield from _layer_norm("token_embd_norm", width)
    for layer in range(shape.num_layers):
        block = f"blk.{layer}"
        matrices = [("attn_qkv", width, 3 * width)] if rotates else [(f"attn_{part}", width, width) for part in "qkv"]
        matrices += [("attn_output", width, width), ("ffn_up", width, length), ("ffn_down", length, width)]
        matrices += [("ffn_gate", width, length)] if rotates else []
        for name, rows, columns in matrices:
            yield weight(shape, f"{block}.{name}", rows, columns)
            if not rotates:
                yield bias(f"{block}.{name}", columns)
        yield from _layer_norm(f"{block}.attn_output_norm", width)
        yield from _layer_norm(f"{block}.layer_output_norm", width)


def _layer_norm(name: str, width: int) -> Iterator[TensorSpec]:
    yield norm(name, width)
    yield bias(name, width)

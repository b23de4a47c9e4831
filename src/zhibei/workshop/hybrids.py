"""Metadata and tensors of architectures with layers that keep a state instead of keys and values. Data and shapes only.

Names and shapes are llama.cpp's (src/llama-arch.cpp, ``load_arch_tensors`` of src/models/*.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator

from zhibei.workshop.decoders import Traits, attention, attention_metadata, bias, embeddings, feed_forward, general, norm, weight
from zhibei.workshop.gguf_file import MetadataValue, TensorSpec
from zhibei.workshop.shapes import Recurrent, Shape

MAMBAS = ("mamba", "mamba2")
HYBRIDS = ("jamba", "granitehybrid", "falcon-h1", "lfm2", "qwen3next")


def hybrid_metadata(shape: Shape) -> Iterator[tuple[str, MetadataValue]]:
    """Metadata of the architectures in ``MAMBAS`` and ``HYBRIDS``."""
    recurrent, name = _recurrent(shape), shape.architecture
    yield from general(shape)
    yield f"{name}.attention.layer_norm_rms_epsilon", 1e-5
    if name in MAMBAS:
        yield f"{name}.attention.head_count", 0
    else:
        yield from attention_metadata(shape)
    if name == "lfm2":
        yield f"{name}.shortconv.l_cache", recurrent.conv_kernel
        return
    for key, value in (
        ("conv_kernel", recurrent.conv_kernel),
        ("inner_size", recurrent.inner_size),
        ("state_size", recurrent.state_size),
        ("time_step_rank", recurrent.num_heads),
        ("group_count", recurrent.num_groups),
    ):
        yield f"{name}.ssm.{key}", value
    if name == "qwen3next":
        yield f"{name}.full_attention_interval", recurrent.attention_every
        if shape.experts is not None:
            yield f"{name}.expert_shared_feed_forward_length", shape.experts.feed_forward_length


def hybrid_tensors(shape: Shape) -> Iterator[TensorSpec]:
    """Tensors of the architectures in ``MAMBAS`` and ``HYBRIDS``."""
    name, width = shape.architecture, shape.embedding_length
    yield from embeddings(shape, tied=shape.tied, output_norm="token_embd_norm" if name == "lfm2" else "output_norm")
    for layer in range(shape.num_layers):
        block = f"blk.{layer}"
        yield norm(f"{block}.attn_norm", width)
        yield from _mixer(shape, block, shape.is_attention(layer))
        if name not in MAMBAS:
            yield _norm_before_feed_forward(name, block, width)
            yield from feed_forward(shape, block, layer, Traits())
        if name == "qwen3next":
            yield TensorSpec(f"{block}.ffn_gate_inp_shexp.weight", (width,))


def _norm_before_feed_forward(name: str, block: str, width: int) -> TensorSpec:
    if name == "falcon-h1":
        return TensorSpec(f"{block}.ffn_norm", (width,), fill="norm")
    return norm(f"{block}.post_attention_norm" if name == "qwen3next" else f"{block}.ffn_norm", width)


def _mixer(shape: Shape, block: str, is_attention: bool) -> Iterator[TensorSpec]:
    name = shape.architecture
    if name == "falcon-h1":
        yield from attention(shape, block, Traits())
        yield from _mamba2(shape, block)
    elif is_attention and name == "qwen3next":
        yield from _gated_attention(shape, block)
    elif is_attention:
        yield from attention(shape, block, Traits(qk_norm=name == "lfm2"))
    elif name == "lfm2":
        yield from _short_convolution(shape, block)
    elif name == "qwen3next":
        yield from _delta_net(shape, block)
    elif name in ("mamba", "jamba"):
        yield from _mamba(shape, block)
    else:
        yield from _mamba2(shape, block)


def _mamba(shape: Shape, block: str) -> Iterator[TensorSpec]:
    recurrent, width = _recurrent(shape), shape.embedding_length
    inner, state, rank = recurrent.inner_size, recurrent.state_size, recurrent.num_heads
    yield weight(shape, f"{block}.ssm_in", width, 2 * inner)
    yield from _convolution(block, recurrent.conv_kernel, inner)
    yield weight(shape, f"{block}.ssm_x", inner, rank + 2 * state)
    if shape.architecture == "jamba":
        yield norm(f"{block}.ssm_dt_norm", rank)
        yield norm(f"{block}.ssm_b_norm", state)
        yield norm(f"{block}.ssm_c_norm", state)
    yield TensorSpec(f"{block}.ssm_dt.weight", (rank, inner))
    yield bias(f"{block}.ssm_dt", inner)
    yield TensorSpec(f"{block}.ssm_a", (state, inner), fill="decay")
    yield TensorSpec(f"{block}.ssm_d", (inner,), fill="norm")
    yield weight(shape, f"{block}.ssm_out", inner, width)


def _mamba2(shape: Shape, block: str) -> Iterator[TensorSpec]:
    recurrent, width = _recurrent(shape), shape.embedding_length
    inner, heads, groups = recurrent.inner_size, recurrent.num_heads, recurrent.num_groups
    convolved = inner + 2 * groups * recurrent.state_size
    yield weight(shape, f"{block}.ssm_in", width, inner + convolved + heads)
    yield from _convolution(block, recurrent.conv_kernel, convolved)
    yield bias(f"{block}.ssm_dt", heads)
    yield TensorSpec(f"{block}.ssm_a", (1, heads), fill="decay")
    yield TensorSpec(f"{block}.ssm_d", (1, heads), fill="norm")
    yield norm(f"{block}.ssm_norm", inner // groups, groups)
    yield weight(shape, f"{block}.ssm_out", inner, width)


def _convolution(block: str, kernel: int, length: int) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{block}.ssm_conv1d.weight", (kernel, length), fill="convolution")
    yield bias(f"{block}.ssm_conv1d", length)


def _short_convolution(shape: Shape, block: str) -> Iterator[TensorSpec]:
    width = shape.embedding_length
    yield TensorSpec(f"{block}.shortconv.conv.weight", (_recurrent(shape).conv_kernel, width), fill="convolution")
    yield weight(shape, f"{block}.shortconv.in_proj", width, 3 * width)
    yield weight(shape, f"{block}.shortconv.out_proj", width, width)


def _gated_attention(shape: Shape, block: str) -> Iterator[TensorSpec]:
    """As attention, with a gate of the queries' size beside them."""
    width, queries, keys = shape.embedding_length, shape.num_heads * shape.head_length, shape.num_kv_heads * shape.head_length
    for name, length in (("q", 2 * queries), ("k", keys), ("v", keys)):
        yield weight(shape, f"{block}.attn_{name}", width, length)
    yield weight(shape, f"{block}.attn_output", queries, width)
    yield norm(f"{block}.attn_q_norm", shape.head_length)
    yield norm(f"{block}.attn_k_norm", shape.head_length)


def _delta_net(shape: Shape, block: str) -> Iterator[TensorSpec]:
    """Gated delta net: ``num_groups`` heads of keys and ``num_heads`` of values, each of ``state_size``."""
    recurrent, width = _recurrent(shape), shape.embedding_length
    keys, values = recurrent.state_size * recurrent.num_groups, recurrent.state_size * recurrent.num_heads
    yield weight(shape, f"{block}.attn_qkv", width, 2 * keys + values)
    yield weight(shape, f"{block}.attn_gate", width, values)
    yield TensorSpec(f"{block}.ssm_conv1d.weight", (recurrent.conv_kernel, 2 * keys + values), fill="convolution")
    yield bias(f"{block}.ssm_dt", recurrent.num_heads)
    yield TensorSpec(f"{block}.ssm_a", (recurrent.num_heads,), fill="decay")
    yield weight(shape, f"{block}.ssm_ba", width, 2 * recurrent.num_heads)
    yield norm(f"{block}.ssm_norm", recurrent.state_size)
    yield weight(shape, f"{block}.ssm_out", values, width)


def _recurrent(shape: Shape) -> Recurrent:
    assert shape.recurrent is not None
    return shape.recurrent

"""Random models, read back by our own reader and by the format's reference implementation."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import gguf
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhibei.errors import BadRequest, DiskFull, StoreError
from zhibei.formats.inspect import inspect_path
from zhibei.workshop import gguf_file
from zhibei.workshop.gguf_file import TensorSpec
from zhibei.workshop.named_shapes import LARGE, SMALL, TINY, named_shape
from zhibei.workshop.random_blocks import SPREAD, RandomBlocks
from zhibei.workshop.random_models import describe, write_model
from zhibei.workshop.shapes import Experts, Latent, Recurrent, Shape

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
LLAMA = named_shape("tiny-llama")
each_tiny = pytest.mark.parametrize("shape", TINY, ids=lambda shape: shape.name)


@each_tiny
def test_our_reader_finds_what_was_asked_for(shape: Shape, tmp_path: Path) -> None:
    weights_bytes = write_model(shape, tmp_path / "model.gguf")
    info = inspect_path(tmp_path / "model.gguf")
    assert (info.architecture, info.num_layers, info.embedding_length) == (
        shape.architecture,
        shape.num_layers,
        shape.embedding_length,
    )
    assert (info.vocabulary_size, info.context_length) == (shape.vocabulary_size, shape.context_length)
    assert (info.weights_bytes, info.warnings) == (weights_bytes, ())
    assert info.sliding_window == shape.sliding_window
    assert info.num_experts == (shape.experts.num_experts if shape.experts else None)
    assert shape.weight_type in {name for name, _, _ in info.tensor_types}
    assert info.is_causal is (False if "bert" in shape.architecture else None)
    if shape.latent is None and shape.num_heads:
        assert (info.key_length, info.value_length) == (shape.head_length, shape.head_length)


@each_tiny
def test_the_reference_reader_agrees_tensor_by_tensor(shape: Shape, tmp_path: Path) -> None:
    write_model(shape, tmp_path / "model.gguf")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    wanted = describe(shape)[1]
    assert list(found) == [tensor.name for tensor in wanted]
    for tensor in wanted:
        assert tuple(found[tensor.name].shape) == tensor.dims
        assert found[tensor.name].tensor_type.name == tensor.type
        assert found[tensor.name].n_bytes == tensor.num_bytes == found[tensor.name].data.nbytes


@each_tiny
def test_every_tensor_is_one_the_architecture_has(shape: Shape) -> None:
    """Against the reference's table of names, so that a misspelt optional tensor is not left out by the engine in silence."""
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == shape.architecture)
    known = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[number]}
    for tensor in describe(shape)[1]:
        stem = tensor.name.removesuffix(".weight").removesuffix(".bias")
        parts = stem.split(".")
        assert (".".join(["blk", "{bid}", *parts[2:]]) if parts[0] == "blk" else stem) in known, tensor.name


def test_kept_heads_are_those_of_layers_with_attention(tmp_path: Path) -> None:
    write_model(named_shape("tiny-jamba"), tmp_path / "model.gguf")
    assert inspect_path(tmp_path / "model.gguf").num_kv_heads == (0, 0, 0, 2)


def test_the_same_seed_makes_the_same_file_and_another_one_another(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, seed in zip(paths, (7, 7, 8), strict=True):
        write_model(LLAMA, path, seed=seed)
    first, same, other = (path.read_bytes() for path in paths)
    assert first == same
    assert len(first) == len(other) and first != other


def test_tensors_of_the_same_shape_differ(tmp_path: Path) -> None:
    write_model(LLAMA, tmp_path / "model.gguf")
    found = {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    # They are cut out of one pool at random places, so that two may now and then be the same.
    assert len({found[f"blk.{layer}.{name}.weight"] for layer in range(4) for name in ("attn_q", "attn_output")}) >= 6


@pytest.mark.parametrize("name", [*TYPES, "MXFP4"])
def test_weights_are_finite_and_spread_like_trained_ones(name: str) -> None:
    tensor = TensorSpec("x.weight", (512, 512), name)
    data = numpy.frombuffer(b"".join(RandomBlocks(3).pieces(tensor)), dtype=numpy.uint8)
    assert data.nbytes == tensor.num_bytes
    values = gguf.dequantize(data.view(numpy.float32) if name == "F32" else data.view(numpy.float16) if name == "F16" else data,
                             gguf.GGMLQuantizationType[name])  # fmt: skip
    assert values.size == 512 * 512 and numpy.isfinite(values).all()
    assert SPREAD / 3 < float(values.std()) < SPREAD * 3
    assert abs(float(values.mean())) < SPREAD / 2


def test_nothing_longer_than_a_pool_is_held() -> None:
    tensor = TensorSpec("x.weight", (4096, 4096), "Q4_K")
    sizes = [len(piece) for piece in RandomBlocks(0).pieces(tensor)]
    assert sum(sizes) == tensor.num_bytes and max(sizes) <= 1 << 20 and len(sizes) > 8


def test_every_text_can_be_written_in_every_vocabulary(tmp_path: Path) -> None:
    for name, size in (("tiny-llama", 259), ("tiny-bert", 512)):
        write_model(replace(named_shape(name), vocabulary_size=size), tmp_path / "model.gguf")
        tokens = gguf.GGUFReader(tmp_path / "model.gguf").fields["tokenizer.ggml.tokens"].contents()
        assert len(tokens) == len(set(tokens)) == size


@pytest.mark.parametrize("shapes", [SMALL, LARGE], ids=["small", "large"])
def test_named_shapes_cover_what_is_to_be_proved(shapes: tuple[Shape, ...]) -> None:
    sizes = [sum(tensor.num_bytes for tensor in describe(shape)[1]) for shape in shapes]
    assert len(shapes) >= 12 and min(sizes) >= 100e6 and max(sizes) <= 8.2e9
    assert any(shape.num_heads == shape.num_kv_heads for shape in shapes)
    assert any(1 < shape.num_kv_heads < shape.num_heads for shape in shapes)
    assert sum(shape.sliding_window is not None for shape in shapes) >= 2
    assert sum(shape.experts is not None for shape in shapes) >= 2
    assert any(shape.latent for shape in shapes) and sum(shape.recurrent is not None for shape in shapes) >= 2
    assert any("bert" in shape.architecture for shape in shapes)


def test_names_are_distinct_and_unknown_ones_refused() -> None:
    names = [shape.name for shape in (*TINY, *SMALL, *LARGE)]
    assert len(set(names)) == len(names)
    with pytest.raises(BadRequest, match="no shape named nonsense") as caught:
        named_shape("nonsense")
    assert "gqa-8b" in str(caught.value.hint_text)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"architecture": "gpt-9"}, "architecture"),
        ({"num_layers": 0}, "num_layers"),
        ({"vocabulary_size": 258}, "vocabulary_size"),
        ({"vocabulary_size": 2**21}, "vocabulary_size"),
        ({"weight_type": "Q9_K"}, "weight_type"),
        ({"weight_type": "IQ1_S"}, "weight_type"),
        ({"embedding_length": 288}, "embedding_length"),
        ({"num_heads": 0}, "num_heads"),
        ({"num_kv_heads": 0}, "num_kv_heads"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"head_length": 31}, "head_length"),
        ({"feed_forward_length": 0}, "feed_forward_length"),
        ({"context_length": 0}, "context_length"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"experts": Experts(4, 5, 512)}, "num_used"),
        ({"experts": Experts(4, 2, 512, num_dense_layers=9)}, "num_dense_layers"),
        ({"experts": Experts(4, 2, 64)}, "experts"),
        ({"architecture": "gemma2"}, "sliding_window"),
        ({"architecture": "qwen3moe"}, "experts"),
        ({"architecture": "mamba"}, "recurrent"),
        ({"architecture": "deepseek2"}, "latent"),
        ({"architecture": "deepseek2", "latent": Latent(64, 96, 32), "head_length": 32}, "head_length"),
        ({"architecture": "deepseek2", "latent": Latent(64, 96, 16), "num_kv_heads": 2}, "num_kv_heads"),
        ({"latent": Latent(64, 96, 16)}, "latent"),
        ({"sliding_window": 128}, "sliding_window"),
        ({"architecture": "qwen2", "experts": Experts(4, 2, 512)}, "experts"),
        ({"value_length": 16}, "value_length"),
        ({"architecture": "bert"}, "num_kv_heads"),
        ({"architecture": "bert", "num_kv_heads": 8, "head_length": 64}, "head_length"),
        ({"architecture": "qwen3next", "recurrent": Recurrent(32, 512, 4, 8, 4, 4), "experts": Experts(8, 2, 64)}, "inner_size"),
        ({"architecture": "jamba", "recurrent": Recurrent(16, 512, 1, 16)}, "conv_kernel"),
        ({"architecture": "granitehybrid", "recurrent": Recurrent(64, 500, 4, 8)}, "inner_size"),
        ({"architecture": "granitehybrid", "recurrent": Recurrent(64, 512, 4, 8, 3)}, "num_groups"),
    ],
)
def test_senseless_shapes_are_refused_before_anything_is_written(changes: dict[str, object], field: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as caught:
        write_model(replace(LLAMA, **changes), tmp_path / "model.gguf")  # type: ignore[arg-type]
    assert caught.value.param == field
    assert caught.value.hint_text and "{" not in str(caught.value) + caught.value.hint_text
    assert not (tmp_path / "model.gguf").exists()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pieces(self: RandomBlocks, tensor: TensorSpec) -> object:
        yield bytes(8)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RandomBlocks, "pieces", pieces)
    with pytest.raises(DiskFull, match="No space left") as caught:
        write_model(LLAMA, tmp_path / "model.gguf")
    assert caught.value.hint_text
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pieces(self: RandomBlocks, tensor: TensorSpec) -> object:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "model.gguf").write_bytes(b"dear to somebody")
    monkeypatch.setattr(RandomBlocks, "pieces", pieces)
    with pytest.raises(StoreError):
        write_model(LLAMA, tmp_path / "model.gguf")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"model.gguf": b"dear to somebody"}


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere") as caught:
        write_model(LLAMA, tmp_path / "nowhere" / "model.gguf")
    assert not isinstance(caught.value, DiskFull)


@given(
    num_layers=st.integers(1, 3),
    width=st.integers(1, 4).map(lambda n: n * 256),
    heads=st.sampled_from([(1, 1), (4, 4), (6, 2), (8, 1)]),
    head_length=st.integers(1, 20).map(lambda n: 2 * n),
    feed_forward_length=st.integers(1, 700),
    vocabulary_size=st.integers(259, 600),
    weight_type=st.sampled_from(TYPES),
    tied=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_any_shape_that_is_taken_is_written_as_it_says(
    num_layers: int,
    width: int,
    heads: tuple[int, int],
    head_length: int,
    feed_forward_length: int,
    vocabulary_size: int,
    weight_type: str,
    tied: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    shape = Shape(
        "x",
        "llama",
        num_layers,
        width,
        feed_forward_length,
        *heads,
        head_length,
        None,
        vocabulary_size,
        64,
        weight_type,
        None,
        tied,
    )
    path = tmp_path_factory.mktemp("any") / "model.gguf"
    weights_bytes = write_model(shape, path)
    info = inspect_path(path)
    assert info.weights_bytes == weights_bytes == sum(tensor.num_bytes for tensor in describe(shape)[1])
    assert info.num_kv_heads == (heads[1],) * num_layers
    assert (info.num_heads, info.vocabulary_size, info.feed_forward_length) == (heads[0], vocabulary_size, feed_forward_length)
    assert path.stat().st_size % gguf_file.ALIGNMENT == 0

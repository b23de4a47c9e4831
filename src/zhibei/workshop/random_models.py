"""Makes valid GGUF files with random weights: models of any shape, for measuring engines. The same seed makes the same file.

    write_model(named_shape("gqa-8b"), Path("model.gguf"))

Such a model loads and generates as a trained one of its shape would, in the same memory and time; what it says is noise.
Gibibytes are written at the speed of the disk: see ``random_blocks``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from zhibei.errors import BadRequest, DiskFull, StoreError
from zhibei.i18n import N_
from zhibei.workshop import decoders, hybrids
from zhibei.workshop.gguf_file import MetadataValue, TensorSpec, write_gguf
from zhibei.workshop.random_blocks import MAKEABLE, RandomBlocks
from zhibei.workshop.shapes import Shape, check
from zhibei.workshop.vocabularies import byte_vocabulary, word_piece_vocabulary

ENCODERS = ("bert", "nomic-bert")
ARCHITECTURES = (*decoders.DECODERS, "deepseek2", *hybrids.MAMBAS, *hybrids.HYBRIDS, *ENCODERS)


# Parts of a shape: which architectures always have them, and which may.
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "latent": (("deepseek2",), ()),
    "recurrent": ((*hybrids.MAMBAS, *hybrids.HYBRIDS), ()),
    "experts": (("qwen3moe", "gpt-oss", "qwen3next"), ("llama", "deepseek2")),
    "sliding_window": (("gemma2", "gemma3", "gpt-oss"), ("phi3",)),
}


def write_model(shape: Shape, path: Path, *, seed: int = 0) -> int:
    """Write a model and return how many bytes its tensors take.

    Raises:
        BadRequest: a shape that makes no sense, or an architecture that is not known.
        DiskFull: no room for it; what was written of it is removed.
        StoreError: the system refuses to write there.
    """
    metadata, tensors = describe(shape)
    try:
        _write_whole(path, metadata, tensors, seed)
    except OSError as error:
        kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else StoreError
        raise kind(
            "The model could not be written to {path}: {problem}",
            hint="Choose a place that can be written to and has room for it.",
            path=path,
            problem=error.strerror or str(error),
        ) from error
    return sum(tensor.num_bytes for tensor in tensors)


def _write_whole(path: Path, metadata: Sequence[tuple[str, MetadataValue]], tensors: Sequence[TensorSpec], seed: int) -> None:
    """What was at the path stays as it is until the new file is whole."""
    part = path.with_name(path.name + ".part")
    try:
        write_gguf(part, metadata, tensors, RandomBlocks(seed).pieces)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def describe(shape: Shape) -> tuple[tuple[tuple[str, MetadataValue], ...], tuple[TensorSpec, ...]]:
    """Metadata and tensors of a model of this shape.

    Raises:
        BadRequest: a shape that makes no sense, or an architecture that is not known.
    """
    check(shape)
    _check_parts(shape)
    vocabulary = byte_vocabulary(shape.vocabulary_size)
    metadata: Iterable[tuple[str, MetadataValue]]
    if shape.architecture in decoders.DECODERS:
        metadata, tensors = decoders.decoder_metadata(shape), decoders.decoder_tensors(shape)
    elif shape.architecture == "deepseek2":
        metadata, tensors = decoders.latent_metadata(shape), decoders.latent_tensors(shape)
    elif shape.architecture in ENCODERS:
        metadata, tensors = decoders.encoder_metadata(shape), decoders.encoder_tensors(shape)
        vocabulary = word_piece_vocabulary(shape.vocabulary_size)
    else:
        metadata, tensors = hybrids.hybrid_metadata(shape), hybrids.hybrid_tensors(shape)
    return (*metadata, *vocabulary), tuple(tensors)


def _check_parts(shape: Shape) -> None:
    name = shape.architecture
    if name not in ARCHITECTURES:
        raise BadRequest(
            "Random models of architecture {name} cannot be made.",
            hint="Choose one of {known}.",
            param="architecture",
            name=name,
            known=", ".join(ARCHITECTURES),
        )
    for field, (always, sometimes) in PARTS.items():
        has = getattr(shape, field) is not None
        if has and name not in always + sometimes:
            raise BadRequest(
                "{name} models have no {field}, and this shape has.",
                hint="Leave it out, or choose another architecture.",
                param=field,
                name=name,
                field=field,
            )
        if name in always and not has:
            raise BadRequest(
                "{name} models have {field}, and this shape has none.",
                hint="Give it, or start from one of the named shapes.",
                param=field,
                name=name,
                field=field,
            )
    for field, holds, rule in _rules(shape):
        if not holds:
            raise BadRequest(
                "{field} does not suit a {name} model: {rule}.",
                hint="Change it, or start from one of the named shapes.",
                param=field,
                name=name,
                field=field,
                rule=rule,
            )


def _rules(shape: Shape) -> Iterator[tuple[str, bool, str]]:
    """(field, whether it is kept, rule) of what an architecture's own tensors demand."""
    name, experts, latent, recurrent = shape.architecture, shape.experts, shape.latent, shape.recurrent
    for field in ("weight_type", "embedding_type"):
        kind = getattr(shape, field)
        yield field, kind is None or kind in MAKEABLE, N_("random weights of this type cannot be made")
    if name not in hybrids.MAMBAS:
        yield "num_heads", shape.num_heads > 0, N_("it must have attention heads")
        yield "feed_forward_length", shape.feed_forward_length > 0, N_("it must be at least 1")
    if name == "llama" and experts is not None:
        equal = experts.feed_forward_length == shape.feed_forward_length
        yield "experts", equal, N_("experts are as long as the feed-forward layer")
    if name in ENCODERS:
        yield "num_kv_heads", shape.num_kv_heads == shape.num_heads, N_("every head has its own keys")
        yield "head_length", shape.num_heads * shape.head_length == shape.embedding_length, N_("heads must fill the width")
    if latent is None:
        equal = shape.value_length in (None, shape.head_length)
        yield "value_length", equal, N_("values are as long as keys")
    else:
        yield "head_length", shape.head_length > latent.rope_length, N_("it must be longer than its rotated part")
        yield "num_kv_heads", shape.num_kv_heads == 1, N_("one latent vector is kept, so it must be 1")
    if recurrent is not None and name in ("mamba2", "granitehybrid", "falcon-h1"):
        yield (
            "inner_size",
            recurrent.num_heads > 0 and recurrent.inner_size % recurrent.num_heads == 0,
            N_("heads must divide it"),
        )
    if recurrent is not None and name == "qwen3next":
        yield "inner_size", recurrent.inner_size == recurrent.state_size * recurrent.num_heads, N_("it must be heads times state")

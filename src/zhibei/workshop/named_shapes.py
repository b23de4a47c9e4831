"""Shapes with names: one small enough for a test of each architecture, and those the memory bill is proved with. Data only."""

from __future__ import annotations

from dataclasses import replace

from zhibei.errors import BadRequest
from zhibei.workshop.shapes import Experts, Latent, Recurrent, Shape

_TINY = Shape("", "", 4, 256, 512, 8, 2, 32)
_BERT = Shape("", "", 4, 256, 512, 8, 8, 32, context_length=512)
_MAMBA = Shape("", "", 4, 256, 0)


def _like(base: Shape, name: str, architecture: str, **changes: object) -> Shape:
    return replace(base, name=name, architecture=architecture, **changes)  # type: ignore[arg-type]


TINY = (
    _like(_TINY, "tiny-llama", "llama", weight_type="Q4_K"),
    _like(_TINY, "tiny-mixtral", "llama", experts=Experts(4, 2, 512), weight_type="Q4_0"),
    _like(_TINY, "tiny-qwen2", "qwen2", weight_type="Q8_0"),
    _like(_TINY, "tiny-qwen3", "qwen3", weight_type="Q6_K"),
    _like(_TINY, "tiny-qwen3moe", "qwen3moe", experts=Experts(8, 2, 64)),
    _like(_TINY, "tiny-gemma2", "gemma2", sliding_window=128),
    _like(_TINY, "tiny-gemma3", "gemma3", sliding_window=128, num_layers=8),
    _like(_TINY, "tiny-phi3", "phi3", sliding_window=128, weight_type="Q5_K"),
    _like(_TINY, "tiny-command-r", "command-r", weight_type="Q5_0"),
    _like(
        _TINY,
        "tiny-gpt-oss",
        "gpt-oss",
        sliding_window=128,
        experts=Experts(8, 2, 256),
        weight_type="MXFP4",
        embedding_type="Q8_0",
    ),
    _like(
        _TINY,
        "tiny-deepseek2",
        "deepseek2",
        num_kv_heads=1,
        head_length=64,
        value_length=32,
        latent=Latent(64, 96, 32),
        experts=Experts(8, 2, 64, 1, 1),
    ),
    _like(_MAMBA, "tiny-mamba", "mamba", recurrent=Recurrent(16, 512, 4, 16)),
    _like(_MAMBA, "tiny-mamba2", "mamba2", recurrent=Recurrent(64, 512, 4, 8)),
    _like(_TINY, "tiny-jamba", "jamba", recurrent=Recurrent(16, 512, 4, 16, 1, 4)),
    _like(_TINY, "tiny-granite-hybrid", "granitehybrid", recurrent=Recurrent(64, 512, 4, 8, 1, 4)),
    _like(_TINY, "tiny-falcon-h1", "falcon-h1", recurrent=Recurrent(64, 512, 4, 8, 1, 1)),
    _like(_TINY, "tiny-lfm2", "lfm2", tied=True, recurrent=Recurrent(conv_kernel=3, attention_every=3)),
    _like(_TINY, "tiny-qwen3next", "qwen3next", recurrent=Recurrent(32, 256, 4, 8, 4, 4), experts=Experts(8, 2, 64, 1)),
    _like(_BERT, "tiny-bert", "bert"),
    _like(_BERT, "tiny-nomic-bert", "nomic-bert"),
)

# Widths and ratios of published models, fewer layers: big enough to be measured, small enough to be made in a second.
SMALL = (
    Shape("mha", "llama", 8, 1024, 2816, 16, 16, 64, vocabulary_size=32000, weight_type="Q8_0"),
    Shape("gqa", "llama", 6, 2048, 5632, 32, 4, 64, vocabulary_size=32000, weight_type="Q4_K", embedding_type="Q6_K"),
    Shape("mqa", "llama", 8, 1536, 6144, 16, 1, 96, vocabulary_size=49152, weight_type="Q4_0", tied=True),
    Shape(
        "qwen2", "qwen2", 10, 896, 4864, 14, 2, 64, vocabulary_size=151936, weight_type="F16", tied=True, embedding_type="Q8_0"
    ),
    Shape("qwen3", "qwen3", 6, 1024, 3072, 16, 8, 128, vocabulary_size=151936, weight_type="Q6_K", tied=True),
    Shape("gemma2", "gemma2", 6, 1152, 4608, 8, 4, 256, vocabulary_size=65536, weight_type="Q8_0", sliding_window=4096),
    Shape("gemma3", "gemma3", 12, 640, 2048, 4, 1, 256, vocabulary_size=131072, weight_type="Q8_0", sliding_window=512),
    Shape("phi3", "phi3", 6, 1536, 4096, 16, 16, 96, vocabulary_size=32064, weight_type="Q4_K", sliding_window=2047),
    Shape("command-r", "command-r", 4, 2048, 5632, 16, 16, 128, vocabulary_size=65536, weight_type="Q4_K", embedding_type="Q6_K"),
    Shape("mixtral", "llama", 4, 1024, 1792, 16, 4, 64, vocabulary_size=32000, weight_type="Q4_K", experts=Experts(8, 2, 1792)),
    Shape(
        "qwen3moe", "qwen3moe", 6, 1024, 3072, 16, 4, 128, vocabulary_size=32000, weight_type="Q4_K", experts=Experts(32, 8, 256)
    ),
    Shape(
        "gpt-oss",
        "gpt-oss",
        6,
        1440,
        1440,
        32,
        4,
        64,
        vocabulary_size=65536,
        weight_type="MXFP4",
        embedding_type="Q8_0",
        sliding_window=128,
        experts=Experts(8, 4, 1440),
    ),
    Shape(
        "deepseek2",
        "deepseek2",
        6,
        1024,
        4096,
        16,
        1,
        192,
        128,
        vocabulary_size=32000,
        weight_type="Q8_0",
        latent=Latent(512, 768, 64),
        experts=Experts(16, 4, 512, 1, 1),
    ),
    Shape("mamba", "mamba", 12, 1024, 0, vocabulary_size=32000, weight_type="F16", recurrent=Recurrent(16, 2048, 4, 64)),
    Shape("mamba2", "mamba2", 10, 1024, 0, vocabulary_size=32000, weight_type="Q8_0", recurrent=Recurrent(128, 2048, 4, 32)),
    Shape(
        "jamba",
        "jamba",
        8,
        1024,
        2816,
        16,
        4,
        64,
        vocabulary_size=32000,
        weight_type="Q8_0",
        recurrent=Recurrent(16, 2048, 4, 64, 1, 8),
    ),
    Shape(
        "granite-hybrid",
        "granitehybrid",
        10,
        1024,
        2048,
        16,
        4,
        64,
        vocabulary_size=49152,
        weight_type="Q8_0",
        tied=True,
        recurrent=Recurrent(128, 2048, 4, 32, 1, 5),
    ),
    Shape(
        "falcon-h1",
        "falcon-h1",
        8,
        1024,
        2048,
        8,
        2,
        128,
        vocabulary_size=32768,
        weight_type="Q8_0",
        recurrent=Recurrent(128, 1536, 4, 24, 1, 1),
    ),
    Shape(
        "lfm2",
        "lfm2",
        9,
        1024,
        4608,
        16,
        8,
        64,
        vocabulary_size=65536,
        weight_type="Q4_K",
        embedding_type="Q6_K",
        tied=True,
        recurrent=Recurrent(conv_kernel=3, attention_every=3),
    ),
    Shape(
        "qwen3next",
        "qwen3next",
        8,
        1024,
        2048,
        8,
        2,
        256,
        vocabulary_size=32000,
        weight_type="Q4_K",
        recurrent=Recurrent(128, 2048, 4, 16, 8, 4),
        experts=Experts(32, 8, 256, 1),
    ),
    Shape("bert", "bert", 12, 768, 3072, 12, 12, 64, vocabulary_size=30522, context_length=512),
    Shape("nomic-bert", "nomic-bert", 12, 768, 3072, 12, 12, 64, vocabulary_size=30522, context_length=2048),
)

LARGE = (
    Shape("mha-0.7b", "llama", 24, 1536, 4096, 16, 16, 96, vocabulary_size=32000, weight_type="Q8_0"),
    Shape("gqa-8b", "llama", 32, 4096, 14336, 32, 8, 128, vocabulary_size=128256, weight_type="Q4_K", embedding_type="Q6_K"),
    Shape("gqa-8b-q8", "llama", 30, 4096, 14336, 32, 8, 128, vocabulary_size=128256, weight_type="Q8_0"),
    Shape(
        "qwen2-3b",
        "qwen2",
        36,
        2048,
        11008,
        16,
        2,
        128,
        vocabulary_size=151936,
        weight_type="Q4_K",
        embedding_type="Q6_K",
        tied=True,
    ),
    Shape("qwen3-4b", "qwen3", 36, 2560, 9728, 32, 8, 128, vocabulary_size=151936, weight_type="Q6_K", tied=True),
    Shape(
        "gemma3-4b",
        "gemma3",
        34,
        2560,
        10240,
        8,
        4,
        256,
        vocabulary_size=262144,
        weight_type="Q4_0",
        sliding_window=1024,
        embedding_type="Q6_K",
    ),
    Shape(
        "gemma2-2b",
        "gemma2",
        26,
        2304,
        9216,
        8,
        4,
        256,
        vocabulary_size=256000,
        weight_type="Q4_K",
        sliding_window=4096,
        embedding_type="Q6_K",
    ),
    Shape("phi3-mini", "phi3", 32, 3072, 8192, 32, 32, 96, vocabulary_size=32064, weight_type="Q4_K", sliding_window=2047),
    Shape(
        "qwen3moe-8b",
        "qwen3moe",
        24,
        2048,
        6144,
        32,
        4,
        128,
        vocabulary_size=151936,
        weight_type="Q4_K",
        embedding_type="Q6_K",
        experts=Experts(64, 8, 768),
    ),
    Shape(
        "deepseek2-4b",
        "deepseek2",
        16,
        2048,
        10944,
        16,
        1,
        192,
        128,
        vocabulary_size=102400,
        weight_type="Q4_0",
        embedding_type="Q6_K",
        latent=Latent(512, 1536, 64),
        experts=Experts(32, 6, 1408, 2, 1),
    ),
    Shape("mamba2-1b", "mamba2", 48, 2048, 0, vocabulary_size=50288, weight_type="F16", recurrent=Recurrent(128, 4096, 4, 64)),
    Shape(
        "granite-hybrid-3b",
        "granitehybrid",
        40,
        2048,
        8192,
        32,
        8,
        64,
        vocabulary_size=100352,
        weight_type="Q4_K",
        embedding_type="Q6_K",
        tied=True,
        recurrent=Recurrent(128, 4096, 4, 64, 1, 10),
    ),
    Shape(
        "qwen3next-8b",
        "qwen3next",
        16,
        2048,
        5120,
        16,
        2,
        256,
        vocabulary_size=151936,
        weight_type="Q4_K",
        embedding_type="Q6_K",
        recurrent=Recurrent(128, 4096, 4, 32, 16, 4),
        experts=Experts(64, 10, 512, 1),
    ),
    Shape("bert-large", "bert", 24, 1024, 4096, 16, 16, 64, vocabulary_size=30522, context_length=512),
)


def named_shape(name: str) -> Shape:
    """The shape of a name.

    Raises:
        BadRequest: there is none.
    """
    for shape in (*TINY, *SMALL, *LARGE):
        if shape.name == name:
            return shape
    known = ", ".join(shape.name for shape in (*TINY, *SMALL, *LARGE))
    raise BadRequest("There is no shape named {name}.", hint="Known are {known}.", param="name", name=name, known=known)

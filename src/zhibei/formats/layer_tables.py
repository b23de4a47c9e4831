"""What the architectures known to llama.cpp do in their layers, where a GGUF file does not say it itself. Data only.

Source: ``load_arch_hparams`` in src/models/*.cpp, ``create_memory`` in src/llama-model.cpp, ``llm_arch_is_recurrent`` and
``llm_arch_is_hybrid`` in src/llama-arch.cpp of the llama.cpp inside xllamacpp 2026.10.11549.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Windows:
    """Which layers look only at the last tokens: of each ``period`` all but one, the last or (``dense_first``) the first.

    ``default``: the window where the file names none; ``forced``: the window whatever it names. ``num_layers``: only models
    with that many layers do so.
    """

    period: int
    dense_first: bool = False
    default: int = 0
    forced: int = 0
    is_chunked: bool = False
    num_layers: int | None = None


# ``load_swa_pattern``: a pattern in the file, an array or a period, counts instead of this period.
WINDOWS = {
    "afmoe": Windows(4),
    "cohere2": Windows(4),
    "cohere2moe": Windows(4, dense_first=True),
    "exaone-moe": Windows(4, default=128),
    "exaone4": Windows(4, default=4096, num_layers=64),
    "gemma2": Windows(2, default=4096),
    "gemma3": Windows(6),
    "gemma3n": Windows(5),
    "gpt-oss": Windows(2),
    "laguna": Windows(4, dense_first=True),
    "llama4": Windows(4, default=8192, forced=8192, is_chunked=True),
    "mellum": Windows(4),
    "muse-glimmer": Windows(4),
    "olmo2": Windows(4),
    "plamo3": Windows(8),
    "smallthinker": Windows(4, dense_first=True, forced=4096),
    # These say it for every layer; the period stands for files that do not.
    "dflash": Windows(1),
    "dots3note": Windows(1),
    "gemma4": Windows(6),
    "gemma4-assistant": Windows(6),
    "granite_swa": Windows(4),
    "maple": Windows(2),
    "mimo2": Windows(6),
    "spark2_5": Windows(4),
    "step35": Windows(4),
    # Every layer that attends at all.
    "deepseek4": Windows(0),
    "lfm2": Windows(0),
    "lfm2moe": Windows(0),
}

RECURRENT = frozenset(("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"))
# A layer without heads for keys and values is a recurrent one.
RECURRENT_WITHOUT_HEADS = frozenset(
    "jamba plamo2 granitehybrid lfm2 lfm2moe kimi-linear kimi-k3 bailingmoe3 glm5-next nemotron_h nemotron_h_moe".split()
)
# The same, but a layer with a feed-forward part has neither state nor keys.
ONE_PART_LAYERS = frozenset(("nemotron_h", "nemotron_h_moe"))
# Recurrent but for one layer of so many, where the file does not list them.
RECURRENT_INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
BOTH_IN_EVERY_LAYER = frozenset(("falcon-h1",))

# Whole inputs in one batch: nothing is kept between batches.
WITHOUT_CACHE = frozenset(
    """
    bert jina-bert-v2 jina-bert-v3 nomic-bert nomic-bert-moe neo-bert eurobert wavtokenizer-dec modern-bert gemma-embedding
    gemma-embedding2 dream llada llada-moe rnd1 clef
    """.split()
)

# Layers from this one on read the keys and values of earlier ones (the file's key is not read).
SHARED_FROM = {"gemma3n": 20}
# Keys alone, those of the window and, in layers of certain ratios, one for several tokens (``llama_kv_cache_dsv4``).
COMPRESSING = {"deepseek4": (4, 128)}
# A second cache of one head per token, by which the tokens to be attended to are chosen.
INDEXED = frozenset(("deepseek32", "glm-dsa", "hy_v4", "dots3note", "glm5-next", "qwen4exp", "minimax-m3"))
# The linear attention of these keeps a square of the usual head length per head.
LINEAR_ATTENTION = frozenset(("minimax-01",))

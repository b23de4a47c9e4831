"""Which GGUF models llama.cpp can load: its architectures, and the layouts under their names that it cannot read. Pure.

The names are those of ``LLM_ARCH_NAMES`` in src/llama-arch.cpp of the llama.cpp inside xllamacpp 2026.10.11549, without
``clip`` (projectors). A test compares them with the library that is installed.

Ollama's own converter writes some models in layouts of its own, under the same names: the picture encoder in the same file,
other keys, other tensors. llama.cpp refuses a file with a tensor it does not know, or without a key it needs.
Source: ``done_getting_tensors`` in src/llama-model-loader.cpp, src/models/gemma3.cpp, and Ollama's llama/compat/README.md.
"""

from __future__ import annotations

from typing import Literal

from zhibei.formats.gguf_header import GgufHeader

Loadable = Literal["yes", "no", "unsure"]

LLAMA_CPP_ARCHITECTURES = frozenset(
    """
    afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bert bitnet bloom chameleon chatglm clef
    codeshell cogvlm cohere2 cohere2moe command-r dbrx deci deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 dflash
    dots1 dots3note dream eagle3 ernie4_5 ernie4_5-moe eurobert exaone exaone-moe exaone4 falcon falcon-h1 gemma
    gemma-embedding gemma-embedding2 gemma2 gemma3 gemma3n gemma4 gemma4-assistant glm-dsa glm4 glm4moe glm5-next gpt-oss
    gpt2 gptj gptneox granite granite_swa granitehybrid granitemoe graniteswitch grok grovemoe hrm_text hunyuan-dense
    hunyuan-moe hunyuan_vl hy_v3 hy_v4 internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3 k2-horizon kimi-k3 kimi-linear
    laguna lfm2 lfm2moe llada llada-moe llama llama-embed llama4 maincoder mamba mamba2 maple mellum mimo2 minicpm
    minicpm3 minimax-01 minimax-m2 minimax-m3 mistral3 mistral4 modern-bert mpt muse-glimmer nanbeige nemotron nemotron_h
    nemotron_h_moe neo-bert nomic-bert nomic-bert-moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3
    phimoe plamo plamo2 plamo3 plm pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next
    qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 rwkv6 rwkv6qwen2 rwkv7 seed_oss smallthinker smollm3 spark2_5
    stablelm starcoder starcoder2 step35 t5 t5encoder talkie wavtokenizer-dec xverse
    """.split()
)

# Parts of a picture or sound encoder; in a text model's file they are more tensors than llama.cpp asks for.
_ENCODER_TENSORS = ("v.", "mm.", "a.")
# Ollama's converter writes these differently at times, in ways that names of keys and tensors do not show for certain.
_UNSURE = frozenset(("gemma4", "laguna", "lfm2", "lfm2moe", "mistral3", "nemotron_h_moe", "qwen35", "qwen35moe", "qwen3next"))


def loadable(header: GgufHeader) -> Loadable:
    """Whether llama.cpp can load a model, as far as its (first) header shows."""
    metadata = header.metadata
    architecture = metadata.get("general.architecture")
    if architecture not in LLAMA_CPP_ARCHITECTURES:
        return "no"
    if any(tensor.name.startswith(_ENCODER_TENSORS) for tensor in header.tensors):
        return "no"
    if architecture == "gemma3" and "gemma3.attention.layer_norm_rms_epsilon" not in metadata:
        return "no"
    if architecture == "gemma3n" and _num_rows(header, "token_embd.weight") != _num_rows(header, "per_layer_token_embd.weight"):
        return "no"
    # llama.cpp's converter always says what type of file it writes, Ollama's never does.
    return "unsure" if architecture in _UNSURE and "general.type" not in metadata else "yes"


def _num_rows(header: GgufHeader, name: str) -> int | None:
    return next((tensor.dims[-1] for tensor in header.tensors if tensor.name == name), None)

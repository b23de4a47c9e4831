"""What is read from good GGUF headers: every field, defaults, large vocabularies, and agreement with the official library."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import gguf
import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.gguf_attacks import CountingReader
from support.gguf_writer import (
    GgufFile,
    Tensor,
    Value,
    array,
    array_head,
    boolean,
    f32,
    length_prefixed,
    text,
    texts,
    tiny_model,
    u8,
    u32,
    u64,
)
from zhibei.errors import ModelFileError
from zhibei.formats.ggml_types import FILE_TYPES, TENSOR_TYPES
from zhibei.formats.gguf import GgufHeader, Omitted, describe, parse, read_header
from zhibei.models import Layer, ModelInfo


def info_of(file: GgufFile) -> ModelInfo:
    data = file.build()
    return read_header(CountingReader(data, len(data)), size_bytes=len(data))


def header_of(file: GgufFile) -> GgufHeader:
    data = file.build()
    return parse(CountingReader(data, len(data)), len(data))


def test_every_fact_of_a_small_model() -> None:
    assert info_of(tiny_model()) == ModelInfo(
        format="gguf",
        architecture="llama",
        name="tiny",
        num_parameters=32 * 4 + 2 * 32 * 32 + 32,
        weights_bytes=72 + 2 * 576 + 128,
        tensor_types=(("Q4_0", 3, 72 + 2 * 576), ("F32", 1, 128)),
        quantisation="Q4_0",
        context_length=128,
        embedding_length=32,
        feed_forward_length=64,
        vocabulary_size=4,
        num_layers=2,
        num_heads=4,
        num_kv_heads=(2, 2),
        key_length=8,
        value_length=8,
        rope_freq_base=10000.0,
        tokenizer="gpt2",
        chat_template="{{ messages[0].content }}",
        licence="apache-2.0",
        layers=(
            Layer(
                "attention",
                2,
                num_heads=4,
                num_kv_heads=2,
                key_length=8,
                value_length=8,
                feed_forward_length=64,
                dense_bytes=576,
            ),
        ),
        embedding_bytes=72,
        lookup_bytes=0,
        output_bytes=0,
        other_bytes=128,
    )


def test_absent_facts_are_none() -> None:
    info = info_of(GgufFile(metadata=(("general.architecture", text("llama")),), tensors=(Tensor("a", (8,)),)))
    known = {"format", "architecture", "num_parameters", "weights_bytes", "tensor_types", "quantisation"}
    assert (info.embedding_bytes, info.lookup_bytes, info.output_bytes, info.other_bytes) == (0, 0, 0, 32)
    known |= {"embedding_bytes", "lookup_bytes", "output_bytes", "other_bytes"}
    absent = {key: value for key, value in asdict(info).items() if key not in known}
    assert set(absent.values()) == {None, ()}
    assert info.quantisation == "F32"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"general.file_type": u32(15)}, {"quantisation": "Q4_K_M"}),
        ({"general.file_type": u32(15 + 1024)}, {"quantisation": "Q4_K_M"}),
        ({"general.file_type": u32(900)}, {"quantisation": "Q4_0"}),
        ({"general.file_type": None}, {"quantisation": "Q4_0"}),
        ({"llama.attention.head_count_kv": None}, {"num_kv_heads": (4, 4)}),
        ({"llama.attention.head_count_kv": array(4, 2, 0)}, {"num_kv_heads": (2, 0)}),
        ({"llama.attention.head_count": array(4, 0, 4)}, {"num_heads": 4, "num_kv_heads": (2, 2)}),
        ({"llama.attention.head_count_kv": None, "llama.attention.head_count": array(5, 0, 4)}, {"num_kv_heads": (0, 4)}),
        ({"llama.block_count": None}, {"num_layers": None, "num_kv_heads": ()}),
        ({"llama.full_attention_interval": u32(2)}, {"num_kv_heads": (0, 2)}),
        ({"llama.attention.recurrent_layers": array(7, 0, 1)}, {"num_kv_heads": (2, 0)}),
        ({"llama.attention.recurrent_layers": array(4, 1, 0)}, {"num_kv_heads": (0, 2)}),
        (
            {"llama.attention.key_length": u32(16), "llama.attention.value_length": u32(12)},
            {"key_length": 16, "value_length": 12},
        ),
        ({"llama.embedding_length": None}, {"key_length": None, "value_length": None}),
        ({"llama.feed_forward_length": array(4, 64, 128)}, {"feed_forward_length": 128}),
        ({"llama.feed_forward_length": u32(0)}, {"feed_forward_length": None}),
        ({"llama.context_length": u64(10485760)}, {"context_length": 10485760}),
        ({"llama.rope.scaling.type": text("yarn"), "llama.rope.scaling.factor": f32(4)}, {"rope_scaling": "yarn"}),
        ({"llama.rope.scaling.type": text("none")}, {"rope_scaling": None}),
        ({"llama.rope.scaling.factor": f32(4)}, {"rope_scaling": "linear"}),
        ({"llama.rope.scaling.factor": f32(0)}, {"rope_scaling": None}),
        ({"llama.rope.scale_linear": f32(2)}, {"rope_scaling": "linear"}),
        ({"llama.attention.sliding_window": u32(4096)}, {"sliding_window": 4096}),
        ({"llama.attention.sliding_window": u32(0)}, {"sliding_window": None}),
        ({"llama.expert_count": u32(8), "llama.expert_used_count": u32(2)}, {"num_experts": 8, "num_experts_used": 2}),
        ({"llama.expert_count": u32(8), "llama.expert_used_count": array(4, 0, 3)}, {"num_experts_used": 3}),
        ({"llama.expert_count": u32(0), "llama.expert_used_count": u32(0)}, {"num_experts": None, "num_experts_used": None}),
        ({"llama.pooling_type": u32(0)}, {"pooling": "none"}),
        ({"llama.pooling_type": u32(1)}, {"pooling": "mean"}),
        ({"llama.pooling_type": u32(2)}, {"pooling": "cls"}),
        ({"llama.pooling_type": u32(3)}, {"pooling": "last"}),
        ({"llama.pooling_type": u32(4)}, {"pooling": "rank"}),
        ({"llama.attention.causal": boolean(0)}, {"is_causal": False}),
        ({"llama.attention.causal": boolean(1)}, {"is_causal": True}),
        ({"general.license": text("other"), "general.license.name": text("tongyi-qianwen")}, {"licence": "tongyi-qianwen"}),
        ({"general.license": None, "general.license.name": text("mine")}, {"licence": "mine"}),
        ({"general.license": text("")}, {"licence": None}),
        ({"general.name": text("通义千问 " + "x" * 300)}, {"name": "通义千问 " + "x" * 195 + "…"}),
        ({"general.name": text("\x1b[2Jred\n")}, {"name": "\N{REPLACEMENT CHARACTER}[2Jred"}),
        ({"tokenizer.ggml.tokens": None, "llama.vocab_size": u32(77)}, {"vocabulary_size": 77}),
        ({"tokenizer.ggml.tokens": None}, {"vocabulary_size": 4}),
        ({"general.alignment": u32(32)}, {"warnings": ()}),
    ],
)
def test_fact(changes: dict[str, Value | None], expected: dict[str, object]) -> None:
    info = info_of(tiny_model(**changes))
    assert {key: getattr(info, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"llama.pooling_type": u32(9)}, "Pooling type 9 is not known."),
        ({"tokenizer.ggml.padding_token_id": u32(4)}, "tokenizer.ggml.padding_token_id 4 is not in the vocabulary."),
        ({"general.type": text("adapter")}, "The file holds a part of a model (adapter), not a whole one."),
        ({"general.name": text(b"\xd6\xb8\xb1\xb1")}, "general.name is not valid UTF-8."),
        ({"split.count": u32(3), "split.no": u32(0)}, "Only 1 of 3 files were read."),
    ],
)
def test_warning(changes: dict[str, Value | None], warning: str) -> None:
    assert info_of(tiny_model(**changes)).warnings == (warning,)


def test_no_weights_is_a_warning() -> None:
    assert info_of(tiny_model().with_tensors()).warnings == ("The file holds no weights.",)


def test_tensors_out_of_order_are_a_warning() -> None:
    file = GgufFile(metadata=(("general.architecture", text("llama")),))
    swapped = file.with_tensors(Tensor("a", (8,), offset=32), Tensor("b", (8,), offset=0), data_bytes=64)
    assert info_of(swapped).warnings == ("The tensors do not lie one after the other; llama.cpp refuses such files.",)


@pytest.mark.parametrize("key", ["ssm.state_size", "wkv.head_size"])
def test_a_model_without_attention_may_have_no_heads(key: str) -> None:
    changes = {"llama.attention.head_count": u32(0), "llama.attention.head_count_kv": None, f"llama.{key}": u32(16)}
    info = info_of(tiny_model(**changes))
    assert (info.num_heads, info.num_kv_heads, info.key_length) == (None, (0, 0), None)


def test_alignment_moves_the_data() -> None:
    model = tiny_model(**{"general.alignment": u32(4096)})
    header = header_of(replace(model, alignment=4096))
    assert (header.alignment, header.data_offset % 4096) == (4096, 0)
    assert [tensor.offset for tensor in header.tensors] == [0, 4096, 8192, 12288]


def test_version_2_reads_the_same() -> None:
    assert info_of(replace(tiny_model(), version=b"\2\0\0\0")) == info_of(tiny_model())


def test_entries_span_the_bytes_of_a_value() -> None:
    value = array(6, *range(5000))
    file = tiny_model(**{"zz.scores": value, "zz.text": text("x" * 2**20 + "y"), "zz.one": u8(7)})
    data, header = file.build(), header_of(file)
    assert header.metadata["zz.scores"] == Omitted("[f32]", 5000)
    assert header.metadata["zz.text"] == Omitted("text", 2**20 + 1)
    assert header.metadata["zz.one"] == 7
    for key, written in dict(file.metadata).items():
        entry = header.entries[str(key)]
        assert data[entry.start : entry.end] == written.encoded()
    assert (header.entries["zz.scores"].type_name, header.entries["zz.one"].type_name) == ("[f32]", "u8")
    assert header.entries["tokenizer.ggml.tokens"].type_name == "[text]"


def test_header_cannot_be_changed() -> None:
    header = header_of(tiny_model())
    with pytest.raises(TypeError):
        header.metadata["general.name"] = "other"  # type: ignore[index]


@pytest.mark.parametrize("extra", range(0, 70000, 6997))
def test_large_vocabulary_wherever_the_reads_end(extra: int) -> None:
    """The strings cross the borders of the reads at other places each time."""
    tokens = [b"t" * (number % 37) for number in range(40000)]
    file = tiny_model(**{"aa.padding": text("p" * extra)})
    metadata = dict(file.metadata) | {"tokenizer.ggml.tokens": texts(*tokens), "zz.last": u32(5)}
    tensors = (Tensor("token_embd.weight", (32, 40000), "Q4_0"),)
    data = replace(file, metadata=tuple(metadata.items())).with_tensors(*tensors).build()
    reader = CountingReader(data, len(data))
    header = parse(reader, len(data))
    assert header.metadata["tokenizer.ggml.tokens"] == Omitted("[text]", 40000)
    assert header.metadata["zz.last"] == 5
    assert describe([header]).vocabulary_size == 40000
    assert reader.num_calls <= 6


def test_vocabulary_of_256k_takes_few_small_reads() -> None:
    tokens = texts(*(b"token%d" % number for number in range(262144)))
    file = tiny_model(**{"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": tokens})
    data = file.with_tensors(Tensor("token_embd.weight", (32, 262144), "Q4_0"), data_bytes=0).build()
    size = len(data) + 262144 * 18
    reader = CountingReader(data, size)
    assert read_header(reader, size_bytes=size).vocabulary_size == 262144
    assert reader.num_calls <= 16 and reader.largest <= 2**20


def test_long_strings_and_arrays_are_stepped_over() -> None:
    """A tokenizer.json of 30 MB in one value costs no reading."""
    head = tiny_model(**{"aa.json": Value(8, (30_000_000).to_bytes(8, "little"))})
    raw = head.build()
    cut = raw.index(b"aa.json") + 7 + 12
    data = raw[:cut] + bytes(30_000_000) + raw[cut:]
    reader = CountingReader(data, len(data))
    header = parse(reader, len(data))
    assert header.metadata["aa.json"] == Omitted("text", 30_000_000)
    assert reader.num_bytes < 300_000


def test_array_of_many_long_strings_is_stepped_over() -> None:
    long = length_prefixed(b"x" * 100_000)
    file = tiny_model(**{"aa.texts": array_head(8, 1500, long * 20 + bytes(8) * 1480)})
    assert header_of(file).metadata["aa.texts"] == Omitted("[text]", 1500)


def test_few_but_huge_strings_are_omitted() -> None:
    assert header_of(tiny_model(**{"aa.texts": texts("a", b"x" * (2**20 + 1))})).metadata["aa.texts"] == Omitted("[text]", 2)


# Against the official library


@pytest.mark.parametrize("number", sorted(TENSOR_TYPES))
def test_block_sizes_are_the_official_ones(number: int) -> None:
    kind = TENSOR_TYPES[number]
    names = {member.value: member for member in gguf.GGMLQuantizationType}
    if number not in names:
        assert kind.name in ("NVFP4", "Q1_0", "Q2_0")  # newer than the oldest library the tests accept
        return
    if kind.name == "Q8_1":  # the library said 40 until 2026; the block in ggml-common.h has two halves and 32 bytes
        assert kind.block_bytes == 2 + 2 + 32
        return
    assert (kind.name, (kind.block_size, kind.block_bytes)) == (names[number].name, gguf.GGML_QUANT_SIZES[names[number]])


def test_file_types_are_the_official_ones() -> None:
    official = {member.value: member.name.removeprefix("MOSTLY_").removeprefix("ALL_") for member in gguf.LlamaFileType}
    shared = set(official) & set(FILE_TYPES)
    assert {number: FILE_TYPES[number] for number in shared} == {number: official[number] for number in shared}
    assert set(official) - set(FILE_TYPES) <= {1024}


def write_official(path: Path) -> None:
    """A model with every kind of value, written by the official library."""
    writer = gguf.GGUFWriter(path, "qwen2moe")
    writer.add_name("官方")
    writer.add_block_count(3)
    writer.add_context_length(32768)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length([512, 256, 128])
    writer.add_head_count(8)
    writer.add_head_count_kv([8, 0, 2])
    writer.add_key_length(40)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_expert_count(60)
    writer.add_expert_used_count(4)
    writer.add_pooling_type(gguf.PoolingType.CLS)
    writer.add_causal_attention(False)
    writer.add_sliding_window(1024)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_license("mit")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{number}".encode() for number in range(1500)])
    writer.add_token_scores([0.5] * 1500)
    writer.add_token_types([1] * 1500)
    writer.add_bos_token_id(1)
    writer.add_chat_template("{{ x }}")
    writer.add_uint64("zz.u64", 2**63 + 1)
    writer.add_int8("zz.i8", -5)
    writer.add_float64("zz.f64", math.pi)
    writer.add_array("zz.strings", ["a", "β", ""])
    random = numpy.random.default_rng(1)
    writer.add_tensor("token_embd.weight", random.random((1500, 256), dtype=numpy.float32).astype(numpy.float16))
    quantised = gguf.quants.quantize(random.random((64, 256), dtype=numpy.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.attn_q.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.ffn_gate_exps.weight", random.random((6, 5, 32), dtype=numpy.float32))
    writer.add_tensor("output_norm.weight", random.random(256, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def assert_agrees(path: Path) -> None:
    """Our header and the official reader's are the same in every fact."""
    official = gguf.GGUFReader(path)
    data = path.read_bytes()
    header = parse(CountingReader(data, len(data)), len(data))
    assert (header.data_offset, header.alignment) == (official.data_offset, official.alignment)
    ours = [
        (tensor.name, tensor.dims, tensor.type_name, header.data_offset + tensor.offset, tensor.num_bytes, tensor.num_elements)
        for tensor in header.tensors
    ]
    assert ours == [
        (
            tensor.name,
            tuple(map(int, tensor.shape)),
            tensor.tensor_type.name,
            tensor.data_offset,
            tensor.n_bytes,
            tensor.n_elements,
        )
        for tensor in official.tensors
    ]
    fields = {name: field for name, field in official.fields.items() if not name.startswith("GGUF.")}
    assert list(header.metadata) == list(fields)
    for name, field in fields.items():
        value, theirs = header.metadata[name], field.contents()
        if isinstance(value, Omitted):
            assert value.length == len(theirs)
        else:
            assert (list(value) if isinstance(value, tuple) else value) == theirs


def test_agrees_with_the_official_reader(tmp_path: Path) -> None:
    path = tmp_path / "official.gguf"
    write_official(path)
    assert_agrees(path)
    data = path.read_bytes()
    info = read_header(CountingReader(data, len(data)), size_bytes=len(data))
    assert info == ModelInfo(
        format="gguf",
        architecture="qwen2moe",
        name="官方",
        num_parameters=1500 * 256 + 64 * 256 + 6 * 5 * 32 + 256,
        weights_bytes=1500 * 256 * 2 + 64 * 272 + 6 * 5 * 32 * 4 + 1024,
        tensor_types=(("F16", 1, 768000), ("Q8_0", 1, 17408), ("F32", 2, 4864)),
        quantisation="Q8_0",
        context_length=32768,
        embedding_length=256,
        feed_forward_length=512,
        vocabulary_size=1500,
        num_layers=3,
        num_heads=8,
        num_kv_heads=(8, 0, 2),
        key_length=40,
        value_length=32,
        rope_freq_base=1e6,
        rope_scaling="yarn",
        sliding_window=1024,
        num_experts=60,
        num_experts_used=4,
        pooling="cls",
        tokenizer="gpt2",
        chat_template="{{ x }}",
        licence="mit",
        is_causal=False,
        layers=(
            Layer("attention", num_heads=8, num_kv_heads=8, key_length=40, value_length=32, dense_bytes=17408, expert_bytes=3840),
            Layer("none", num_heads=8, feed_forward_length=256),
            Layer("attention", num_heads=8, num_kv_heads=2, key_length=40, value_length=32, feed_forward_length=128),
        ),
        embedding_bytes=768000,
        lookup_bytes=0,
        output_bytes=0,
        other_bytes=1024,
    )


@pytest.mark.model
def test_agrees_on_a_real_model(smollm2_path: Path) -> None:
    assert_agrees(smollm2_path)


# Files that are nearly right

values = st.one_of(
    st.builds(Value, st.integers(0, 14), st.binary(max_size=40)),
    st.builds(u32, st.sampled_from([0, 1, 2, 3, 31, 32, 2**16, 2**31, 2**32 - 1])),
    st.builds(u64, st.sampled_from([0, 1, 2**32, 2**63, 2**64 - 1])),
    st.builds(f32, st.sampled_from([0.0, -1.0, math.nan, math.inf])),
    st.builds(text, st.binary(max_size=20)),
    st.builds(array_head, st.integers(0, 13), st.sampled_from([0, 1, 2, 2**31, 2**62, 2**64 - 1]), st.binary(max_size=20)),
)
big = st.sampled_from([0, 1, 2, 31, 32, 33, 255, 256, 2**16, 2**31, 2**32, 2**62, 2**63, 2**64 - 1])
keys = st.sampled_from([str(key) for key, _ in tiny_model().metadata] + ["general.alignment", "split.count", "split.no", "zz"])
tensors = st.builds(
    Tensor,
    name=st.one_of(st.sampled_from(["token_embd.weight", "a"]), st.binary(max_size=70)),
    dims=st.lists(big, min_size=1, max_size=4).map(tuple),
    type_number=st.integers(0, 45),
    num_dims=st.one_of(st.none(), st.integers(0, 5)),
    offset=st.one_of(st.none(), big),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file with one to three things wrong: fields, bytes, or its end."""
    file = tiny_model(**{draw(keys): draw(values) for _ in range(draw(st.integers(0, 2)))})
    if draw(st.booleans()):
        file = replace(file, tensors=(*file.tensors, draw(tensors)), data_bytes=2048)
    for name in draw(st.sets(st.sampled_from(["num_tensors", "num_entries"]), max_size=1)):
        file = replace(file, **{name: draw(big)})
    data = bytearray(file.build())
    for _ in range(draw(st.integers(0, 3))):
        position = draw(st.integers(0, len(data) - 1))
        data[position] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(mutated(), st.integers(0, 3))
def test_nearly_right_files_are_read_or_refused(data: bytes, promised: int) -> None:
    size = len(data) + promised * 1000
    try:
        info = describe([parse(CountingReader(data, len(data)), size)])
    except ModelFileError as error:
        assert 0 <= error.offset <= size
        assert error.field and str(error)
    else:
        assert info.format == "gguf" and info.architecture
        assert all(math.isfinite(value) for value in (info.rope_freq_base or 0.0,))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
def test_random_bytes_after_a_valid_start_are_read_or_refused(tail: bytes) -> None:
    data = b"GGUF\3\0\0\0" + bytes(8) + b"\2" + bytes(7) + tail
    try:
        read_header(CountingReader(data, len(data)), size_bytes=len(data))
    except ModelFileError as error:
        assert 0 <= error.offset <= len(data)

"""Which GGUF models llama.cpp can load, by name and by what only Ollama's converter writes."""

from __future__ import annotations

import re
from importlib import util
from pathlib import Path

import pytest

from support.gguf_writer import TINY_TENSORS, Tensor, Value, f32, text, tiny_model
from zhibei.formats.architectures import LLAMA_CPP_ARCHITECTURES, loadable
from zhibei.formats.gguf import GgufHeader, parse


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def header(*tensors: Tensor, **changes: Value | None) -> GgufHeader:
    data = tiny_model(**changes).with_tensors(*TINY_TENSORS, *tensors).build()
    return parse(Bytes(data), len(data))


def of(architecture: str, *tensors: Tensor, **more: Value | None) -> GgufHeader:
    return header(*tensors, **{"general.architecture": text(architecture), **more})


@pytest.fixture(scope="module")
def library() -> bytes:
    found = util.find_spec("xllamacpp")
    if found is None or not found.submodule_search_locations:
        pytest.skip("xllamacpp is not installed")
    (path,) = Path(next(iter(found.submodule_search_locations))).glob("xllamacpp*.so")
    return path.read_bytes()


def test_the_installed_library_knows_every_architecture_of_the_table(library: bytes) -> None:
    assert [name for name in LLAMA_CPP_ARCHITECTURES if name.encode() + b"\0" not in library] == []


def test_the_table_has_every_architecture_of_the_installed_library(library: bytes) -> None:
    # The names lie behind each other, from the second of the map to the one for all others.
    table = re.search(rb"\0deci\0(?:[a-z0-9_.-]+\0){50,400}\(unknown\)\0", library)
    assert table is not None
    names = set(table[0].decode().strip("\0").split("\0")) - {"(unknown)"}
    assert len(names) > 80
    assert names <= LLAMA_CPP_ARCHITECTURES


def test_a_model_of_a_known_architecture_is_loadable() -> None:
    assert loadable(header()) == "yes"
    assert loadable(of("qwen2")) == "yes"


@pytest.mark.parametrize("name", ["gptoss", "mllama", "qwen25vl", "deepseekocr", "glmocr", "glm4moelite", "olmo3", "clip", "x"])
def test_names_that_only_ollama_uses_are_not(name: str) -> None:
    assert loadable(of(name)) == "no"


def test_a_model_without_an_architecture_is_not() -> None:
    assert loadable(header(**{"general.architecture": None})) == "no"


@pytest.mark.parametrize("tensor", ["v.blk.0.attn_q.weight", "mm.mm_input_projection.weight", "a.conv1d.0.weight"])
def test_an_encoder_in_the_same_file_is_not(tensor: str) -> None:
    assert loadable(of("llama4", Tensor(tensor, (32, 4)))) == "no"
    assert loadable(of("mistral3", Tensor(tensor, (32, 4)), **{"general.type": text("model")})) == "no"


def test_gemma3_needs_the_key_that_ollama_leaves_out() -> None:
    assert loadable(of("gemma3")) == "no"
    assert loadable(of("gemma3", **{"gemma3.attention.layer_norm_rms_epsilon": f32(1e-6)})) == "yes"


def test_gemma3n_needs_as_many_rows_in_both_embeddings() -> None:
    assert loadable(of("gemma3n", Tensor("per_layer_token_embd.weight", (32, 4)))) == "yes"
    assert loadable(of("gemma3n", Tensor("per_layer_token_embd.weight", (32, 3)))) == "no"


def test_where_nothing_shows_for_certain_it_is_unsure_unless_llama_cpp_wrote_the_file() -> None:
    assert loadable(of("qwen3next")) == "unsure"
    assert loadable(of("qwen3next", **{"general.type": text("model")})) == "yes"

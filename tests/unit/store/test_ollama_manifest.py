"""Ollama's manifests: what is taken, what is refused, and what a model's small files say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.gguf_writer import Value, text, tiny_model
from zhibei.errors import SourceError, Unsupported
from zhibei.formats.gguf import GgufHeader, parse
from zhibei.models import ROLES, ModelDefaults
from zhibei.options import LoadOptions, Sampling
from zhibei.store.digests import Digest
from zhibei.store.filenames import check_distinct, check_file_name
from zhibei.store.ollama_manifest import (
    MAX_MANIFEST_BYTES,
    MAX_TEXT_BYTES,
    OllamaConfig,
    OllamaManifest,
    check_runs_here,
    name_shards,
    parse_config,
    parse_manifest,
    parse_params,
    read_defaults,
    read_text,
)

CHATML = "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def layer(kind: str, number: int = 1, size: object = 100, **changes: object) -> dict[str, object]:
    return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest(number), "size": size, **changes}


CONFIG = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest(999), "size": 485}


def manifest(*layers: object, **changes: object) -> OllamaManifest:
    document = {"schemaVersion": 2, "config": CONFIG, "layers": list(layers), **changes}
    return parse_manifest(json.dumps(document).encode(), "tiny:latest")


def test_layers_get_roles_and_harmless_names_and_the_weights_come_first() -> None:
    found = manifest(
        layer("license", 1),
        layer("template", 2),
        layer("license", 3),
        layer("projector", 4),
        layer("model", 5, 3_000_000_000),
        layer("params", 6),
        layer("system", 7),
        layer("adapter", 8),
    )
    assert [(item.role, item.name) for item in found.layers] == [
        ("model", "model.gguf"),
        ("projector", "mmproj.gguf"),
        ("adapter", "adapter.gguf"),
        ("licence", "LICENSE"),
        ("template", "template.txt"),
        ("licence", "LICENSE-2"),
        ("params", "params.json"),
        ("system", "system.txt"),
    ]
    assert {item.role for item in found.layers} <= set(ROLES)
    assert [check_file_name(item.name) for item in found.layers] == [item.name for item in found.layers]
    check_distinct(item.name for item in found.layers)
    assert found.layers[0].digest == Digest.parse(digest(5))
    assert found.layers[0].size_bytes == 3_000_000_000
    assert found.config is not None and found.config.digest == Digest.parse(digest(999))
    assert found.skipped == ()


def test_the_old_name_of_templates_is_known_and_media_types_may_have_parameters() -> None:
    found = manifest(layer("model", 1), layer("prompt", 2, mediaType="application/vnd.ollama.image.prompt; charset=utf-8"))
    assert [item.role for item in found.layers] == ["model", "template"]


def test_small_layers_of_unknown_kinds_and_drafts_are_skipped_and_told() -> None:
    found = manifest(layer("model", 1), layer("messages", 2), layer("novel", 3), layer("draft", 4, 10**10), layer("messages", 5))
    assert [item.role for item in found.layers] == ["model"]
    assert found.skipped == ("messages", "novel", "draft")


def test_a_large_layer_of_an_unknown_kind_is_unsupported() -> None:
    with pytest.raises(Unsupported, match=r"application/vnd\.ollama\.image\.novel"):
        manifest(layer("model", 1), layer("novel", 2, MAX_TEXT_BYTES + 1))


def test_single_tensors_are_unsupported_however_many_there_are() -> None:
    with pytest.raises(Unsupported, match="Ollama's own engine") as caught:
        manifest(*(layer("tensor", number, 10**9, name=f"model.layers.{number}") for number in range(1, 500)))
    assert "hf:" in (caught.value.hint_text or "")


def test_an_empty_text_is_left_out_and_the_same_licence_twice_is_one() -> None:
    found = manifest(layer("model", 1), layer("system", 2, 0), layer("license", 3), layer("license", 3))
    assert [item.name for item in found.layers] == ["model.gguf", "LICENSE"]


def test_texts_may_be_the_same_blob() -> None:
    found = manifest(layer("model", 1), layer("template", 2), layer("license", 2))
    assert [item.role for item in found.layers] == ["model", "template", "licence"]


BAD_LAYERS: dict[str, dict[str, Any]] = {
    "digest climbs": layer("model", digest="sha256:../../x"),
    "digest empty": layer("model", digest=""),
    "digest upper case": layer("model", digest="sha256:" + "A" * 64),
    "digest short": layer("model", digest="sha256:" + "a" * 63),
    "digest long": layer("model", digest="sha256:" + "a" * 65),
    "digest with newline": layer("model", digest=digest(1) + "\n"),
    "digest of another kind": layer("model", digest="sha512:" + "a" * 128),
    "digest a number": layer("model", digest=7),
    "digest missing": {"mediaType": "application/vnd.ollama.image.model", "size": 1},
    "digest with foreign digits": layer("model", digest="sha256:" + "\u0661" * 64),
    "size negative": layer("model", size=-1),
    "size a text": layer("model", size="100"),
    "size a truth value": layer("model", size=True),
    "size a fraction": layer("model", size=1.5),
    "size missing": {"mediaType": "application/vnd.ollama.image.model", "digest": digest(1)},
    "size huge": layer("model", size=2**63),
    "model empty": layer("model", size=0),
    "text huge": layer("system", size=MAX_TEXT_BYTES + 1),
    "kind missing": {"digest": digest(1), "size": 1},
    "kind a list": layer("model", mediaType=["x"]),
    "kind with an escape": layer("model", mediaType="application/\x1b[2J"),
    "kind endless": layer("model", mediaType="x" * 201),
}


@pytest.mark.parametrize("bad", BAD_LAYERS.values(), ids=BAD_LAYERS)
def test_a_layer_that_makes_no_sense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match="tiny:latest makes no sense"):
        manifest(layer("model", 5), bad)
    with pytest.raises(SourceError, match="tiny:latest makes no sense"):
        manifest(bad)


@pytest.mark.parametrize(
    "layers",
    [
        (layer("model", 999, 485),),
        (layer("model", 1), layer("projector", 1)),
        (layer("model", 1), layer("template", 1)),
        (layer("model", 1), layer("template", 2, 10), layer("system", 2, 11)),
        (layer("model", 1), layer("template", 2), layer("template", 3)),
        (layer("model", 1), layer("params", 2), layer("params", 3)),
    ],
)
def test_the_same_blob_for_two_things_and_two_of_a_single_thing_are_refused(layers: tuple[object, ...]) -> None:
    with pytest.raises(SourceError, match="twice"):
        manifest(*layers)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"layers": {}}',
        b'{"layers": "x"}',
        b'{"layers": [1]}',
        b'{"layers": [null]}',
        b"[" * 100_000,
        b'{"layers":' + b"[" * 100_000,
        b"<html>",
        b"{" + b" " * MAX_MANIFEST_BYTES + b"}",
    ],
    ids=range(14),
)
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(SourceError, match="tiny:latest makes no sense"):
        parse_manifest(raw, "tiny:latest")


def test_a_million_layers_are_refused() -> None:
    item = json.dumps(layer("license", 1, 1)).encode()
    with pytest.raises(SourceError, match="too large"):
        parse_manifest(b'{"layers":[' + b",".join([item] * 1_000_000) + b"]}", "tiny:latest")
    with pytest.raises(SourceError, match="too many"):
        manifest(*(layer("license", number) for number in range(1, 66)))


def test_a_bad_config_is_refused_and_a_missing_one_is_none() -> None:
    for bad in ({**CONFIG, "digest": "sha256:x"}, {**CONFIG, "size": MAX_TEXT_BYTES + 1}, {**CONFIG, "size": -1}):
        with pytest.raises(SourceError):
            manifest(layer("model"), config=bad)
    assert manifest(layer("model"), config=None).config is None


def test_the_configuration_is_read_leniently() -> None:
    raw = json.dumps({"model_format": "gguf", "model_family": "llama", "file_type": "Q4_0", "rootfs": {"diff_ids": []}}).encode()
    assert parse_config(raw, "m") == OllamaConfig("gguf", "llama", "Q4_0")
    assert parse_config(b'{"model_format": 7, "model_family": "", "file_type": "\\u001b[2J"}', "m") == OllamaConfig()
    with pytest.raises(SourceError):
        parse_config(b"[]", "m")


def test_models_that_cannot_run_here_are_told_with_a_way_out() -> None:
    found = manifest(layer("model"))
    check_runs_here(found, OllamaConfig("gguf"), "m")
    check_runs_here(found, OllamaConfig(), "m")
    with pytest.raises(Unsupported, match="safetensors") as caught:
        check_runs_here(found, OllamaConfig("safetensors"), "m")
    assert "hf:" in (caught.value.hint_text or "")
    with pytest.raises(Unsupported, match=r"on a server \(https://ollama\.com\)"):
        check_runs_here(manifest(), OllamaConfig(remote_host="https://ollama.com"), "m")
    with pytest.raises(SourceError, match="no model"):
        check_runs_here(manifest(layer("license")), OllamaConfig("gguf"), "m")


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def header(number: int | None = None, count: int | None = None) -> GgufHeader:
    split = {"split.no": number, "split.count": count}
    changes = {key: Value(2, value.to_bytes(2, "little")) for key, value in split.items() if value is not None}
    data = tiny_model(**changes).build()
    return parse(Bytes(data), len(data))


def test_one_whole_model_keeps_its_name() -> None:
    layers = manifest(layer("model")).layers
    assert name_shards(layers, [header()], "m") == layers
    assert name_shards(layers, [header(0, 1)], "m") == layers


def test_shards_are_named_and_ordered_by_what_their_headers_say() -> None:
    layers = manifest(layer("model", 1), layer("model", 2), layer("model", 3)).layers
    named = name_shards(layers, [header(2, 3), header(0, 3), header(1, 3)], "m")
    assert [(item.name, item.role, item.digest) for item in named] == [
        ("model-00001-of-00003.gguf", "shard", layers[1].digest),
        ("model-00002-of-00003.gguf", "shard", layers[2].digest),
        ("model-00003-of-00003.gguf", "shard", layers[0].digest),
    ]


@pytest.mark.parametrize(
    "places", [[(0, 2)], [(0, 2), (0, 2)], [(0, 3), (1, 3)], [(None, None), (None, None)], [(1, 2), (2, 2)], [(0, 2), (1, 3)]]
)
def test_files_that_are_not_one_model_are_refused(places: list[tuple[int | None, int | None]]) -> None:
    layers = manifest(*(layer("model", number) for number in range(1, len(places) + 1))).layers
    with pytest.raises(SourceError, match="parts of one model"):
        name_shards(layers, [header(*place) for place in places], "m")


def test_a_place_that_is_no_number_is_refused() -> None:
    data = tiny_model(**{"split.no": text("0"), "split.count": text("2")}).build()
    with pytest.raises(SourceError, match="parts of one model"):
        name_shards(manifest(layer("model")).layers, [parse(Bytes(data), len(data))], "m")


def params(**given: object) -> tuple[Sampling, tuple[str, ...], LoadOptions]:
    return parse_params(json.dumps(given).encode())


def test_parameters_are_carried_over() -> None:
    sampling, stop, load = params(
        temperature=0.6,
        top_k=40,
        top_p=0.95,
        min_p=0,
        typical_p=1,
        repeat_penalty=1.1,
        repeat_last_n=-1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=42,
        mirostat=2,
        mirostat_tau=5,
        mirostat_eta=0.1,
        num_ctx=8192,
        num_predict=100,
        num_gpu=99,
        stop=["<|im_end|>", "<|im_start|>", "<|im_end|>"],
    )
    assert sampling == Sampling(
        temperature=0.6,
        top_k=40,
        top_p=0.95,
        min_p=0.0,
        typical_p=1.0,
        repeat_penalty=1.1,
        repeat_last_n=-1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=42,
        mirostat=2,
        mirostat_tau=5.0,
        mirostat_eta=0.1,
    )
    assert stop == ("<|im_end|>", "<|im_start|>")
    assert load == LoadOptions(ctx_size=8192)
    assert isinstance(sampling.min_p, float)
    assert isinstance(params(top_k=40.0)[0].top_k, int)


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": -0.1},
        {"temperature": True},
        {"temperature": "0.5"},
        {"temperature": [0.5]},
        {"top_k": 1.5},
        {"top_k": 2**40},
        {"top_p": 1.1},
        {"seed": -1},
        {"mirostat": 3},
        {"num_ctx": 0},
        {"num_ctx": -5},
        {"num_ctx": 2**31},
        {"num_ctx": 10**400},
        {"stop": 7},
        {"stop": [7, None, "", "x" * 257, "a\0b"]},
        {"stop": {"a": 1}},
        {"unknown": 1},
    ],
)
def test_a_parameter_that_makes_no_sense_is_passed_over(given: dict[str, object]) -> None:
    assert params(**given) == (Sampling(), (), LoadOptions())


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"temperature": NaN}', b'{"temperature": 1e999}'])
def test_parameters_that_are_damaged_say_nothing(raw: bytes) -> None:
    assert parse_params(raw) == (Sampling(), (), LoadOptions())


def test_one_stop_text_may_stand_alone_and_there_are_not_too_many() -> None:
    assert params(stop="###")[1] == ("###",)
    assert len(params(stop=[str(number) for number in range(1000)])[1]) == 64


def test_a_text_is_text_of_bounded_size() -> None:
    assert read_text("Sei knapp. 你好".encode()) == "Sei knapp. 你好"
    assert [read_text(raw) for raw in (b"", b" \n", b"\xff", b"a\0b", b"x" * (MAX_TEXT_BYTES + 1))] == [None] * 5


def test_defaults_are_put_together() -> None:
    texts = {"params": b'{"temperature": 0.2, "num_ctx": 4096, "stop": "x"}', "system": b"Be terse.", "template": CHATML.encode()}
    found = read_defaults(texts, has_template=True)
    assert found == ModelDefaults("Be terse.", ("x",), Sampling(temperature=0.2), LoadOptions(ctx_size=4096))
    own = read_defaults(texts, has_template=False)
    assert own is not None and own.load.chat_template is not None
    assert "<|im_start|>" in own.load.chat_template


def test_nothing_worth_keeping_is_none() -> None:
    assert read_defaults({}, has_template=False) is None
    assert read_defaults({"params": b"{}", "system": b"", "template": b"{{ .Prompt }}"}, has_template=False) is None
    assert read_defaults({"template": CHATML.encode()}, has_template=True) is None

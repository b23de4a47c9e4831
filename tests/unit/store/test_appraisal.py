"""What a reference names, looked at where it lies: how much is read, what is inferred, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from hubs.content import Content, Image, Layer, Repository
from hubs.server import Hub as LocalHub
from support.gguf_writer import TINY_TENSORS, GgufFile, Tensor, array_head, tiny_model, u32
from support.models import model_bytes
from support.safetensors_writer import CONFIG, framed, repository_files, safetensors_bytes
from support.sharded_hub import NUM_SHARDS, repository, sharded, write_sparse
from zhibei.errors import BadReference, ModelFileError, ModelNotFound, SourceError
from zhibei.formats.inspect import inspect_path
from zhibei.models import ModelInfo
from zhibei.refs import ModelName, ModelRef
from zhibei.store.appraisal import Appraisal, appraise
from zhibei.store.catalog import Catalog
from zhibei.store.fetch import FetchOptions, Retries
from zhibei.store.library import Library
from zhibei.store.options import PullOptions
from zhibei.store.partial_headers import Budget, Spent, UnreadableRemotely
from zhibei.store.sources.base import Hub

MAX_REQUESTS, MAX_BYTES = 30, 8_000_000
RETRIES = Retries(attempts=1, connect_attempts=0, first_s=0.001, longest_s=0.002)


def options(hub: LocalHub) -> PullOptions:
    reached = {kind: Hub(hub.url) for kind in ("hf", "ms", "ollama")}
    return PullOptions(FetchOptions(retries=RETRIES), hubs=reached)


async def looked_at(hub: LocalHub, ref: str, home: Path, catalog: Catalog | None = None) -> Appraisal:
    return await appraise(ref, Library(home), options(hub), catalog)


async def looked_at_files(files: Mapping[str, bytes | Path], home: Path, ref: str = "hf:o/n") -> Appraisal:
    content = Content((Repository("o/n", {"main": files}),))
    async with LocalHub(content) as hub:
        return await looked_at(hub, ref, home)


def info_of(appraisal: Appraisal, number: int = 0) -> ModelInfo:
    info = appraisal.models[number].model.info
    assert info is not None
    return info


@pytest.mark.parametrize("kind", ["hf", "ms"])
async def test_a_model_in_forty_shards_costs_few_requests_and_bytes(tmp_path: Path, kind: str) -> None:
    files = sharded(tmp_path / "files")
    exact = inspect_path(next(iter(files.values())))
    async with LocalHub(Content((repository("o/Big-GGUF", files),))) as hub:
        appraisal = await looked_at(hub, f"{kind}:o/Big-GGUF", tmp_path / "home")
        assert len(hub.log) <= MAX_REQUESTS
        assert 0 < hub.num_bytes_sent() <= MAX_BYTES
    (found,) = appraisal.models
    assert (found.basis, len(found.model.files)) == ("some headers", NUM_SHARDS)
    info = info_of(appraisal)
    assert info.num_layers == exact.num_layers
    assert info.embedding_bytes == exact.embedding_bytes
    assert info.output_bytes == exact.output_bytes
    assert (info.weights_bytes or 0) == pytest.approx(exact.weights_bytes or 0, rel=0.005)
    assert sum(layer.dense_bytes * layer.count for layer in info.layers) == pytest.approx(
        sum(layer.dense_bytes * layer.count for layer in exact.layers), rel=0.005
    )
    assert (info.num_parameters or 0) == pytest.approx(exact.num_parameters or 0, rel=0.05)


async def test_a_header_larger_than_the_budget_still_says_what_the_model_is(tmp_path: Path) -> None:
    files = sharded(tmp_path / "files", num_tokens=400_000)
    async with LocalHub(Content((repository("o/Big-GGUF", files),))) as hub:
        appraisal = await looked_at(hub, "hf:o/Big-GGUF", tmp_path / "home")
        assert hub.num_bytes_sent() <= MAX_BYTES
    info = info_of(appraisal)
    assert appraisal.models[0].basis == "some headers"
    assert (info.num_layers, info.context_length, info.embedding_length) == (80, 32768, 512)
    assert len(info.layers) > 0 and all(layer.dense_bytes for layer in info.layers)


async def test_a_single_file_is_known_exactly(tmp_path: Path) -> None:
    body = model_bytes(2000)
    (tmp_path / "x.gguf").write_bytes(body)
    appraisal = await looked_at_files({"x-Q4_0.gguf": body}, tmp_path / "home")
    (found,) = appraisal.models
    assert (found.basis, found.label, found.is_here) == ("headers", None, False)
    assert found.model.info == inspect_path(tmp_path / "x.gguf")
    assert not (tmp_path / "home").exists()


async def test_every_quantisation_of_a_repository_is_listed_smallest_first(tmp_path: Path) -> None:
    def file(name: str, kind: str) -> Path:
        tensors = [*TINY_TENSORS, Tensor("blk.1.ffn_up.weight", (2560, 1024), kind)]
        return write_sparse(tmp_path / name, tiny_model().with_tensors(*tensors))

    files = {
        f"n-{kind}.gguf": file(f"n-{kind}.gguf", form) for kind, form in (("Q4_0", "Q4_0"), ("Q8_0", "Q8_0"), ("F16", "F16"))
    }
    appraisal = await looked_at_files(files, tmp_path / "home")
    assert [model.label for model in appraisal.models] == ["Q4_0", "Q8_0", "F16"]
    assert [model.ref for model in appraisal.models] == ["hf:o/n:Q4_0", "hf:o/n:Q8_0", "hf:o/n:F16"]
    assert [model.basis for model in appraisal.models] == ["headers", "another variant", "another variant"]
    exact = inspect_path(files["n-Q8_0.gguf"])
    inferred = info_of(appraisal, 1)
    assert inferred.weights_bytes == pytest.approx(exact.weights_bytes, rel=0.01)
    assert (inferred.quantisation, inferred.num_layers) == ("Q8_0", exact.num_layers)
    one = await looked_at_files(files, tmp_path / "home", "hf:o/n:q8_0")
    assert [model.basis for model in one.models] == ["headers"]


async def test_an_image_of_ollama(tmp_path: Path) -> None:
    image = Image("library/tiny", "latest", (Layer("model", model_bytes(300)), Layer("system", b"Be brief.")))
    async with LocalHub(Content(images=(image,))) as hub:
        appraisal = await looked_at(hub, "ollama:tiny", tmp_path / "home")
    assert (info_of(appraisal).architecture, appraisal.models[0].basis) == ("llama", "headers")


async def test_a_file_on_this_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(model_bytes(4))
    appraisal = await appraise(str(path), Library(tmp_path / "home"), PullOptions())
    assert info_of(appraisal) == inspect_path(path)
    assert appraisal.models[0].model.files[0].path == path


async def test_what_is_stored_is_not_asked_for_anywhere(tmp_path: Path) -> None:
    library = Library(tmp_path / "home")
    path = tmp_path / "x.gguf"
    path.write_bytes(model_bytes(4))
    async for _ in library.pull(ModelRef.parse(str(path)), name="mine"):
        pass
    for asked in ("mine", str(library.get(ModelName("mine")).source)):
        appraisal = await appraise(asked, library, PullOptions())
        assert (appraisal.models[0].is_here, appraisal.models[0].model.name) == (True, "mine:latest")


async def test_safetensors_by_configuration_and_headers(tmp_path: Path) -> None:
    appraisal = await looked_at_files(repository_files(), tmp_path / "home")
    (found,) = appraisal.models
    info = info_of(appraisal)
    assert (found.basis, info.format, info.num_layers) == ("headers", "safetensors", 2)
    assert info.num_parameters == 100 * 64 + 64


QUANTISATIONS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "exl2": {"quant_method": "exl2", "bits": 4.25},
    "exl3": {"quant_method": "exl3", "bits": 4.0},
    "aqlm": {"quant_method": "aqlm", "nbits_per_codebook": 16, "num_codebooks": 1, "in_group_size": 8},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
}


@pytest.mark.parametrize("kind", QUANTISATIONS)
async def test_quantised_repositories_of_many_files_by_configuration_and_sizes(tmp_path: Path, kind: str) -> None:
    config = {**CONFIG, "num_hidden_layers": 12, "hidden_size": 256, "quantization_config": QUANTISATIONS[kind]}
    names = [f"model-{number:05}-of-00040.safetensors" for number in range(1, 41)]
    tensor = safetensors_bytes({"x": ("I32", (4096,))})
    files: dict[str, bytes] = dict.fromkeys(names, tensor)
    files["config.json"] = json.dumps(config).encode()
    content = Content((Repository("o/n", {"main": files}),))
    async with LocalHub(content) as hub:
        appraisal = await looked_at(hub, "hf:o/n", tmp_path / "home")
        assert len(hub.log) <= MAX_REQUESTS
        assert hub.num_bytes_sent() <= MAX_BYTES
    info = info_of(appraisal)
    assert appraisal.models[0].basis == "shape"
    assert info.weights_bytes == 40 * len(tensor)
    assert sum(layer.count for layer in info.layers) == 12
    placed = sum((layer.dense_bytes + layer.expert_bytes) * layer.count for layer in info.layers)
    outside = (info.embedding_bytes or 0) + (info.output_bytes or 0)
    assert placed + outside == pytest.approx(40 * len(tensor), rel=0.01)
    assert kind[:3] in (info.quantisation or "").lower()


HUGE = GgufFile(metadata=(("tokenizer.ggml.tokens", array_head(8, 2**40)),), num_tensors=2, num_entries=9, trailing=bytes(5000))
HOSTILE = {
    "not a model": b"<html>" + bytes(9000),
    "cut": model_bytes(8)[:200] + b"\xff" * 9000,
    "an array without end": HUGE.build(),
    "too many layers": tiny_model(**{"llama.block_count": u32(2**31)}).build() + bytes(9000),
    "a million entries": GgufFile(num_entries=10**6, trailing=bytes(20 << 20)).build(),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_header_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFileError):
        await looked_at_files({"n-Q4_0.gguf": HOSTILE[name]}, tmp_path / "home")


@pytest.mark.parametrize(
    "spoilt",
    [
        {"config.json": b"[" * 100_000},
        {"config.json": b"{" + b" " * (3 << 20) + b"}"},
        {"config.json": b'{"model_type": "llama", "num_hidden_layers": 1e99, "hidden_size": -4}'},
        {"model.safetensors": framed(b'{"a":{"dtype":"F32","shape":[99],"data_offsets":[0,4]}}', bytes(4))},
        {"model.safetensors": b"\xff" * 9000},
    ],
    ids=["deep", "large", "numbers", "offsets", "length"],
)
async def test_a_hostile_configuration_or_safetensors_header_is_an_error(tmp_path: Path, spoilt: dict[str, bytes]) -> None:
    with pytest.raises(ModelFileError):
        await looked_at_files({**repository_files(), **spoilt}, tmp_path / "home")


async def test_what_cannot_be_read_in_parts_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableRemotely):
        await appraise("pypi:some-model==1.0", Library(tmp_path / "home"), PullOptions(), Catalog())


@pytest.mark.parametrize(
    ("ref", "error"),
    [("hf:o/none", ModelNotFound), ("no-such-model-anywhere", ModelNotFound), ("hf:", BadReference), ("bad name", BadReference)],
)
async def test_what_names_nothing(tmp_path: Path, ref: str, error: type[Exception]) -> None:
    async with LocalHub(Content()) as hub:
        with pytest.raises(error):
            await looked_at(hub, ref, tmp_path / "home")


async def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    nowhere = PullOptions(FetchOptions(retries=RETRIES), hubs={kind: Hub("http://127.0.0.1:9") for kind in ("hf", "ms")})
    with pytest.raises(SourceError):
        await appraise("hf:o/n", Library(tmp_path / "home"), nowhere)


def test_the_budget_is_never_overspent() -> None:
    budget = Budget(3, 100)
    budget.take(2, 60)
    for too_much in ((1, 60), (2, 10)):
        with pytest.raises(Spent):
            budget.take(*too_much)
    assert (budget.num_requests, budget.num_bytes) == (1, 40)

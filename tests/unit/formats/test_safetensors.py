"""Safetensors headers and indexes that are right: read whole, in few reads, as the format's own library writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.safetensors_writer import CONFIG, TENSORS, framed, repository_files, safetensors_bytes, write_files
from zhibei.errors import ModelFileError, ModelNotFound
from zhibei.formats.hf_repository import licence_of, parse_index, weight_names
from zhibei.formats.inspect import inspect_files, inspect_path
from zhibei.formats.safetensors import DTYPE_BITS, SafetensorsHeader, SafetensorsTensor, read_header


class Bytes:
    """A file in memory that counts its reads."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.num_reads = 0

    def read_at(self, offset: int, length: int) -> bytes:
        self.num_reads += 1
        return self.data[offset : offset + length]


def read(data: bytes) -> SafetensorsHeader:
    return read_header(Bytes(data), len(data))


class TestHeader:
    def test_tensors_and_metadata(self) -> None:
        header = read(safetensors_bytes(format="pt"))
        assert header.metadata == {"format": "pt"}
        assert header.tensors == (
            SafetensorsTensor("model.embed_tokens.weight", "BF16", (100, 64), 0, 12_800),
            SafetensorsTensor("model.norm.weight", "F32", (64,), 12_800, 256),
        )
        assert [tensor.num_elements for tensor in header.tensors] == [6400, 64]
        assert header.data_offset % 8 == 0

    @pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
    def test_every_type(self, dtype: str) -> None:
        (tensor,) = read(safetensors_bytes({"a": (dtype, (3, 8))})).tensors
        assert (tensor.dtype, tensor.num_bytes) == (dtype, 24 * DTYPE_BITS[dtype] // 8)

    def test_scalars_and_empty_tensors(self) -> None:
        tensors = read(safetensors_bytes({"scalar": ("F32", ()), "none": ("F32", (0, 7)), "last": ("U8", (1,))})).tensors
        assert [(tensor.shape, tensor.num_elements, tensor.num_bytes) for tensor in tensors] == [
            ((), 1, 4), ((0, 7), 0, 0), ((1,), 1, 1),
        ]  # fmt: skip

    def test_no_tensor_at_all(self) -> None:
        assert read(framed(b"{}")).tensors == ()
        assert read(framed(b'{"__metadata__": {}} ')) == SafetensorsHeader((), 29, {})

    def test_any_order_of_fields_and_of_tensors_and_any_spaces(self) -> None:
        text = b'{\n "b" : { "data_offsets" : [ 4 , 8 ] ,\t"dtype":"F32","shape":[1] },\r\n"a":{"shape":[],"data_offsets":[0,4],'
        tensors = read(framed(text + b'"dtype":"I32"} }   ', bytes(8))).tensors
        assert [(tensor.name, tensor.dtype, tensor.shape, tensor.start) for tensor in tensors] == [
            ("b", "F32", (1,), 4), ("a", "I32", (), 0),
        ]  # fmt: skip

    def test_names_in_any_script_and_escaped(self) -> None:
        names = ["层.0.weight", 'a"b\\c', "../../etc/passwd", "é"]
        for ensure_ascii in (True, False):
            entries = {name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for name in names}
            header = read(framed(json.dumps(entries, ensure_ascii=ensure_ascii).encode()))
            assert [tensor.name for tensor in header.tensors] == names

    def test_two_reads_suffice_and_one_for_a_small_header(self) -> None:
        small = Bytes(safetensors_bytes())
        read_header(small, len(small.data))
        large = Bytes(safetensors_bytes({f"model.layers.{number}.weight": ("U8", (1,)) for number in range(5000)}))
        assert len(read_header(large, len(large.data)).tensors) == 5000
        assert (small.num_reads, large.num_reads) == (1, 2)

    def test_a_larger_header_may_be_allowed(self) -> None:
        data = safetensors_bytes()
        with pytest.raises(ModelFileError, match="larger than 100 bytes"):
            read_header(Bytes(data), len(data), max_header_bytes=100)
        assert len(read_header(Bytes(data), len(data), max_header_bytes=1000).tensors) == 2


class TestAgainstTheLibrary:
    """What the format's own library writes and reads is taken for the truth."""

    def test_what_it_writes_is_read(self) -> None:
        library, numpy = pytest.importorskip("safetensors.numpy"), pytest.importorskip("numpy")
        shapes = {"float32": (2, 3), "float16": (5,), "int64": (), "bool": (3,), "uint8": (0, 4), "int32": (1, 1, 7)}
        arrays = {f"t.{dtype}": numpy.zeros(shape, dtype) for dtype, shape in shapes.items()}
        header = read(library.save(arrays, metadata={"a": "é\n"}))
        assert header.metadata == {"a": "é\n"}
        assert {tensor.name: (tensor.shape, tensor.num_bytes) for tensor in header.tensors} == {
            name: (array.shape, array.nbytes) for name, array in arrays.items()
        }
        assert {tensor.dtype for tensor in header.tensors} == {"F32", "F16", "I64", "BOOL", "U8", "I32"}

    def test_what_is_written_here_is_read_there(self) -> None:
        library = pytest.importorskip("safetensors")
        found = dict(library.deserialize(safetensors_bytes(format="pt")))
        assert {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in found.items()} == TENSORS


class TestIndex:
    def test_files_and_total(self) -> None:
        weight_map = {"b": "model-00002-of-00002.safetensors", "a": "model-00001-of-00002.safetensors"}
        index = parse_index(json.dumps({"metadata": {"total_size": 1e3}, "weight_map": weight_map}).encode())
        assert (index.total_bytes, index.weight_map) == (1000, weight_map)
        assert index.files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        assert weight_names((*index.files, "consolidated.safetensors"), index) == index.files

    @pytest.mark.parametrize("metadata", [None, {}, {"total_size": "many"}, {"total_size": True}, {"total_size": -1}, []])
    def test_a_total_that_says_nothing(self, metadata: object) -> None:
        index = parse_index(json.dumps({"metadata": metadata, "weight_map": {"a": "model.safetensors"}}).encode())
        assert index.total_bytes is None

    @pytest.mark.parametrize(
        ("names", "found"),
        [
            (["config.json"], ()),
            (["x.safetensors"], ("x.safetensors",)),
            (["x.safetensors", "model.safetensors"], ("model.safetensors",)),
            (["m-00002-of-00002.safetensors", "m-00001-of-00002.safetensors"],
             ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors")),
            (["adapter_model.safetensors", "unet/model.safetensors"], ()),
        ],
    )  # fmt: skip
    def test_weights_without_an_index(self, names: list[str], found: tuple[str, ...]) -> None:
        assert weight_names(names, None) == found

    @pytest.mark.parametrize("names", [["a.safetensors", "b.safetensors"], ["m-00001-of-00003.safetensors", "x.safetensors"]])
    def test_weights_that_cannot_be_told_apart_or_are_missing(self, names: list[str]) -> None:
        with pytest.raises(ModelFileError, match=r"no index|is missing"):
            weight_names(names, None)


class TestInspect:
    def test_a_directory_a_file_in_it_and_its_files_elsewhere_are_one_model(self, tmp_path: Path) -> None:
        directory = write_files(tmp_path / "tiny", repository_files())
        info = inspect_path(directory)
        assert (info.format, info.architecture, info.num_parameters, info.weights_bytes) == ("safetensors", "llama", 6464, 13_056)
        assert info.tensor_types == (("BF16", 1, 12_800), ("F32", 1, 256))
        assert (info.quantisation, info.tokenizer, info.licence) == ("BF16", "LlamaTokenizer", "apache-2.0")
        assert info.chat_template == "{{ messages }}"
        assert inspect_path(directory / "model.safetensors") == info
        blobs = {
            name: path.rename(tmp_path / f"blob{n}") for n, (name, path) in enumerate((p.name, p) for p in directory.iterdir())
        }
        assert inspect_files(blobs) == info

    def test_weights_alone(self, tmp_path: Path) -> None:
        path = write_files(tmp_path, {"x.safetensors": safetensors_bytes()}) / "x.safetensors"
        info = inspect_path(path)
        assert (info.architecture, info.num_parameters, info.num_layers) == ("unknown", 6464, None)

    def test_several_files_by_their_index(self, tmp_path: Path) -> None:
        files = {f"m-0000{number}-of-00002.safetensors": safetensors_bytes({f"t{number}": ("F16", (4,))}) for number in (1, 2)}
        index = json.dumps({"weight_map": {f"t{number}": name for number, name in enumerate(files, start=1)}}).encode()
        others = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors.index.json": index}
        directory = write_files(tmp_path, {**files, **others, "consolidated.safetensors": safetensors_bytes()})
        info = inspect_path(directory)
        assert (info.num_parameters, info.split_count, info.quantisation) == (8, 2, "F16")
        (directory / "m-00002-of-00002.safetensors").unlink()
        with pytest.raises(ModelFileError, match=r"m-00002-of-00002\.safetensors is missing"):
            inspect_path(directory)
        with pytest.raises(ModelFileError, match=r"m-00002-of-00002\.safetensors is missing"):
            inspect_files({path.name: path for path in directory.iterdir() if path.name != "consolidated.safetensors"})

    def test_the_index_lies_about_a_file(self, tmp_path: Path) -> None:
        index = json.dumps({"weight_map": {"other": "model.safetensors"}}).encode()
        directory = write_files(tmp_path, {**repository_files(), "model.safetensors.index.json": index})
        with pytest.raises(ModelFileError, match="where it is not") as caught:
            inspect_path(directory)
        assert caught.value.field == "other"

    def test_two_files_with_the_same_tensor(self, tmp_path: Path) -> None:
        shards = {f"m-0000{number}-of-00002.safetensors": safetensors_bytes() for number in (1, 2)}
        with pytest.raises(ModelFileError, match="two files have the same tensor"):
            inspect_path(write_files(tmp_path, {**shards, "config.json": json.dumps(CONFIG).encode()}))

    def test_a_directory_without_a_model(self, tmp_path: Path) -> None:
        for files in ({"config.json": b"{}"}, {"model.safetensors": safetensors_bytes(), "config.json": b"{}"}):
            write_files(tmp_path, files)
            with pytest.raises((ModelNotFound, ModelFileError)):
                inspect_path(tmp_path)
        with pytest.raises(ModelNotFound):
            inspect_files({})


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (b"---\nlanguage: en\nlicense: apache-2.0\n---\n", "apache-2.0"), (b"---\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        (b"---\nlicense:\n- mit\n---\n", None), (b"# no front matter\nlicense: mit\n", None), (b"---\nlicense: mit\n", None),
        (b"text\n---\nlicense: mit\n---\n", None), (b"\xff", None),
    ],
)  # fmt: skip
def test_the_licence_of_a_model_card(card: bytes, licence: str | None) -> None:
    assert licence_of(card) == licence

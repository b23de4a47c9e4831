"""What of a repository is the model: with listings as publishers have them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.errors import BadReference, ModelNotFound, SourceError, Unsupported
from zhibei.options import Sampling
from zhibei.refs import ModelRef
from zhibei.store.digests import Digest
from zhibei.store.hub_fields import count_of, mapping_of, sha1_of, sha256_of, text_of, texts_of
from zhibei.store.model_defaults import sampling_from
from zhibei.store.repositories import (
    ListedFile,
    Location,
    NoSuchVariant,
    Picked,
    as_revision,
    gguf_variants,
    parse_location,
    pick,
    remote_file,
    source_of,
)
from zhibei.store.sources.base import Variant, prefer_four_bits

GIB = 1024**3


def listed(*names: str, size_bytes: int = GIB) -> list[ListedFile]:
    return [ListedFile(name, size_bytes + position, Digest("ab" * 32)) for position, name in enumerate(names)]


def picked(location: str, names: Iterable[str]) -> Picked:
    return pick(parse_location(location), "hf", listed(*names), prefer_four_bits)


def names_of(found: Picked) -> list[str]:
    return [file.name for file, _ in found.files]


def roles_of(found: Picked) -> dict[str, str]:
    return {file.name: role for file, role in found.files}


def labels_of(names: Iterable[str]) -> set[str]:
    return {variant.label for variant in gguf_variants(names)}


BARTOWSKI = [
    ".gitattributes",
    "README.md",
    *(
        f"Llama-3.2-3B-Instruct-{quant}.gguf"
        for quant in "IQ3_M IQ4_XS Q3_K_L Q3_K_XL Q4_0 Q4_0_4_4 Q4_0_8_8 Q4_K_L Q4_K_M Q4_K_S Q5_K_M Q6_K Q8_0 F16".split()
    ),
    "Llama-3.2-3B-Instruct.imatrix",
    "imatrix.gguf",
]
UNSLOTH = [
    *(f"BF16/DeepSeek-R1.BF16-{part:05}-of-00030.gguf" for part in range(1, 31)),
    *(f"DeepSeek-R1-UD-IQ1_S/DeepSeek-R1-UD-IQ1_S-{part:05}-of-00003.gguf" for part in range(1, 4)),
    *(f"UD-Q4_K_XL/DeepSeek-R1-UD-Q4_K_XL-{part:05}-of-00008.gguf" for part in range(1, 9)),
    *(f"Q2_K/model-{part:05}-of-00002.gguf" for part in (1, 2)),
    "config.json",
    "imatrix_unsloth.gguf",
]
QWEN = [
    "LICENSE",
    "qwen2.5-7b-instruct-fp16-00001-of-00002.gguf",
    "qwen2.5-7b-instruct-fp16-00002-of-00002.gguf",
    "qwen2.5-7b-instruct-q3_k_m.gguf",
    "qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf",
    "qwen2.5-7b-instruct-q4_k_m-00002-of-00002.gguf",
    "qwen2.5-7b-instruct-q8_0-00001-of-00003.gguf",
    "qwen2.5-7b-instruct-q8_0-00002-of-00003.gguf",
]
THE_BLOKE = ["config.json", "llama-2-7b-chat.Q2_K.gguf", "llama-2-7b-chat.Q4_K_M.gguf", "llama-2-7b-chat.Q8_0.gguf"]
GEMMA = [
    "gemma-3-4b-it-Q4_K_M.gguf",
    "gemma-3-4b-it-Q8_0.gguf",
    "mmproj-model-bf16.gguf",
    "mmproj-model-f16.gguf",
    "mmproj-model-f32.gguf",
]
SAFETENSORS = [
    ".gitattributes",
    "LICENSE",
    "README.md",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "modeling_custom.py",
    "pytorch_model.bin",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "onnx/model.onnx",
    "original/consolidated.00.pth",
    "training_args.bin",
]


class TestLocations:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("owner/name", Location("owner/name")),
            ("  owner/name ", Location("owner/name")),
            ("owner/name:Q4_K_M", Location("owner/name", None, "Q4_K_M")),
            ("owner/name:sub/dir/x.gguf", Location("owner/name", None, "sub/dir/x.gguf")),
            ("owner/name@v1.0", Location("owner/name", "v1.0")),
            ("owner/name@refs/pr/1:q8_0", Location("owner/name", "refs/pr/1", "q8_0")),
            ("owner/name/x.gguf", Location("owner/name", None, "x.gguf")),
            ("owner/name/resolve/main/x.gguf?download=true", Location("owner/name", "main", "x.gguf")),
            ("owner/name/blob/main/sub/x%20y.gguf", Location("owner/name", "main", "sub/x y.gguf")),
            ("owner/name/resolve/refs%2Fpr%2F1/x.gguf", Location("owner/name", "refs/pr/1", "x.gguf")),
            ("owner/name/tree/main", Location("owner/name", "main")),
            ("owner/name/tree/main/UD-Q4_K_XL", Location("owner/name", "main", "UD-Q4_K_XL")),
            ("0wner_1/na.me-2", Location("0wner_1/na.me-2")),
        ],
    )
    def test_that_parse(self, text: str, expected: Location) -> None:
        assert parse_location(text) == expected

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "owner",
            "owner/",
            "/name",
            "owner/name:",
            "owner/name@",
            "owner/name@:x",
            "owner/na me",
            "../name",
            "owner/..",
            "ow..ner/name",
            "owner/name@../x",
            "owner/name@a//b",
            "owner/name/../x",
            "owner/name/%2e%2e/x",
            "owner/name/resolve/main/../../x",
            "owner/name/resolve/..%2f/x",
            "owner/name:../x",
            "owner/name:a\\b",
            "owner/name/x.gguf:Q4_0",
            "owner/name@v1/x.gguf@v2",
            "ow#ner/name?x=1",
            "owner/name\nX: y",
            "o" * 200 + "/name",
        ],
    )
    def test_that_do_not(self, text: str) -> None:
        with pytest.raises(BadReference) as caught:
            parse_location(text)
        assert "owner/name" in (caught.value.hint_text or "")

    @given(st.text(max_size=60))
    def test_any_text_parses_or_is_a_bad_reference(self, text: str) -> None:
        try:
            found = parse_location(text)
        except BadReference:
            return
        assert found.repository.count("/") == 1
        assert not {"..", ""} & set(found.repository.split("/"))

    def test_what_is_no_variant_may_be_a_revision_unless_one_is_given(self) -> None:
        missing = NoSuchVariant("no")
        assert as_revision(parse_location("owner/name:v2"), missing) == Location("owner/name", "v2")
        for text in ("owner/name@main:v2", "owner/name:a b.gguf"):
            with pytest.raises(NoSuchVariant):
                as_revision(parse_location(text), missing)


class TestVariants:
    def test_bartowski(self) -> None:
        labels = labels_of(BARTOWSKI)
        assert {"IQ4_XS", "Q3_K_XL", "Q4_0_4_4", "Q4_K_L", "Q4_K_M", "F16"} <= labels
        assert len(labels) == 14

    def test_a_set_of_shards_is_one_and_a_directory_may_name_it(self) -> None:
        assert labels_of(UNSLOTH) == {"BF16", "UD-IQ1_S", "UD-Q4_K_XL", "Q2_K"}
        assert {variant.num_files for variant in gguf_variants(UNSLOTH)} == {30, 3, 8, 2}

    def test_the_blokes_dots(self) -> None:
        assert labels_of(THE_BLOKE) == {"Q2_K", "Q4_K_M", "Q8_0"}

    def test_an_incomplete_set_is_none(self) -> None:
        assert labels_of(QWEN) == {"FP16", "Q3_K_M", "Q4_K_M"}

    @pytest.mark.parametrize(
        ("name", "label"),
        [
            ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
            ("gpt-oss-20b-MXFP4_MOE.gguf", "MXFP4_MOE"),
            ("bitnet-TQ1_0.gguf", "TQ1_0"),
            ("x-UD-TQ1_0.gguf", "UD-TQ1_0"),
            ("Some-Model.i1-IQ2_XXS.gguf", "IQ2_XXS"),
            ("Model-Q4_K_M-imat.gguf", "Q4_K_M"),
            ("Model-Q5_K_S-imatrix.gguf", "Q5_K_S"),
            ("model-F32.gguf", "F32"),
            ("ggml-model-q4_0.gguf", "Q4_0"),
            ("q8_0.gguf", "Q8_0"),
            ("gemma-3-1b-it.gguf", "gemma-3-1b-it"),
            ("Phi-3-mini-4k-instruct-q4.gguf", "Q4"),
            ("tinyq4.gguf", "tinyq4"),
            ("MODEL-Q4_0.GGUF", "Q4_0"),
        ],
    )
    def test_labels(self, name: str, label: str) -> None:
        assert labels_of([name]) == {label}

    def test_what_is_no_model_is_none(self) -> None:
        names = [
            "imatrix.gguf",
            "Model.imatrix.gguf",
            "imatrix-Q8_0.gguf",
            "ggml-vocab-llama-bpe.gguf",
            "control-vector-good.gguf",
            "mmproj-Model-F16.gguf",
            "Model-mmproj-f16.gguf",
            "draft-Model-Q8_0.gguf",
            "Model-DRAFT-0.5B-Q4_0.gguf",
            "mtp-Model-Q8_0.gguf",
            "Model-eagle3-F16.gguf",
            "Model-lora-F16.gguf",
        ]
        assert labels_of([*names, "Model-Q4_0.gguf"]) == {"Q4_0"}

    def test_a_word_that_all_names_have_is_the_models_own(self) -> None:
        assert labels_of(["Qwen4-MTP-Q4_0.gguf", "Qwen4-MTP-Q8_0.gguf"]) == {"Q4_0", "Q8_0"}
        assert labels_of(["my-lora-merge-Q4_0.gguf"]) == {"Q4_0"}

    def test_two_models_in_one_repository_have_labels_that_differ(self) -> None:
        names = ["Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B-Q8_0.gguf", "Qwen3-8B-128K-Q4_K_M.gguf"]
        assert labels_of(names) == {"Q4_K_M", "Q8_0", "Qwen3-8B-128K-Q4_K_M"}
        assert names_of(picked("o/n:q4_k_m", names)) == ["Qwen3-8B-Q4_K_M.gguf"]
        assert str(picked("o/n:qwen3-8b-128k-q4_k_m", names).name) == "qwen3-8b-128k:q4_k_m"
        same = ["a/Model-Q4_0.gguf", "b/Model-Q4_0.gguf"]
        assert len(labels_of(same)) == 2

    @given(st.lists(st.text(alphabet="aQ4_KMm-./0f1", min_size=1, max_size=24).map(lambda text: text + ".gguf"), unique=True))
    def test_labels_always_differ(self, names: list[str]) -> None:
        labels = [variant.label.casefold() for variant in gguf_variants(names)]
        assert len(labels) == len(set(labels))


class TestPickingGguf:
    def test_the_named_one(self) -> None:
        found = picked("bartowski/Llama-3.2-3B-Instruct-GGUF:q5_k_m", BARTOWSKI)
        assert roles_of(found) == {"Llama-3.2-3B-Instruct-Q5_K_M.gguf": "model"}
        assert str(found.name) == "llama-3.2-3b-instruct:q5_k_m"
        assert found.notices == ()

    def test_all_its_shards_in_order(self) -> None:
        found = picked("Qwen/Qwen2.5-7B-Instruct-GGUF:Q4_K_M", QWEN)
        assert found.files[0][0].name.endswith("-00001-of-00002.gguf")
        assert set(roles_of(found).values()) == {"shard"}
        assert str(found.name) == "qwen2.5-7b-instruct:q4_k_m"
        by_shard = picked("Qwen/x:qwen2.5-7b-instruct-q4_k_m-00002-of-00002.gguf", QWEN)
        assert by_shard.files == found.files

    def test_in_subdirectories(self) -> None:
        for what in ("UD-Q4_K_XL", "q4_k_xl", "UD-Q4_K_XL/DeepSeek-R1-UD-Q4_K_XL-00005-of-00008.gguf"):
            found = picked(f"unsloth/DeepSeek-R1-GGUF:{what}", UNSLOTH)
            assert len(found.files) == 8
            assert str(found.name) == "deepseek-r1:ud-q4_k_xl"

    def test_marks_before_the_quantisation_may_be_left_out_or_written(self) -> None:
        names = ["Some-Model.i1-Q4_K_M.gguf", "Some-Model.i1-IQ1_S.gguf"]
        for what in ("Q4_K_M", "i1-q4_k_m"):
            assert names_of(picked(f"mradermacher/Some-Model-i1-GGUF:{what}", names)) == names[:1]
        assert names_of(picked("mradermacher/Some-Model-i1-GGUF", names)) == names[:1]

    def test_a_file_by_its_bare_name(self) -> None:
        found = picked("o/n:model-00001-of-00002.gguf", UNSLOTH)
        assert names_of(found) == ["Q2_K/model-00001-of-00002.gguf", "Q2_K/model-00002-of-00002.gguf"]

    def test_where_none_is_named_the_chooser_picks_and_the_person_is_told(self) -> None:
        seen: list[tuple[Variant, ...]] = []

        def choose(variants: tuple[Variant, ...]) -> Variant:
            seen.append(variants)
            return next(variant for variant in variants if variant.label == "Q8_0")

        found = pick(parse_location("TheBloke/Llama-2-7B-Chat-GGUF"), "hf", listed(*THE_BLOKE), choose)
        assert names_of(found) == ["llama-2-7b-chat.Q8_0.gguf"]
        assert {variant.label: variant.size_bytes for variant in seen[0]}["Q2_K"] == GIB + 1
        (notice,) = found.notices
        assert "Q8_0" in str(notice)
        assert "Q4_K_M (1.0 GiB)" in str(notice)

    def test_the_only_one_is_taken_without_a_word(self) -> None:
        found = picked("o/Tiny-GGUF", ["tiny.gguf", "README.md"])
        assert (names_of(found), str(found.name), found.notices) == (["tiny.gguf"], "tiny:latest", ())

    def test_a_missing_one_says_what_there_is(self) -> None:
        with pytest.raises(NoSuchVariant) as caught:
            picked("TheBloke/x:Q9_X", THE_BLOKE)
        assert "Q2_K (1.0 GiB)" in (caught.value.hint_text or "")
        assert "TheBloke/x has no Q9_X" in str(caught.value)

    def test_an_incomplete_one_says_so(self) -> None:
        with pytest.raises(ModelNotFound, match="only some") as caught:
            picked("Qwen/x:q8_0", QWEN)
        assert not isinstance(caught.value, NoSuchVariant)

    def test_a_projector_comes_along_f16_first(self) -> None:
        found = picked("google/gemma-3-4b-it-GGUF:Q8_0", GEMMA)
        assert roles_of(found) == {"gemma-3-4b-it-Q8_0.gguf": "model", "mmproj-model-f16.gguf": "projector"}
        assert "mmproj-model-f16.gguf" in str(found.notices[0])

    def test_of_several_models_projectors_the_right_one(self) -> None:
        names = ["a-4b-Q4_0.gguf", "a-9b-Q4_0.gguf", "mmproj-a-4b-Q8_0.gguf", "mmproj-a-9b-f16.gguf"]
        assert names_of(picked("o/n:a-4b-Q4_0.gguf", names)) == ["a-4b-Q4_0.gguf", "mmproj-a-4b-Q8_0.gguf"]
        assert names_of(picked("o/n:a-9b-Q4_0.gguf", names)) == ["a-9b-Q4_0.gguf", "mmproj-a-9b-f16.gguf"]

    def test_a_projector_alone_is_no_model_but_can_be_named(self) -> None:
        with pytest.raises(ModelNotFound):
            picked("o/n", ["mmproj-f16.gguf"])
        assert roles_of(picked("o/n:mmproj-model-f32.gguf", GEMMA)) == {"mmproj-model-f32.gguf": "model"}

    def test_a_draft_is_told_of_and_not_fetched(self) -> None:
        names = ["Model-Q4_0.gguf", "draft-Model-Q8_0.gguf"]
        found = picked("o/n", names)
        assert names_of(found) == ["Model-Q4_0.gguf"]
        assert "zhibei pull hf:o/n:draft-Model-Q8_0.gguf" in str(found.notices[-1])
        assert names_of(picked("o/n:draft-Model-Q8_0.gguf", names)) == ["draft-Model-Q8_0.gguf"]

    def test_gguf_goes_before_safetensors_unless_those_are_named(self) -> None:
        both = [*SAFETENSORS, "model-Q4_0.gguf"]
        assert names_of(picked("o/n", both)) == ["model-Q4_0.gguf"]
        assert roles_of(picked("o/n:safetensors", both))["model-00001-of-00002.safetensors"] == "weights"

    def test_a_stray_gguf_that_is_no_model_does_not_hide_the_weights(self) -> None:
        assert picked("o/n", [*SAFETENSORS, "imatrix.gguf"]).files[0][1] == "weights"


def recorded(location: str, names: Iterable[str], understood: Location | None = None) -> str:
    """What is recorded for a location; ``understood``: as which it was taken, if not as it was written."""
    place = understood or parse_location(location)
    return source_of("hf", location, place, pick(place, "hf", listed(*names), prefer_four_bits))


class TestRecordedSources:
    def test_name_the_variant_that_was_chosen(self) -> None:
        assert recorded("bartowski/Llama-3.2-3B-Instruct-GGUF", BARTOWSKI) == "hf:bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M"
        assert recorded("unsloth/DeepSeek-R1-GGUF", UNSLOTH) == "hf:unsloth/DeepSeek-R1-GGUF:UD-Q4_K_XL"
        assert recorded("google/gemma-3-4b-it-GGUF", GEMMA) == "hf:google/gemma-3-4b-it-GGUF:Q4_K_M"

    def test_keep_the_revision_however_it_was_written(self) -> None:
        assert recorded("TheBloke/x@v1.0", THE_BLOKE) == "hf:TheBloke/x@v1.0:Q4_K_M"
        assert recorded("TheBloke/x/tree/main", THE_BLOKE) == "hf:TheBloke/x@main:Q4_K_M"
        assert recorded("TheBloke/x:v1.0", THE_BLOKE, Location("TheBloke/x", "v1.0")) == "hf:TheBloke/x@v1.0:Q4_K_M"

    @pytest.mark.parametrize("location", ["TheBloke/x:q8_0", "TheBloke/x:llama-2-7b-chat.Q8_0.gguf", " TheBloke/x@v1:Q8_0 "])
    def test_are_as_they_were_written_where_that_names_it(self, location: str) -> None:
        assert recorded(location, THE_BLOKE) == f"hf:{location.strip()}"

    def test_of_the_only_one_name_its_quantisation_lest_another_joins_it(self) -> None:
        assert recorded("o/n", ["x-Q8_0.gguf"]) == "hf:o/n:Q8_0"
        assert recorded("o/n", ["tiny.gguf"]) == "hf:o/n"
        assert recorded("o/n", SAFETENSORS) == "hf:o/n"

    def test_take_the_file_where_the_label_would_be_taken_for_something_else(self) -> None:
        assert recorded("o/n", ["safetensors.gguf", "x-large.gguf"]) == "hf:o/n:safetensors.gguf"
        assert recorded("o/n", ["i1-a.gguf", "i1-b.gguf"]) == "hf:o/n:i1-a.gguf"

    @given(
        st.lists(st.text(alphabet="aQ4_KMm-./0f1 i@", min_size=1, max_size=16).map(lambda text: text + ".gguf"), max_size=6),
        st.integers(0, 5),
    )
    def test_lead_to_the_same_files_whatever_else_is_preferred_by_then(self, names: list[str], position: int) -> None:
        place = parse_location("o/n")
        try:
            found = pick(place, "hf", listed(*names), lambda variants: variants[position % len(variants)])
        except (SourceError, ModelNotFound):
            return
        source = source_of("hf", "o/n", place, found)
        again = pick(parse_location(source.removeprefix("hf:")), "hf", listed(*names), lambda variants: variants[0])
        assert again.files == found.files
        assert again.name == found.name
        assert ModelRef.parse(source) == ModelRef("hf", source.removeprefix("hf:"))


class TestNames:
    @pytest.mark.parametrize(
        "name", ["../x.gguf", "/x.gguf", "a/../x.gguf", "con.gguf", "x\x1b[2J.gguf", "C:\\x.gguf", "..\\x.safetensors"]
    )
    def test_that_are_not_harmless_refuse_the_listing(self, name: str) -> None:
        with pytest.raises(SourceError):
            picked("o/n", ["Model-Q4_0.gguf", name])

    def test_that_differ_in_case_alone_refuse_it_too(self) -> None:
        with pytest.raises(SourceError):
            picked("o/n", ["Model-Q4_0.gguf", "model-q4_0.gguf"])

    def test_of_files_that_are_never_taken_do_not_matter(self) -> None:
        assert names_of(picked("o/n", ["a:b?.png", "readme.md", "README.md", "Model-Q4_0.gguf"])) == ["Model-Q4_0.gguf"]

    @pytest.mark.parametrize(
        ("repository", "expected"),
        [
            ("o/Model-GGUF", "model:q4_0"),
            ("o/Model_gguf", "model:q4_0"),
            ("o/Mo.del-1.5B", "mo.del-1.5b:q4_0"),
            ("o/con", None),
        ],
    )
    def test_of_models_come_from_the_repository(self, repository: str, expected: str | None) -> None:
        found = picked(repository, ["x-Q4_0.gguf"]).name
        assert (None if found is None else str(found)) == expected


class TestPickingSafetensors:
    def test_weights_first_then_what_belongs_to_them_and_no_code(self) -> None:
        found = picked("Qwen/Qwen3-0.6B", SAFETENSORS)
        roles = roles_of(found)
        assert [role for _, role in found.files][:2] == ["weights", "weights"]
        assert roles["LICENSE"] == "licence"
        config = {name for name, role in roles.items() if role == "config"}
        assert config == {
            "config.json",
            "generation_config.json",
            "merges.txt",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
        }
        assert len(roles) == 10
        assert str(found.name) == "qwen3-0.6b:safetensors"

    def test_an_embedding_model(self) -> None:
        names = [
            "1_Pooling/config.json",
            "config.json",
            "config_sentence_transformers.json",
            "model.safetensors",
            "modules.json",
            "sentence_bert_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "vocab.txt",
            "openvino/openvino_model.bin",
            "tf_model.h5",
        ]
        assert set(names_of(picked("o/n", names))) == set(names[:-2])

    def test_a_second_copy_in_another_layout_is_left_out(self) -> None:
        names = ["config.json", "consolidated.safetensors", "model.safetensors", "params.json", "tekken.json"]
        assert names_of(picked("o/n", names)) == ["model.safetensors", "config.json", "tekken.json"]
        assert names_of(picked("o/n", ["config.json", "consolidated.safetensors"]))[0] == "consolidated.safetensors"

    def test_weights_beside_the_model_belong_to_it(self) -> None:
        names = ["config.json", "model-mtp.safetensors", "model.safetensors"]
        assert names_of(picked("o/n", names)) == ["model.safetensors", "model-mtp.safetensors", "config.json"]

    def test_variants_of_precision(self) -> None:
        names = [
            "config.json",
            "model.fp16-00001-of-00001.safetensors",
            "model.safetensors",
            "model.safetensors.index.fp16.json",
            "model.safetensors.index.json",
        ]
        plain, half = picked("o/n", names), picked("o/n:FP16", names)
        assert names_of(plain) == ["model.safetensors", "config.json", "model.safetensors.index.json"]
        assert names_of(half) == [
            "model.fp16-00001-of-00001.safetensors",
            "config.json",
            "model.safetensors.index.fp16.json",
        ]
        assert (str(plain.name), str(half.name)) == ("n:safetensors", "n:fp16")
        only = picked("o/n", ["config.json", "model.fp16.safetensors"])
        assert names_of(only) == ["model.fp16.safetensors", "config.json"]

    def test_a_missing_variant(self) -> None:
        with pytest.raises(NoSuchVariant) as caught:
            picked("o/n:Q4_K_M", SAFETENSORS)
        assert "safetensors" in (caught.value.hint_text or "")

    def test_a_missing_shard(self) -> None:
        with pytest.raises(ModelNotFound, match="only some"):
            picked("o/n", [name for name in SAFETENSORS if "00002-of" not in name])

    @pytest.mark.parametrize(
        ("names", "error"),
        [
            (["adapter_config.json", "adapter_model.safetensors"], Unsupported),
            (["model.safetensors", "README.md"], Unsupported),
            (["config.json", "pytorch_model.bin"], Unsupported),
            (["model.ckpt"], Unsupported),
            (["config.json", "model.onnx"], Unsupported),
            (["unet/diffusion_pytorch_model.safetensors", "model_index.json"], ModelNotFound),
            (["README.md", "data.csv"], ModelNotFound),
            ([], ModelNotFound),
        ],
    )
    def test_what_cannot_be_pulled_says_what_to_do(self, names: list[str], error: type[Exception]) -> None:
        with pytest.raises(error) as caught:
            picked("owner/Some-Model", names)
        assert getattr(caught.value, "hint_text", None)


class TestFields:
    def test_are_of_their_type_or_nothing(self) -> None:
        assert (text_of("a"), text_of(""), text_of(1), text_of("a\x1b[2J"), text_of("x" * 2000)) == ("a", None, None, None, None)
        assert texts_of(["a", 1, "b"]) == ("a", "b")
        assert (texts_of("a"), texts_of(None)) == (("a",), ())
        assert (count_of(3), count_of(-1), count_of(True), count_of(1.5), count_of(2**70)) == (3, None, None, None, None)
        assert mapping_of([]) is None
        assert sha1_of("A" * 40) == "a" * 40
        assert (sha1_of("a" * 39), sha256_of("a" * 63), sha256_of("g" * 64), sha256_of(5)) == (None, None, None, None)
        assert sha256_of("AB" * 32) == Digest("ab" * 32)

    def test_a_file_without_sha256_is_known_by_its_git_name(self) -> None:
        small = remote_file(ListedFile("config.json", 3, None, "a" * 40), "config", "hf:o/n@c/config.json")
        assert small.validator == f"git:{'a' * 40}"
        assert remote_file(ListedFile("x.gguf", 3, Digest("ab" * 32), "a" * 40), "model", "o").validator is None

    def test_sampling(self) -> None:
        found = sampling_from({"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "do_sample": True})
        assert found == Sampling(temperature=0.7, top_p=0.8, top_k=20, repeat_penalty=1.05)
        wrong = {"temperature": "hot", "top_p": 7, "top_k": True, "repetition_penalty": float("nan"), "min_p": 10**400}
        assert sampling_from(wrong) == Sampling()

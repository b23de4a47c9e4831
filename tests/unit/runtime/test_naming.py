"""Aliases, and what the settings say of which model."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from zhibei.errors import BadSetting
from zhibei.models import StoredModel
from zhibei.options import LoadOptions, Sampling
from zhibei.runtime.naming import aliases_of, settings_of, target_of, wishes_of
from zhibei.settings import ModelSettings, Settings

SETTINGS = Settings(
    keep_alive="7m",
    load=LoadOptions(ctx_size=1024, threads=2),
    sampling=Sampling(temperature=0.5, top_k=10),
    models={
        "Qwen:7b": ModelSettings(aliases=("gpt-4o", "My Model")),
        "small": ModelSettings(
            aliases=("tiny:v2",),
            pin=True,
            keep_alive="1h",
            system="Be brief.",
            load=LoadOptions(ctx_size=4096),
            sampling=Sampling(temperature=0.0),
        ),
    },
)


def stored(name: str) -> StoredModel:
    return StoredModel(name, (), None, "test", datetime.now(timezone.utc))


def test_aliases_as_they_are_written() -> None:
    assert aliases_of(SETTINGS) == {"gpt-4o": "Qwen:7b", "My Model": "Qwen:7b", "tiny:v2": "small"}
    assert aliases_of(Settings()) == {}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("gpt-4o", "Qwen:7b"),
        ("GPT-4o:latest", "Qwen:7b"),
        (" my model ", "Qwen:7b"),
        ("tiny:v2", "small"),
        ("tiny", None),
        ("small", None),
        ("", None),
    ],
)
def test_what_an_alias_stands_for(name: str, target: str | None) -> None:
    assert target_of(SETTINGS, name) == target


@pytest.mark.parametrize("name", ["small", "small:latest", "SMALL", "Small:LATEST"])
def test_the_table_of_a_model_is_found_however_its_name_is_written(name: str) -> None:
    assert settings_of(SETTINGS, name).pin
    assert settings_of(SETTINGS, "else", name).pin


def test_a_model_without_a_table() -> None:
    assert settings_of(SETTINGS, "small:q8") == ModelSettings()


def test_what_is_wanted_of_a_model_is_its_own_table_over_what_is_said_for_all() -> None:
    wishes = wishes_of(SETTINGS, stored("small:latest"))
    assert wishes.load == LoadOptions(ctx_size=4096, threads=2)
    assert wishes.sampling == Sampling(temperature=0.0, top_k=10), "zero is a value"
    assert (wishes.keep_alive, wishes.system, wishes.pin, wishes.aliases) == ("1h", "Be brief.", True, ("tiny:v2",))
    others = wishes_of(SETTINGS, stored("other:latest"))
    assert (others.load, others.keep_alive, others.system, others.pin) == (SETTINGS.load, "7m", None, False)


def test_a_table_that_is_named_by_a_reference() -> None:
    settings = Settings(models={"upstream:lab/Qwen3": ModelSettings(system="Hm.")})
    assert wishes_of(settings, stored("lab/qwen3"), "upstream:lab/Qwen3").system == "Hm."


@pytest.mark.parametrize(
    "models",
    [
        {"a": ModelSettings(aliases=("x",)), "b": ModelSettings(aliases=("X:latest",))},
        {"a": ModelSettings(aliases=(" ",))},
    ],
)
def test_an_alias_stands_for_one_model_and_is_not_empty(models: dict[str, ModelSettings]) -> None:
    with pytest.raises(BadSetting):
        aliases_of(Settings(models=models))


def test_an_alias_that_a_model_has_twice_is_no_harm() -> None:
    assert target_of(Settings(models={"a": ModelSettings(aliases=("x", "X"))}), "x") == "a"

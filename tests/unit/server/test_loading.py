"""What a request may say on how its model is loaded."""

from __future__ import annotations

import pytest

from zhibei.errors import BadRequest
from zhibei.options import LoadOptions
from zhibei.server.loading import LoadBody, load_options


def test_what_a_request_says_is_what_is_loaded() -> None:
    body = LoadBody.model_validate({"ctx_size": 4096, "kernels": False, "tensor_split": [3, 1]})
    assert load_options(body) == LoadOptions(ctx_size=4096, kernels=False, tensor_split=(3.0, 1.0))
    assert load_options(LoadBody()) == load_options(None) == LoadOptions()


def test_a_request_names_no_files() -> None:
    with pytest.raises(BadRequest) as raised:
        load_options(LoadBody(draft_model="/etc/passwd"))
    assert raised.value.values["param"] == "load.draft_model"

"""llama-server's bodies to requests: whatever comes in, a value or a refusal in words comes out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from zhibei.errors import BadRequest, Unsupported
from zhibei.server.llama_server import schema, translate

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted(schema.CompletionBody.model_fields)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6), JSON)
def test_any_body_is_understood_or_refused(fields: dict[str, Any], prompt: Any) -> None:
    try:
        wanted = translate.completion(schema.CompletionBody.model_validate({"prompt": prompt} | fields))
    except (ValidationError, BadRequest):
        return
    assert 1 <= len(wanted.prompts) <= schema.MAX_PROMPTS
    assert all(wanted.limits.stop)
    assert wanted.limits.max_tokens is None or wanted.limits.max_tokens >= 1
    assert all(abs(bias) <= 1e9 for _, bias in (*wanted.sampling.logit_bias, *wanted.biases))
    assert wanted.sampling.seed is None or 0 <= wanted.sampling.seed < 2**32 - 1
    assert translate.settings_json(wanted, stream=False)["n_predict"] >= -1


def _wanted(**fields: Any) -> translate.Wanted:
    return translate.completion(schema.CompletionBody.model_validate({"prompt": "x"} | fields))


def test_lengths() -> None:
    assert _wanted().limits.max_tokens is None
    assert _wanted(n_predict=-1).limits.max_tokens is None
    assert _wanted(n_predict=5, max_tokens=7).limits.max_tokens == 5
    assert _wanted(max_tokens=7).limits.max_tokens == 7
    silent = _wanted(n_predict=0)
    assert silent.is_silent and silent.limits.max_tokens == 1
    assert translate.settings_json(silent, stream=False)["n_predict"] == 0


def test_values_that_change_nothing_are_not_reported() -> None:
    neutral = {
        "cache_prompt": True,
        "id_slot": -1,
        "n_keep": 0,
        "dynatemp_range": 0.0,
        "top_n_sigma": -1,
        "lora": [],
        "grammar": "",
    }
    assert _wanted(**neutral, n_cmpl=1, post_sampling_probs=False).ignored == ()
    assert _wanted(cache_prompt=False, id_slot=2, novel=1).ignored == ("cache_prompt", "id_slot", "novel")


@pytest.mark.parametrize("field", [{"grammar": "x"}, {"lora": [{"id": 0}]}, {"n_cmpl": 3}, {"post_sampling_probs": True}])
def test_what_cannot_be_done_is_refused_by_name(field: dict[str, Any]) -> None:
    with pytest.raises(Unsupported) as caught:
        _wanted(**field)
    assert [caught.value.param] == list(field)

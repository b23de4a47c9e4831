"""Fill the gap between two texts: what a model was trained to see around them. Pure.

llama.cpp's own ``/infill`` cuts what does not fit one batch, and says nothing; so it is asked once what it would write
around two short words, and prompts are then made here, whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PREFIX, SUFFIX = "before", "after"
# Answered before anything is computed: 501 where the model has no tokens for it, else 400 for the extra that is no list.
QUESTION = {"input_prefix": "", "input_suffix": "", "input_extra": 0}
SAMPLE = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "n_predict": 0, "stream": False, "cache_prompt": False}


@dataclass(frozen=True, slots=True)
class Marks:
    """Token ids before the prefix, between prefix and suffix, and before what is to be written."""

    head: tuple[int, ...]
    middle: tuple[int, ...]
    end: tuple[int, ...]

    def around(self, prefix: tuple[int, ...], suffix: tuple[int, ...]) -> tuple[int, ...]:
        """The prompt."""
        return (*self.head, *prefix, *self.middle, *suffix, *self.end)


def cut(answer: dict[str, Any]) -> tuple[str, str, str]:
    """The three texts around the sample's words, in the answer to ``SAMPLE``.

    Raises:
        ValueError: they are not where they should be.
    """
    head, found, rest = str(answer.get("prompt")).rpartition(PREFIX)
    middle, found_too, end = rest.partition(SUFFIX)
    if not (found and found_too and head and middle and end):
        raise ValueError("the sample is not in it")
    # A space belongs to the word beside it: some vocabularies write it, some do not.
    return head.rstrip(" "), middle.strip(" "), end.strip(" ")

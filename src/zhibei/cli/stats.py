"""The line of figures after an answer."""

from __future__ import annotations

from zhibei.cli.answers import Answer
from zhibei.cli.invocation import Invocation


def stats_line(invocation: Invocation, answer: Answer) -> str:
    """Tokens, speed and times of an answer, as far as they are known."""
    parts: list[str] = []
    finished = answer.finished
    if finished is not None:
        usage = finished.usage
        parts.append(
            invocation.text(
                "prompt {tokens} tokens ({cached} cached)", tokens=usage.num_prompt_tokens, cached=usage.num_cached_tokens
            )
        )
        parts.append(invocation.text("answer {tokens} tokens", tokens=usage.num_generated_tokens))
        timings = finished.timings
        if timings is not None and timings.prompt_tokens_per_s:
            parts.append(invocation.text("reading {rate} tokens/s", rate=_rate(timings.prompt_tokens_per_s)))
        if timings is not None and timings.generation_tokens_per_s:
            parts.append(invocation.text("writing {rate} tokens/s", rate=_rate(timings.generation_tokens_per_s)))
    if answer.first_token_s is not None:
        parts.append(invocation.text("first token after {seconds} s", seconds=f"{answer.first_token_s:.2f}"))
    if answer.load_s is not None:
        parts.append(invocation.text("loading {seconds} s", seconds=f"{answer.load_s:.2f}"))
    parts.append(invocation.text("{seconds} s in all", seconds=f"{answer.total_s:.2f}"))
    return " · ".join(parts)


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:.0f}" if tokens_per_s >= 100 else f"{tokens_per_s:.1f}"

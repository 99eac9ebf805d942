"""A client for dmap: it counts before it sends, knows when to try again, and begins a trace."""

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from openai import APIStatusError, NotFoundError, OpenAI, Timeout

CONNECT_S = 5
SILENT_S = 330
"""A stream may be silent for dmap's `first_byte_s` (300); while it waits, a comment comes each 15 s."""
WHOLE_S = 900
"""An answer that is not streamed says nothing for `wait_s` (300), a load, and `first_byte_s` (300)."""
RETRIES = 3
"""Tries after the first."""
RETRIED = (429, 502, 503)
PAUSE_S = 0.5
"""The pause before the second try where no `Retry-After` tells; it doubles from try to try."""
TEMPLATE_TOKENS = 256
"""What a chat template may add to a prompt."""

T = TypeVar("T")


class TooLong(Exception):
    """The prompt does not fit into the model's context."""


class Client:
    """One app's door to dmap."""

    def __init__(self, base_url: str, api_key: str) -> None:
        # The client's own retries would repeat 408, 409, 500 and 504 too, and what was slow or cut off.
        self._openai = OpenAI(base_url=base_url, api_key=api_key, max_retries=0)

    def whole(self, model: str, prompt: str, trace: str) -> str:
        """Return the answer to *prompt* once it is whole."""
        told = self._asked(model, prompt, trace, timeout=Timeout(WHOLE_S, connect=CONNECT_S))
        return str(told.choices[0].message.content)

    def stream(self, model: str, prompt: str, trace: str) -> Iterator[str]:
        """
        Yield the answer to *prompt* as it is made; closing the iterator stops the model.

        Only the begin is tried again: words that came stay said.
        """
        timeout = Timeout(SILENT_S, connect=CONNECT_S)
        with self._asked(model, prompt, trace, timeout=timeout, stream=True) as chunks:
            for chunk in chunks:
                yield from (choice.delta.content or "" for choice in chunk.choices)

    def check_length(self, model: str, prompt: str, trace: str) -> None:
        """
        Raise `TooLong` if *prompt* cannot fit into the context of *model*.

        A token has at least one byte, so what is short needs no count.  Where nobody can count, dmap refuses
        by itself what it knows not to fit.
        """
        known = retried(lambda: self._openai.models.retrieve(model, extra_headers=span_of(trace)))
        context = getattr(known, "context_length", None)
        if context is None or len(prompt.encode()) + TEMPLATE_TOKENS <= context:
            return
        count = self._counted(model, prompt, trace)
        if count is not None and count > context:
            raise TooLong(f"the prompt has {count} tokens, and {model} takes {context}")

    def _asked(self, model: str, prompt: str, trace: str, **options: Any) -> Any:
        self.check_length(model, prompt, trace)
        messages: Any = [{"role": "user", "content": prompt}]
        create = self._openai.chat.completions.create
        return retried(
            lambda: create(model=model, messages=messages, extra_headers=span_of(trace), **options)
        )

    def _counted(self, model: str, prompt: str, trace: str) -> int | None:
        count = self._openai.responses.input_tokens.count
        try:
            told = retried(lambda: count(model=model, input=prompt, extra_headers=span_of(trace)))
        except NotFoundError:  # LM Studio has no such route
            return None
        return told.input_tokens


def new_trace() -> str:
    """Return the id of a new trace, for all that belongs to one question: dmap's log and traces have it."""
    return secrets.token_hex(16)


def span_of(trace: str) -> dict[str, str]:
    """Return the header that makes a request a part of *trace* (W3C Trace Context), and has it recorded."""
    return {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}


def retried(ask: Callable[[], T]) -> T:
    """Do *ask* until it succeeds, fails for good, or has failed often enough."""
    for tried in range(RETRIES):
        try:
            return ask()
        except APIStatusError as error:
            if error.status_code not in RETRIED or error.response.headers.get("x-should-retry") == "false":
                raise
            time.sleep(_told_s(error) or PAUSE_S * 2**tried)
    return ask()


def _told_s(error: APIStatusError) -> float:
    """Return the seconds of `Retry-After`; 0 where it has none, for it may be a date, too."""
    told = error.response.headers.get("Retry-After", "")
    return float(told) if told.isdigit() else 0.0

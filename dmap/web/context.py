"""
The context guard: a prompt that cannot fit is refused before it queues, instead of being truncated.

Only the prompt counts, not `max_tokens`: servers stop at the end of the context.  The backend is asked for a
count first, then the tokenizer file of the model; if neither tells, there is the bound of `dmap/tokens.py`.
What nobody can tell is let through.
"""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from dmap.backends import Backend, Unheard, ask
from dmap.config import Config
from dmap.errors import BackendDown, ContextExceeded
from dmap.logfmt import Line
from dmap.models import ModelKey, Route
from dmap.tokens import TokenCounter, WordBound, units
from dmap.web.beside import beside
from dmap.wire.body import Call
from dmap.wire.prompt import LOOK, Prompt, count_of, prompt_of, question
from dmap.wire.routes import InferenceRoute

COUNT_S = 5.0
"""How long a request waits for its turn with the backends, for a backend's count, and for a tokenizer."""
ASK_AGAIN_S = 60.0
"""How long a backend that did not count is not asked again."""
COUNTS = 2
"""Counts at once, of each kind: they take CPU time that no queue gives out."""
ANSWER_BYTES = 64 * 2**20
"""Of a count: llama.cpp lists every token, of `LOOK` at most, some ten bytes each."""

_NO_COUNT = (200, 404, 405, 501)
"""What servers say that do not count; LM Studio says 200 to every path."""

_log = logging.getLogger(__name__)
_threads = ThreadPoolExecutor(max_workers=COUNTS, thread_name_prefix="counts")
"""For tokenizers.  A client that leaves does not end a count, so that keeps its thread."""


class ContextGuard:
    """
    Refuses prompts that do not fit, and learns from answers which models its bound does not hold for.

    *counters* are those of the tokenizer files (`tokens.counters`); they may be set anew.
    """

    def __init__(
        self, config: Config, backends: Mapping[str, Backend], counters: Mapping[Path, TokenCounter]
    ) -> None:
        self.counters = counters
        self._backends = backends
        self._kind_of = config.kind_of
        self._bounds: dict[ModelKey, WordBound] = {}
        self._silent: dict[str, float] = {}
        self._turns = asyncio.Semaphore(COUNTS)

    async def check(self, route: Route, path: InferenceRoute, call: Call) -> None:
        """
        Refuse *call*, a request for *path* as the backend shall have it, if its prompt cannot fit.

        Raises `ContextExceeded` with both numbers.  A body of no more bytes than the context has tokens is
        not even looked at, for a token is at least one byte.
        """
        context, size = route.context_length, len(call.body)
        if context is None or size <= context:
            return
        prompt = await beside(size, lambda: prompt_of(path.contents, call.fields))
        if prompt is None or prompt.size <= context:
            return
        count = await self._exact(route, path, call, prompt)
        least = "" if count is not None and prompt.size <= LOOK else "at least "
        if count is None:
            units_seen = await beside(size, lambda: units(prompt.seen()))
            count = prompt.ids + self._bounds.get(route.key, WordBound()).at_least(units_seen)
        if count > context:
            reason = f"the prompt has {least}{count:,} tokens, more than the context of {context:,}"
            raise ContextExceeded(f"{reason} that {route.key.model!r} has", param=path.contents.texts[-1])

    def learn(self, route: Route, path: InferenceRoute, call: Call, tokens: int | None) -> None:
        """
        Compare the *tokens* that were read for an answer with the words of its request, *call*.

        This looks only at prompts that no server has to truncate, because they have no more bytes than the
        context has tokens.  So a server that truncates the others cannot switch the bound off.
        """
        context = route.context_length
        if not tokens or context is None or len(call.body) > context:
            return
        bound = self._bounds.setdefault(route.key, WordBound())
        prompt = None if bound.settled else prompt_of(path.contents, call.fields)
        if prompt is not None:
            bound.see(prompt.ids + units(prompt.texts), tokens)

    async def _exact(self, route: Route, path: InferenceRoute, call: Call, prompt: Prompt) -> int | None:
        """Return how many tokens *prompt* has, by its backend or a tokenizer; None if neither can tell."""
        if not prompt.texts:
            return prompt.ids
        count = await self._asked(route, path, call, prompt) if prompt.size <= LOOK else None
        counter = self.counters.get(route.tokenizer) if route.tokenizer is not None else None
        if count is None and counter is not None:
            loop = asyncio.get_running_loop()
            with suppress(TimeoutError):
                async with asyncio.timeout(COUNT_S):
                    count = await loop.run_in_executor(_threads, counter.count, prompt.seen())
        return None if count is None else count + prompt.ids

    async def _asked(self, route: Route, path: InferenceRoute, call: Call, prompt: Prompt) -> int | None:
        """Return how many tokens *prompt* has; None when the backend of *route* does not tell."""
        (name, model), now = route.key, asyncio.get_running_loop().time()
        kind = self._kind_of(name)
        own = kind.counts.get(path.path)
        where = own or kind.tokenizes_at
        if where is None or now < self._silent.get(name, 0):
            return None
        write = call.written if own else lambda: question(route.name, prompt)
        sent = await beside(len(call.body), write)
        try:
            target = self._backends[name].target(model, where)
        except BackendDown:  # not resident: its engine will refuse what does not fit
            return None
        try:
            async with asyncio.timeout(COUNT_S):
                await self._turns.acquire()
        except TimeoutError:
            return None
        try:
            status, answer = await ask(target, body=sent, within_s=COUNT_S, most_bytes=ANSWER_BYTES)
        except (Unheard, TimeoutError) as exc:
            self._silent[name] = now + ASK_AGAIN_S
            reason = str(exc) or "no answer in time"
            _log.warning(Line("not_counted", {"backend": name, "model": model, "reason": reason}))
            return None
        finally:
            self._turns.release()
        count = await beside(len(answer), lambda: count_of(answer)) if status == 200 else None
        if count is None and status in _NO_COUNT:
            self._silent[name] = now + ASK_AGAIN_S
        return count

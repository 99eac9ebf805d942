"""
One connection to Redis, and the breaker in front of it.

What is asked while a round trip is under way goes out together with the next one, in the order in which it
was asked (Redis, "Pipelining").  So one connection is enough, a crowd costs a few round trips, and nobody
who asks can be cancelled in the middle of a command: the answer to it is read by the one task that sent it,
whether somebody still wants it or not.  An answer under a wrong key (redis-py #2624) cannot come about.

There are two states.  Up: commands are sent; `FAILURES` round trips in a row that fail lead down, and so does
a probe that Redis refuses, as one that is full does, or to which it says what makes no sense.  Another
command that it refuses fails alone: somebody's data under one key is no reason to go without the others.
Down: each command fails at once with `Away`, and only the probe is sent; the first one that is answered in
time leads up.  Before the first probe the state is down, so no request ever waits for a connection to be
made.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from dmap.config import RedisSection
from dmap.hosts import HOSTS
from dmap.logfmt import Line

FAILURES = 3
"""So many round trips in a row fail before it counts as down."""
BATCH = 128
"""Commands in one round trip; a script takes Redis some 60 us, so that leaves most of the 50 ms."""
QUEUE = 4096
"""Commands that wait for a round trip; with more the newest fail at once."""
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""What our scripts return."""
CONNECT_S = 1.0
"""What a probe may take at least, which connects, with TLS and a password, beside a loop that is busy."""

_log = logging.getLogger(__name__)


class Away(Exception):
    """Redis does not answer, or not in time.  What was asked may have been done all the same."""


class _Refused(Away):
    """Redis has answered with an error, or with what is no answer to that."""


class _Asked(NamedTuple):
    """One command: *op* is what metrics call it, *answer* is None where nobody wants one."""

    op: str
    command: tuple[Any, ...]
    at: float
    answer: "asyncio.Future[Any] | None"


@contextlib.asynccontextmanager
async def in_time(within_s: float) -> AsyncGenerator[None]:
    """
    Have what is asked within answered in *within_s*, or raise `Away`: for requests, which wait for no others.

    An answer may take two round trips, that under way and its own, and in a crowd more.
    """
    try:
        async with asyncio.timeout(within_s):
            yield
    except TimeoutError:
        raise Away("no answer in time") from None


def shaped(answer: Any, shape: Any) -> Any:
    """Return *answer* as a *shape*, a type; raises `Away` if it is none."""
    try:
        return msgspec.convert(answer, shape)
    except msgspec.ValidationError as exc:
        raise _Refused(f"what it says makes no sense ({exc})") from None


class Connection:
    """
    The connection that *section* describes.  It is made by `running`, as long as that is open.

    *observe* is called with what was asked (`op`) and the seconds until its answer.  A round trip takes
    *within_s* at the most.
    """

    def __init__(
        self, section: RedisSection, observe: Callable[[float, str], None] = lambda seconds, op: None
    ) -> None:
        self.is_up = False
        self.reason = "not asked yet"
        self._observe = observe
        self._place, self.within_s = section.place, section.timeout_ms / 1000
        self._connect_s = max(CONNECT_S, self.within_s)
        parts = urlsplit(section.url)
        self._host, self._password = parts.hostname, unquote(parts.password or "")
        tls: dict[str, Any] = {"ssl_ca_certs": str(section.ca)} if section.ca is not None else {}
        self._redis = Redis.from_url(
            section.url,
            socket_timeout=None,  # each round trip has its bound
            socket_connect_timeout=self._connect_s,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
            max_connections=1,
            **tls,
        )
        self._waiting = deque[_Asked]()
        self._bell = asyncio.Event()
        self._failures = 0
        self._was_told = False
        self._refused = set[str]()

    async def ask(self, op: str, *command: Any, shape: Any = Any) -> Any:
        """
        Return Redis's answer to *command*, which has that *shape*, a type; raises `Away`.

        Whoever is cancelled meanwhile takes nothing back: the command is done, in its turn.
        """
        return shaped(await self.post(op, *command), shape)

    def post(self, op: str, *command: Any) -> "asyncio.Future[Any]":
        """Return what will be the answer to *command*, or `Away`, which is raised if that is known now."""
        if not self.is_up or len(self._waiting) >= QUEUE:
            raise Away(self.reason)
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self._put(_Asked(op, command, loop.time(), answer))
        return answer

    def tell(self, op: str, *command: Any) -> bool:
        """Have *command* done soon, and return whether that can be; nobody hears what becomes of it."""
        if not self.is_up or len(self._waiting) >= QUEUE:
            return False
        self._put(_Asked(op, command, asyncio.get_running_loop().time(), None))
        return True

    async def probe(self, op: str, *command: Any, shape: Any = Any) -> Any:
        """Return the same as `ask`, also in the state down, which an answer ends; raises `Away`."""
        try:
            if self.is_up:
                return await self.ask(op, *command, shape=shape)
            await self._find_host()
            clock = asyncio.get_running_loop().time
            await self._round_trip([_Asked(op, ("PING",), clock(), None)], self._connect_s)
            # What takes longer than requests would wait does not lead up, or it would lead down again.
            answers = await self._round_trip([_Asked(op, command, clock(), None)], self.within_s)
            answer = shaped(self._checked(answers[0]), shape)
        except _Refused as error:
            raise self._failed(str(error), at_once=True) from None
        self._answered()
        return answer

    async def _find_host(self) -> None:
        """Look for the address; redis-py, which asks with one of uvloop's few threads, has it soon then."""
        try:
            async with asyncio.timeout(self._connect_s):
                if self._host is not None:
                    await HOSTS.addresses(self._host)
        except OSError as exc:
            raise self._failed(self._why(exc)) from exc

    async def run(self) -> None:
        """Send what is asked, for ever."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                await self._exchange(batch)

    async def close(self) -> None:
        """Close the connection; what waits fails."""
        self.is_up, self.reason = False, "dmap is shutting down"
        self._refuse(Away(self.reason))
        await self._redis.aclose()

    def _put(self, asked: _Asked) -> None:
        self._waiting.append(asked)
        self._bell.set()

    async def _exchange(self, batch: list[_Asked]) -> None:
        """Send *batch* and hand out the answers."""
        try:
            answers = await self._round_trip(batch, self.within_s)
            for asked, answer in zip(batch, answers, strict=True):
                _settle(asked, self._heard(asked.op, answer))
            self._failures = 0
        except Away as error:
            # Who came meanwhile has waited, too; what they ask is sent, unless this led down.
            for asked in (*batch, *self._waiting):
                _settle(asked, error)
        finally:
            for asked in batch:  # those whose answer a bug or the end has taken
                _settle(asked, Away("dmap is shutting down"))

    async def _round_trip(self, batch: list[_Asked], within_s: float) -> list[Any]:
        """Return the answers to *batch*, some of which may be errors; raises `Away`."""
        clock = asyncio.get_running_loop().time
        pipeline = self._redis.pipeline(transaction=False)
        for asked in batch:
            pipeline.execute_command(*asked.command)
        try:
            async with asyncio.timeout(within_s):
                answers: list[Any] = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, TimeoutError) as exc:
            # redis-py has closed a connection whose answer was not read to its end.
            raise self._failed(self._why(exc)) from exc
        except Exception as exc:  # redis-py stumbles in many ways over what no Redis says
            await self._cut()
            raise self._failed(f"what it says makes no sense ({type(exc).__name__})") from exc
        now = clock()
        for asked in batch:
            self._observe(now - asked.at, asked.op)
        return answers

    def _heard(self, op: str, answer: Any) -> Any:
        """Return *answer*, or the `Away` that it means, which is told once."""
        try:
            return self._checked(answer)
        except _Refused as error:
            if op not in self._refused:
                self._refused.add(op)
                _log.warning(Line("redis_refused", {"at": self._place, "op": op, "reason": str(error)}))
            return error

    async def _cut(self) -> None:
        """Close a connection on which nobody knows what comes next."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(self.within_s):
                await self._redis.connection_pool.disconnect()

    def _checked(self, answer: Any) -> Any:
        """Return *answer*; raises `_Refused` if it is an error."""
        if isinstance(answer, RedisError):
            raise _Refused(self._why(answer))
        return answer

    def _why(self, exc: BaseException) -> str:
        """Return what happened, in short: a server may say what it was sent, so without the password."""
        words = str(exc).replace(self._password, "***") if self._password else str(exc)
        return f"{type(exc).__name__}: {words}"[:200] if words else "no answer in time"

    def _answered(self) -> None:
        self._failures = 0
        if not self.is_up:
            self.is_up, self.reason, self._was_told = True, "", False
            self._refused.clear()
            _log.info(Line("redis_up", {"at": self._place}))

    def _failed(self, reason: str, *, at_once: bool = False) -> Away:
        self._failures += 1
        if self.is_up and self._failures < FAILURES and not at_once:
            return Away(reason)
        self.is_up, self.reason = False, reason
        self._refuse(Away(reason))
        if not self._was_told:
            self._was_told = True
            told = {"at": self._place, "reason": reason, "then": "each dmap counts by itself"}
            _log.warning(Line("redis_down", told))
        return Away(reason)

    def _refuse(self, error: Away) -> None:
        while self._waiting:
            _settle(self._waiting.popleft(), error)


def _settle(asked: _Asked, outcome: Any) -> None:
    if asked.answer is None or asked.answer.done():
        return
    if isinstance(outcome, Away):
        asked.answer.set_exception(outcome)
    else:
        asked.answer.set_result(outcome)

"""
What several dmaps share through Redis (or Valkey), and how they go on without it.

All of it is soft: quotas, the active model, events.  Queues, routing and residents never touch it, and no
request waits for it longer than a bound.  This is the only room that imports `redis`, and only where the
configuration has that section.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dmap.config import ConfigProblem, RedisSection
from dmap.events import Bus
from dmap.extras import how

if TYPE_CHECKING:
    from dmap.shared.core import Shared

__all__ = ["check", "join"]


def join(
    section: RedisSection | None,
    servers: Mapping[str, str],
    bus: Bus,
    observe: Callable[[float, str], None] = lambda seconds, op: None,
) -> "Shared | None":
    """
    Return what is shared through the Redis of *section*; None where there is none.

    *servers* are URLs by the backends that dmap switches; the events of *bus* are told to all.  *observe* is
    called with the seconds that each answer of Redis took, and what was asked.  Raises what `check` does.
    """
    check(section)
    if section is None:
        return None
    from dmap.shared.core import Shared  # it takes the extra `fleet`

    return Shared(section, observe, servers, bus)


def check(section: RedisSection | None) -> None:
    """Raise `ConfigProblem` if Redis is to be used and what talks to it is not installed."""
    try:
        if section is not None:
            import dmap.shared.core  # noqa: F401
    except ImportError as exc:
        raise ConfigProblem([f"redis: {exc.name} is missing; {how('fleet')}"]) from None

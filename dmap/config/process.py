"""What the process itself may take, tells and keeps: `server`, `debug`, `log`, `traces`, `activity`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from dmap.sections.section import Section
from dmap.sections.types import Count, Integer, Number, Seconds, Size, Url


class Server(Section):
    """The bounds of the proxy itself."""

    max_body: Size = 64 * 2**20
    bodies: Size = 2**30
    buffer: Size = 256 * 2**10
    body_s: Seconds = 60
    heartbeat_s: Seconds = 15
    client_stall_s: Seconds = 60
    connect_s: Seconds = 5
    first_byte_s: Seconds = 300
    idle_s: Seconds = 120
    shutdown_s: Seconds = 20


class Debug(Section):
    """What dmap keeps to be looked at: the last *ring* events; with *capture* the bodies of requests too."""

    ring: Annotated[Integer, Field(ge=1, le=100_000)] = 2000
    capture: bool = False


class Log(Section):
    """What is logged to stderr, and how; *timestamps* are `auto`: there unless journald adds its own."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["logfmt", "json"] = "logfmt"
    timestamps: bool | Literal["auto"] = "auto"

    @property
    def stamped(self) -> bool | None:
        """Whether lines begin with the time; None leaves that to where they go."""
        return None if self.timestamps == "auto" else self.timestamps


class TracesSection(Section):
    """Where OpenTelemetry's collector listens (OTLP over HTTP), and the share of requests it hears of."""

    url: Url
    share: Annotated[Number, Field(ge=0, le=1)] = 0.1


class Activity(Section):
    """The log of requests and switches: how many bytes it may take, and how many *days* a line may stay."""

    size: Annotated[Size, Field(ge=2**20)] = 64 * 2**20
    days: Count = 7


def _or_off(value: Any) -> Any:
    """Read `false` as off, and `true` as the defaults."""
    if isinstance(value, bool):
        return {} if value else None
    return value


ActivityOrOff = Annotated[Activity | None, BeforeValidator(_or_off)]

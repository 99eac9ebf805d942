"""LM Studio (0.4.0 and later), whose models dmap loads and unloads over its native REST API."""

from dmap.backends.base import Backend
from dmap.backends.kind import Kind
from dmap.backends.lmstudio.section import LMStudioSection
from dmap.backends.lmstudio.wording import PHRASES, ROUTES
from dmap.wire.dialects import Dialect
from dmap.wire.parameters import KindWords
from dmap.wire.routes import MEDIA


def _make(name: str, section: LMStudioSection, connect_s: float) -> Backend:
    from dmap.backends.lmstudio.backend import LMStudioBackend

    return LMStudioBackend(name, section, connect_s=connect_s)


KIND = Kind(
    "lmstudio",
    LMStudioSection,
    _make,
    substitutes=True,  # a model that is alone answers to any name (bug-tracker #366, #619)
    embeds_apart=True,  # a chat model loads a copy of its own for each embedding (#902)
    routes=ROUTES,
    lacks=MEDIA,
    words=KindWords(read={Dialect.CHAT: ("reasoning",)}),
    phrases=PHRASES,
)

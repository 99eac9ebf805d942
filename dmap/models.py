"""What models there are, and where a request for one goes (`Route`).  Plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dmap.arbiter import Needs
from dmap.wire.parameters import camel


class ModelKey(NamedTuple):
    """
    A model's identity: whatever a client called it, one model of one backend.

    No *model* at all stands for whatever the backend takes for a request that names none.
    """

    backend: str
    model: str

    def __str__(self) -> str:
        return f"{self.backend}/{self.model}" if self.model else self.backend

    @property
    def told(self) -> dict[str, str]:
        """What events, pages and log lines say of it: its own id as `model`, and its `backend`."""
        return {"model": self.model, "backend": self.backend}


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """
    One model that a backend has.

    *size_bytes* is the memory it takes when resident and *parallel* the requests it serves at once, None
    where the backend cannot tell.  *context_length* is the resident's, else what a load would give it.
    *vision* tells whether it takes images, None where nobody knows.
    A load would find what is *cached* in the system's memory, as far as the backend can tell.  What somebody
    else than dmap loads now is *arriving*, as far as that shows.
    *file* is the path of its file, as far as that shows, with `/` and from the folder where models are.
    Behind another dmap, *kind* is that of the server there.
    *names* are other names it answers to there; with *any_quant* it also answers to its id with any `@quant`
    behind it.  *v0* and *v1* are its entries in the older and the native list of LM Studio, or as much of
    these as is known: JSON values that nobody changes.
    """

    id: str
    resident: bool
    size_bytes: int | None = None
    context_length: int | None = None
    parallel: int | None = None
    embedding: bool = False
    vision: bool | None = None
    cached: bool = False
    arriving: bool = False
    file: str = ""
    kind: str = ""
    names: tuple[str, ...] = ()
    any_quant: bool = False
    v0: Mapping[str, Any] = field(default_factory=dict, hash=False)
    v1: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Route:
    """
    The outcome of resolving a request: where it goes and what it needs there.

    *device* is None where the backend's requests pass without arbitration.  *needs* is what the model takes
    of it, as far as anybody knows; with *size_given* its owner told the size, whatever a backend says.
    *load* holds the load options of the configuration, such as `context_length`, and of an activation;
    *context_length* is the context that a prompt has to fit, and *vision* whether it may have images, None
    when nobody knows.  *defaults* are the
    parameters to inject when absent, *force* those that replace the client's, *strip* the names of its fields
    to take out, *permit* the guarded fields let through.  *tokenizer* is the file that counts its prompts.
    The server knows the model by *served_model_name*, if not by its own.
    """

    key: ModelKey
    device: str | None = None
    needs: Needs = Needs()
    size_given: bool = False
    load: Mapping[str, Any] = field(default_factory=dict)
    context_length: int | None = None
    vision: bool | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    force: Mapping[str, Any] = field(default_factory=dict)
    strip: frozenset[str] = frozenset()
    permit: frozenset[str] = frozenset()
    tokenizer: Path | None = None
    served_model_name: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """
        What its model is loaded with and what its requests are given, as events tell it.

        `loadConfig` and `defaultInference` are in LM Studio's words, so that an order may be made of them.
        """
        return {"loadConfig": _sdk(self.load), "defaultInference": _sdk(self.defaults)}

    @property
    def name(self) -> str:
        """What its server calls the model."""
        return self.served_model_name or self.key.model


def _sdk(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return *values* under the names that LM Studio's SDK has for them."""
    return {"stopStrings" if name == "stop" else camel(name): value for name, value in values.items()}

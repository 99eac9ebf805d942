"""Which context a model is loaded with, where anybody has said so."""

from collections.abc import Iterator, Mapping

from dmap.config import Settings
from dmap.state import Activation


class Contexts(Mapping[str, int]):
    """
    The context that each model is loaded with, in tokens by its id.

    What was set over the admin API goes before the file.  It has any model for which there is one, also by
    a glob; to go through it gives those with a name in either.
    """

    def __init__(self, settings: Settings, activations: Mapping[str, Activation]) -> None:
        self._settings, self._activations = settings, activations

    def __getitem__(self, model: str) -> int:
        activation = self._activations.get(model)
        length = activation.load.get("context_length") if activation is not None else None
        length = length or self._settings.of(model).load.context_length
        if length is None:
            raise KeyError(model)
        return length

    def __iter__(self) -> Iterator[str]:
        return (name for name in {**self._settings.named, **self._activations} if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

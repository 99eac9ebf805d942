"""A model's command, with the values of one load in it.  Pure: nothing is started here."""

from collections.abc import Mapping
from dataclasses import dataclass

from dmap.sections import ModelSection
from dmap.sections.command import BRACES, PORT, fill, places

DEFAULT_URL = "http://127.0.0.1:{port}"


@dataclass(frozen=True, slots=True)
class Command:
    """What runs a model, how it is stopped, where it answers and how one knows that it does."""

    run: tuple[str, ...]
    stop: tuple[str, ...]
    url: str
    ready: str
    variables: Mapping[str, str]

    @classmethod
    def of(cls, section: ModelSection, values: Mapping[str, str]) -> "Command":
        """Return the command of *section* with *values* in its places; a value stays part of its word."""
        values = {**values, **BRACES}
        return cls(
            tuple(fill(word, values) for word in section.cmd or ()),
            tuple(fill(word, values) for word in section.stop or ()),
            fill(section.url or DEFAULT_URL, values),
            fill(section.ready, values),
            {name: fill(value, values) for name, value in section.env.items()},
        )

    @property
    def health(self) -> str:
        """The path that its server is asked, to tell whether it hangs: whatever it answers will do."""
        return "/" if self.ready == PORT else self.ready


def needs_port(section: ModelSection) -> bool:
    """Tell whether the server of *section* is to be told a port."""
    texts = (section.url or DEFAULT_URL, *(section.cmd or ()), *section.env.values())
    return any("port" in places(text) for text in texts)

"""
What the file says of models under `models`: entries of their own, globs for many, variants of others.

A name with `*` or `?` is a glob; `[` alone makes none, because names of files have it.  What a model's own
entry leaves out comes from the globs that fit its name, in whatever letters, the longest first.
"""

import re
from collections.abc import Iterator, Mapping
from fnmatch import translate

from dmap.sections.models import ModelSection, is_glob
from dmap.sections.near import meant

_REMEMBERED = 10_000
"""So many models are looked up once only; more than any server has been seen to list."""
_OF_A_VARIANT = frozenset(("of", "aliases", "defaults", "force", "strip", "permit"))
"""What a variant may have of its own: what is done to requests, nothing of the resident."""
_OF_ONE = {
    "of": "a variant needs a name of its own, and this is a glob",
    "aliases": "an alias means one model, and this glob fits many; give it to one of them",
    "served_model_name": "a server's name means one model, and this glob fits many; give it to one of them",
    "pin": "this glob may fit more models than the device holds; pin each by its name",
    **dict.fromkeys(
        ("cmd", "stop", "url", "ready", "env"),
        "a glob runs nothing; which models are commands shows by entries of their own",
    ),
}
"""What cannot hold for all models that fit a glob, and why."""


class Settings:
    """
    The entries of *models*, as the file has them.

    *named* has what holds for each model that has an entry of its own, globs included, and *variants* those
    entries that are variants of a model, as they are.
    """

    def __init__(self, models: Mapping[str, ModelSection]) -> None:
        globs = sorted((name for name in models if is_glob(name)), key=len)
        self._globs = [(re.compile(translate(glob.casefold())).match, models[glob]) for glob in globs]
        self._families: dict[tuple[int, ...], ModelSection] = {(): ModelSection()}
        own = {name: model for name, model in models.items() if not is_glob(name)}
        self.variants = {name: model for name, model in own.items() if model.of is not None}
        self._own = {name: model for name, model in own.items() if model.of is None}
        self.named = {name: model.over(self._family(name)) for name, model in self._own.items()}
        self._folded = {name.casefold(): name for name in reversed(self.named)}
        self._known: dict[tuple[str, ...], ModelSection] = {}

    def of(self, *names: str) -> ModelSection:
        """Return what holds for the model called by *names*, in whatever letters; globs fit the first."""
        found = self._known.get(names)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[names] = self._look_up(names)
        return found

    def _look_up(self, names: tuple[str, ...]) -> ModelSection:
        if names[0] in self.named:
            return self.named[names[0]]
        own = (self._folded[name.casefold()] for name in names if name.casefold() in self._folded)
        name, family = next(own, None), self._family(names[0])
        return self._own[name].over(family) if name is not None else family

    def _family(self, name: str) -> ModelSection:
        """Return what the globs that fit *name* say; models that the same ones fit share one section."""
        folded = name.casefold()
        fitting = tuple(at for at, (fits, _) in enumerate(self._globs) if fits(folded))
        if fitting not in self._families:
            section = ModelSection()
            for at in fitting:  # the longest is laid on top
                section = self._globs[at][1].over(section)
            self._families[fitting] = section
        return self._families[fitting]


def problems_of(models: Mapping[str, ModelSection], *, all_named: bool) -> Iterator[str]:
    """
    Yield what is wrong between the entries of *models*, or in what one cannot say, each with its path.

    With *all_named* no backend has a model that the file does not name.
    """
    owner = {name: name for name in models if not is_glob(name)}
    for name, model in models.items():
        for alias in model.aliases:
            if owner.setdefault(alias, name) != name:
                yield f"models.{name}.aliases: {alias!r} already means {owner[alias]!r}"
    for name, model in models.items():
        if is_glob(name):
            yield from (f"models.{name}.{problem}" for problem in _of_no_family(model))
        elif model.of is not None:
            yield from (f"models.{name}.{problem}" for problem in _of_no_variant(model))
            if (problem := _no_base(name, model.of, models, owner, all_named)) is not None:
                yield f"models.{name}.of: {problem}"


def _of_no_family(model: ModelSection) -> Iterator[str]:
    """Find what *model*, the entry of a glob, says and can only be said of one model."""
    yield from (f"{field}: {_OF_ONE[field]}" for field in sorted(_OF_ONE.keys() & model.model_fields_set))
    if model.load.identifier is not None:
        yield "load.identifier: two models of one name cannot be loaded; give each its own"


def _of_no_variant(model: ModelSection) -> Iterator[str]:
    """Find what *model*, a variant, says of the resident that it shares."""
    for field in sorted(model.model_fields_set - _OF_A_VARIANT):
        yield f"{field}: a variant shares the resident of {model.of!r}; say this there"


def _no_base(
    name: str, of: str, models: Mapping[str, ModelSection], owner: Mapping[str, str], all_named: bool
) -> str | None:
    """Say why the variant *name* cannot be one *of* what it says, if the file shows that."""
    folded = {each.casefold(): base for each, base in reversed(list(owner.items()))}
    base = owner.get(of) or folded.get(of.casefold())
    if base == name:
        return "a variant of itself; name the model that it shall share"
    if base is None:
        none = f"there is no model {of!r}, and no backend has models that are not named here"
        return none + meant(of, owner) if all_named else None
    if models[base].of is not None:
        return f"{of!r} is itself a variant; name its model, {models[base].of!r}"
    return None

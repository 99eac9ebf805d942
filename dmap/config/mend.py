"""
What is left of a file when what is wrong with single values is taken out of it.

The rest can then be judged in the same run.  Nothing is told of what rests on a value that is wrong: whose
backend is not known may fit or not.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

Steps = Sequence[int | str]

_MANY = 10**6
_ANY = {"url": "http://localhost", "path": "/", "parallel": 1}
"""Values of a backend that nothing else rests on, in place of wrong ones."""
_NODE = {"url": "http://localhost", "api_key": "any"}
"""In place of a node with a mistake: all that anything else rests on is its name."""


def mended(values: Any, wrong: Iterable[Steps], *, entries: bool = False) -> Any:
    """
    Return *values* of a whole file without what stands at the paths *wrong*.

    With *entries* whole backends, models and the like go, for those that lack what they must have.
    """
    values = copy.deepcopy(values)
    for path in wrong:
        _unload(values, path)
        match path:
            case ():
                pass
            case ("access", *_):
                values["access"] = {"open": True}
            case ("devices", *inner):
                _unbound(values, inner)
            case ("backends", name, *_) if name not in values["backends"]:
                pass  # it has gone with another mistake
            case ("backends", name, key) if key in _ANY and not entries:
                values["backends"][name][key] = _ANY[str(key)]
            case ("backends", name, key, *_) if key in values["backends"][name] and not entries:
                del values["backends"][name][key]
            case ("backends", *inner):
                _without_backends(values, inner)
            case ("nodes",):
                values["nodes"] = {"box": _NODE}
            case ("nodes", name, *_) if not entries:
                values["nodes"][name] = _NODE
            case ("models", name, "backend" | "cmd", *_):
                _without_model(values["models"], name)
            case _:
                _cut(values, path[:2] if entries else path)
    return values


def _unbound(values: dict[Any, Any], inner: Steps) -> None:
    """Have all devices that somebody uses, or the one that is wrong, take whatever comes."""
    if not isinstance(values.get("devices"), dict):
        values["devices"] = {}
    backends = values.get("backends")
    used = [each.get("device") for each in _mappings(backends)]
    for name in inner[:1] or [each for each in used if isinstance(each, str)]:
        device = values["devices"].get(name)
        known = device if isinstance(device, dict) else {}
        rest = {key: value for key, value in known.items() if key not in inner[1:]}
        values["devices"][name] = {"max_models": _MANY, **rest}


def _without_backends(values: dict[Any, Any], inner: Steps) -> None:
    """Take out a backend, or all, and the models that it may have."""
    gone, models = inner[:1], values.get("models")
    if isinstance(models, dict):
        for name, model in list(models.items()):
            home = model.get("backend") if isinstance(model, dict) else None
            if home is None or not gone or home in gone:
                del models[name]
    if gone and isinstance(values.get("backends"), dict):
        values["backends"].pop(gone[0], None)
    else:
        values.pop("backends", None)


def _unload(values: Any, path: Steps) -> None:
    """Take out the options of loads that a backend with a mistake may have; it may take more of them."""
    if len(path) > 2 and path[0] == "backends":
        for model in _mappings(values.get("models")):
            if model.get("backend") in (None, path[1]):
                model.pop("load", None)


def _without_model(models: dict[Any, Any], gone: int | str) -> None:
    """Take out a model and its variants."""
    for name, model in list(models.items()):
        if name == gone or (isinstance(model, dict) and model.get("of") == gone):
            del models[name]


def _mappings(values: Any) -> list[dict[Any, Any]]:
    return [each for each in values.values() if isinstance(each, dict)] if isinstance(values, dict) else []


def _cut(values: Any, path: Steps) -> None:
    """Take out what stands at *path*, or what stands around it if there is nothing."""
    *around, last = path
    inner = values
    for at, step in enumerate(around):
        if step not in inner:
            return  # it has gone with another mistake
        if not isinstance(inner[step], dict):
            return _cut(values, path[: at + 1])
        inner = inner[step]
    if last in inner:
        del inner[last]
    elif around:
        _cut(values, around)

"""What is kept of LM Studio's lists for those who ask dmap for them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from dmap.backends.lmstudio.models import Look, read_v0, read_v1
from dmap.catalog.lists import RECORD_BYTES, Shown, v0, v1
from dmap.catalog.names import Entry
from dmap.models import ModelInfo, ModelKey, Route
from dmap.sections import ModelSection

M = {"key": "m", "type": "llm", "size_bytes": 5, "max_context_length": 131072, "more": [{"x": None}]}


def instance(id: str) -> dict[str, Any]:
    return {"id": id, "config": {"context_length": 4096, "parallel": 4}}


def shown(**records: Any) -> Shown:
    """A model of which its server has these *records*."""
    key = ModelKey("studio", "m")
    entry = Entry(key, ModelInfo("m", resident=False, **records), ModelSection())
    return Shown("m", entry, Route(key), residents=frozenset(), active=False, own=frozenset("m"))


def test_an_entry_is_kept_as_it_came():
    """A model has its entry of the native list, with those of its instances that answer."""
    item = M | {"loaded_instances": [instance("m"), instance("m:2"), "odd", {"id": 5}]}

    [listed] = read_v1([item])
    first, second = listed.instances

    (info,) = Look([replace(listed, instances=(first, replace(second, answers=True)))]).described()

    assert info.v1 == M | {"loaded_instances": [instance("m:2")]}


def test_what_can_be_no_count_is_none():
    """A size beyond all memory, which could not even be divided, is as unknown as one that is no number."""
    sizes = [5, 0, -5, True, 5.5, "5", 2**50 + 1, 10**400]

    found = [listed.info.size_bytes for listed in read_v1(M | {"size_bytes": size} for size in sizes)]

    assert found == [5, *[None] * 7]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps("x" * RECORD_BYTES),
        json.dumps(["x"] * RECORD_BYTES),
        "NaN",
        "-Infinity",
        "1e999",
    ],
    ids=["long", "wide", "nan", "infinity", "over"],
)
def test_what_is_no_json_or_too_large_is_not_passed_on(text):
    """Of an entry that cannot be passed on, or is too large, nothing is; its model is listed without."""
    item = M | {"description": json.loads(text), "publisher": "them"}

    native, older = v1(shown(v1=item)), v0(shown(v0=item))

    assert (native["publisher"], "description" in native) == ("studio", False)
    assert (older["publisher"], "description" in older) == ("studio", False)


def test_an_entry_of_just_the_size_is_passed_on():
    """The bound is that of the entry as JSON."""
    item = M | {"description": ""}
    item["description"] = "x" * (RECORD_BYTES - len(json.dumps(item)))

    assert v1(shown(v1=item))["description"] == item["description"]


def test_the_older_entry_belongs_to_its_model():
    """The older list names what is loaded by its instance; an instance under another model's name is none."""
    models = read_v1(
        [
            {"key": "m", "loaded_instances": [instance("mine")]},
            {"key": "n", "loaded_instances": [instance("Other")]},
            {"key": "other"},
            {"key": "gone"},
        ]
    )
    entries = read_v0([{"id": "Mine", "arch": "a"}, {"id": "other", "arch": "b"}])

    found = Look(models, entries).described()

    assert {info.id: info.v0.get("arch") for info in found} == {
        "m": "a",
        "n": None,
        "other": "b",
        "gone": None,
    }

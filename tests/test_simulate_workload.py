"""Workloads as files: those of the package, what a file may say, and what is said of one that is wrong."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from dmap.arbiter import Needs
from dmap.config import ConfigProblem
from dmap.simulate import Arrivals, Loops, Model, Request, Result, Workload, every, read_file, run
from dmap.simulate.workload import FOLDER

NO_TIME = "not a time; write it like 2, exponential 2 or lognormal 2 1.3 (mean and sigma)"


@pytest.fixture
def written(tmp_path: Path):
    """Write a file of workloads; return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


def problems(path: Path) -> list[str]:
    """Return what is said of a file that is wrong, without its path."""
    with pytest.raises(ConfigProblem) as told:
        read_file(path)
    return [problem.removeprefix(f"{path}: ") for problem in told.value.problems]


def asked(result: Result) -> list[tuple[float, str, str, float]]:
    """List who asked for what, and when, as it came."""
    requests: list[Request] = [*result.answers, *result.refused, *result.left, *result.waiting]
    return sorted((each.since, each.client, each.model, each.answer_s) for each in requests)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_files_of_the_package(path: Path) -> None:
    """Each of them can be read, and its first workload can be played."""
    first = read_file(path)[0].model_copy(update={"duration_s": 60})

    assert run(first).answers


def test_no_two_workloads_share_a_name() -> None:
    """The name tells which one it is."""
    names = [workload.name for workload in every(())]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("words", ["diurnal", "bursts", "batches", "8 agents", "lognormal 50", "embeddings"])
def test_all_kinds_of_clients(words: str) -> None:
    """Clients of all kinds ask and are answered."""
    assert len(run(every([words])[0]).answers) > 100


@pytest.mark.parametrize("words", ["open 50/50 at 0.3", "diurnal", "batches", "bursts"])
def test_policies_meet_the_same_clients(words: str) -> None:
    """With one seed the requests of open arrivals are the same, whatever the policy."""
    workload = every([words])[0]

    assert asked(run(workload, "dmap", 3)) == asked(run(workload, "fifo", 3))


def test_another_seed_is_another_chance() -> None:
    """The seed decides what chance decides."""
    (workload,) = every(["open 50/50 at 0.3"])

    assert asked(run(workload, seed=1)) != asked(run(workload, seed=2))


def test_a_file_of_one_workload(written) -> None:
    """It is called by the name of its file, and has defaults for all but its groups."""
    (workload,) = read_file(written("groups: [{loops: 2, model: A}]"))

    assert (workload.name, workload.load_s, workload.duration_s) == ("mine", 8, 3600)
    assert (workload.bounds().queue, workload.bounds().wait_s, workload.bounds().patience_s) == (
        10**6,
        10**6,
        60,
    )


def test_cases(written) -> None:
    """Each case changes what it says; `first` changes the first group only."""
    text = """
        answer: 1
        groups: [{arrivals: .5, shares: {A: 1}}, {loops: 1, model: B}]
        cases:
          long: {answer: lognormal 20 1.3}
          .5: {first: {arrivals: .9}}
    """
    long, more = read_file(written(text))

    assert (long.name, long.answer.mean, more.name, more.answer.mean) == ("mine long", 20, "mine .5", 1)
    assert (more.groups[0].arrivals, long.groups[0].arrivals, more.groups[1].model) == (0.9, 0.5, "B")


def test_models_and_limits(written) -> None:
    """What is said of models and of the device is what the arbiter hears."""
    text = """
        parallel: 4
        limits: {memory: 22GiB, max_models: 2, wait_s: 100}
        models: {A: {memory: 6GiB, parallel: 2, pin: true, ttl_s: 60}, B: {embedding: true, memory: 1GiB}}
        groups: [{loops: 1, model: A}, {loops: 1, model: B}, {loops: 1, model: C}]
    """
    (workload,) = read_file(written(text))

    assert workload.needs_of("A") == Needs(6 * 2**30, 2, pinned=True, ttl_s=60)
    assert workload.needs_of("B") == Needs(2**30, 4, embedding=True)
    assert workload.needs_of("C") == Needs(None, 4)
    assert (workload.bounds().memory_bytes, workload.bounds().max_models) == (22 * 2**30, 2)
    assert workload.bounds().wait_s == 100


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grups: []", ["groups: missing", "grups: no such key; did you mean groups?"]),
        ("groups: []", ["groups: nobody asks for anything"]),
        ("groups: [{loops: 1, model: A, thnk: 1}]", ["groups[0].thnk: no such key"]),
        (
            "groups: [{loops: 1, model: A, think: often}]",
            [f"groups[0].think: {NO_TIME}"],
        ),
        (
            "groups: [{loops: 1, model: A, think: exponential 0}]",
            [f"groups[0].think: {NO_TIME}"],
        ),
        ("groups: [{loops: 1, model: A}]\nanswer: 0", ["answer: an answer takes its time"]),
        ("groups: [{loops: 1, model: A}]\nanswer: 1.0e-9", ["answer: an answer takes its time"]),
        ("groups: [{loops: 1, model: A}]\nanswer: lognormal 8 99", [f"answer: {NO_TIME}"]),
        (
            "groups: [{rate: 1, shares: {A: 1.0e+308, B: 1.0e+308}}]",
            ["groups[0]: shares: together they are more than a number can be"],
        ),
        ("groups: [{loops: 1, model: A}]\nfirst: 3", ["first: no such key"]),
        ("groups: [{loops: 0, model: A}]", ["groups[0].loops: must be 1 or more"]),
        (
            "groups: [{model: A}]",
            ["groups[0]: must have one of the keys loops, agents, arrivals, rate, swing, bursts"],
        ),
        (
            "groups: [{shares: {A: 1}, arrivals: .5, rate: 1}]",
            ["groups[0]: rate, or arrivals and swing, but not both"],
        ),
        (
            "groups: [{loops: 1, model: A}]\nlimits: {patience: 3}",
            ["limits.patience: no such key; did you mean patience_s?"],
        ),
        (
            "groups: [{loops: 1, model: A}]\nlimits: {patience_s: 0}",
            ["limits.patience_s: must be more than 0"],
        ),
        ("groups: [{loops: 1, model: A}]\nload_s: {B: 1}", ["load_s: nothing for the model 'A'"]),
        (
            "groups: [{loops: 1, model: A}]\nload_s: soon",
            ["load_s: not seconds; write it like 8, or by model like {A: 2, B: 20}"],
        ),
        ("groups: [{loops: 1, model: A}]\nmodels: {B: {}}", ["models.B: nobody asks for it"]),
        (
            "groups: [{loops: 1, model: A}]\ncases: {x: {}, y: {parallel: 0}}",
            ["parallel: must be 1 or more (case y)"],
        ),
        ("groups: [{loops: 1, model: A}]\ncases: [x]", ["cases: must be a mapping of names to mappings"]),
        (
            "groups: [",
            ["line 1, column 10: a { or [ that nothing closes, or a comma or quotes are missing in it"],
        ),
        ("- x", ["must be a mapping (key: value)"]),
        ("", ["must be a mapping (key: value)"]),
    ],
)
def test_a_file_that_is_wrong(written, text: str, said: list[str]) -> None:
    """Each problem is told with its key; one that all cases share is told once."""
    assert problems(written(text)) == said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is told in one line."""
    with pytest.raises(ConfigProblem, match="cannot be read"):
        read_file(tmp_path / "none.yaml")


@pytest.mark.parametrize("case", ["2 of 3", "A .3 B 30", "6x3", "50x8", "12 agents", "8 agents"])
def test_users_that_are_told_are_as_names_of_their_own(case: str) -> None:
    """Where all have one key, but each request tells its user, everybody is served when he would be."""
    (own,) = every([f"crowds {case}"])
    (onekey,) = every([f"crowds-onekey {case}"])

    apart = run(own.model_copy(update={"duration_s": 1200}))
    told = run(onekey.model_copy(update={"duration_s": 1200, "users": True}))

    assert waits(told) == waits(apart)
    assert told.switches == apart.switches > 20


def waits(result: Result) -> list[tuple[float, str, float]]:
    """List who waited since when, and for how long."""
    return [(each.since, each.client, each.wait_s) for each in result.answers]


def test_who_can_never_be_served_is_refused_and_comes_again() -> None:
    """Time goes on, and so do the others."""
    loops = [Loops(loops=1, model="A"), Loops(loops=1, model="B")]
    models = {"A": Model(memory=3, pin=True), "B": Model(memory=3)}
    limits = {"memory": 5, "max_models": 2}

    result = run(Workload(groups=loops, models=models, limits=limits, duration_s=100))

    assert len(result.answers) == 93
    assert 90 <= len(result.refused) <= 100


@pytest.mark.parametrize("policy", ["fifo", "drain", "longest-queue", "dmap"])
def test_embeddings_stay_beside_what_chats(policy: str) -> None:
    """Under each policy an embedding model is loaded once, while two others take turns."""
    groups = [Loops(loops=1, model="A"), Loops(loops=1, model="B"), Loops(loops=1, model="E", think=1)]
    workload = Workload(groups=groups, models={"E": Model(embedding=True)}, duration_s=300)

    stays = [stay.model for stay in run(workload, policy).stays]

    assert stays.count("E") == 1
    assert stays.count("A") > 1


def test_shares_by_zipf() -> None:
    """`zipf 1 3` is three models, of which the n-th is asked for 1 / n times as often."""
    group = Arrivals(rate=1, shares="zipf 1 3")

    assert group.shares == {"M1": 1, "M2": 1 / 2, "M3": 1 / 3}


@pytest.mark.parametrize(
    "shares",
    [
        "zipf 1",
        "zipf 1 0",
        "zipf 1 1001",
        "zipf x 3",
        "zipf nan 3",
        "zipf -400 9",
        "zipf 1 2 3",
        "",
        "gauss 1 3",
        "A",
    ],
)
def test_shares_that_are_none(shares: str) -> None:
    """What is no distribution of models is refused, and raises nothing else."""
    with pytest.raises(ValidationError):
        Arrivals(rate=1, shares=shares)


def test_popularity_that_rotates() -> None:
    """After a while the model that was asked for last has the share of the first."""
    group = Arrivals(rate=1, shares={"A": 1, "B": 0, "C": 0}, rotate_s=100)
    asked = run(Workload(groups=[group], duration_s=300, load_s=0, answer=0.01)).answers

    assert {request.model for request in asked if request.since < 100} == {"A"}
    assert {request.model for request in asked if 100 <= request.since < 200} == {"C"}
    assert {request.model for request in asked if request.since >= 200} == {"B"}

"""
A search for waits beyond the bound of `dmap.arbiter.bound`: scenes made by chance, and then made worse.

    python -m bench.arbitration.adversary --trials 5000

Half of the trials are new scenes.  The other half change one thing at a time in the worst of them, and go on
from there if it is worse.
"""

import argparse
import multiprocessing
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench.arbitration.hostile import Crowd, Model, Scene, play
from dmap.arbiter import Limits, Needs

STEPS = 25
"""So often a scene is changed."""
Draw = Callable[[random.Random], Any]


def main() -> None:
    """Print the worst scenes of all trials, as a share of their bound; fail if one is beyond it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.trials // 2)
    with multiprocessing.Pool(2) as pool:
        found = sorted(zip(pool.map(trial, seeds, chunksize=8), seeds, strict=True), reverse=True)
        worst = [seed for _, seed in found[: max(1, options.trials // 2 // STEPS)]]
        climbed = sorted(pool.map(climb, worst, chunksize=1), key=lambda each: each[0], reverse=True)
    print(
        f"{options.trials} trials; the worst of chance is {found[0][0]:.3f} of its bound, seed {found[0][1]}"
    )
    for share, scene in climbed[:3]:
        print(f"{share:.3f} after {STEPS} steps: {scene}")
    sys.exit(max(found[0][0], climbed[0][0]) > 1)


def trial(seed: int) -> float:
    """Return the longest wait of one scene by chance, as a share of the bound."""
    return play(scene_of(seed))


def climb(seed: int, steps: int = STEPS) -> tuple[float, Scene]:
    """Make a scene worse, *steps* times; return it with its longest wait as a share of the bound."""
    chance, scene = random.Random(seed + 1_000_000), scene_of(seed)
    share = play(scene)
    for _ in range(steps):
        other = _change(chance, scene)
        if (found := play(other)) >= share:
            share, scene = found, other
    return share, scene


def scene_of(seed: int) -> Scene:
    """Return a scene by chance."""
    chance = random.Random(seed)
    count = chance.choice((1, 2, 2, 3, 3, 4))
    models = tuple(_drawn(chance, MODEL, Model()) for _ in range(count))
    limits = _drawn(chance, LIMITS, Limits(queue=100_000))
    crowds = tuple(_crowd(chance, count) for _ in range(chance.randint(1, 6)))
    return _whole(Scene(models, crowds, limits))


def _crowd(chance: random.Random, count: int) -> Crowd:
    crowd = _drawn(chance, CROWD, Crowd((0,)))
    return replace(crowd, models=_models(chance, count))


def _models(chance: random.Random, count: int) -> tuple[int, ...]:
    return tuple(chance.choices(range(count), k=chance.choice((1, 1, 1, 2))))


def _drawn(chance: random.Random, draws: dict[str, Draw], base: Any) -> Any:
    return replace(base, **{name: draw(chance) for name, draw in draws.items()})


def _change(chance: random.Random, scene: Scene) -> Scene:
    """Return *scene* with one thing drawn anew, a crowd more or a crowd less."""
    crowds, models = list(scene.crowds), list(scene.models)
    what = chance.random()
    if what < 0.1 and len(crowds) > 1:
        crowds.pop(chance.randrange(len(crowds)))
    elif what < 0.25:
        crowds.insert(chance.randrange(len(crowds) + 1), _crowd(chance, len(models)))
    elif what < 0.75:
        at = chance.randrange(len(crowds))
        name = chance.choice([*CROWD, "models"])
        value = _models(chance, len(models)) if name == "models" else CROWD[name](chance)
        crowds[at] = replace(crowds[at], **{name: value})
    elif what < 0.9:
        at, name = chance.randrange(len(models)), chance.choice(list(MODEL))
        models[at] = replace(models[at], **{name: MODEL[name](chance)})
    else:
        name = chance.choice(list(LIMITS))
        scene = replace(scene, limits=replace(scene.limits, **{name: LIMITS[name](chance)}))
    return _whole(replace(scene, crowds=tuple(crowds), models=tuple(models)))


def _whole(scene: Scene) -> Scene:
    """Give a model its size where several may be resident; elsewhere each takes the whole device."""
    if scene.limits.max_models > 1:
        return scene
    models = tuple(replace(model, needs=model.needs._replace(size_bytes=None)) for model in scene.models)
    return replace(scene, models=models)


def _of(*choices: Any) -> Draw:
    return lambda chance: chance.choice(choices)


def _needs(chance: random.Random) -> Needs:
    return Needs(
        size_bytes=chance.choice((1, 2, 3, 4)),
        parallel=chance.choice((1, 1, 1, 2, 4)),
        embedding=chance.random() < 0.1,
        pinned=chance.random() < 0.05,
        ttl_s=chance.choice((None, None, None, 5, 30)),
        together=frozenset(name for name in ("one", "two") if chance.random() < 0.25),
    )


def _answers(chance: random.Random) -> tuple[float, ...]:
    return tuple(chance.choices((0.5, 1, 1, 2, 5, 20, 60, 120), k=chance.choice((1, 1, 1, 2, 4))))


MODEL: dict[str, Draw] = {"load_s": _of(0.5, 1, 2, 8, 8, 20), "needs": _needs, "fails": _of(0, 0, 0, 0, 2, 3)}
CROWD: dict[str, Draw] = {
    "answers": _answers,
    "clients": _of(1, 1, 1, 2, 3, 8, 16, 50),
    "opened": _of(1, 1, 1, 1, 2, 8),
    "think_s": _of(0, 0, 0, 0.1, 1, 3, 10, 30),
    "start_s": lambda chance: chance.choice((0, 0, chance.randint(0, 30), chance.randint(0, 200))),
    "priority": _of(0, 0, 0, 0, -1, 1, 3, 10, -10),
    "every_s": _of(0, 0, 0, 0, 0, 7, 40, 60, 100),
    "one_key": _of(False, False, False, True),
    "leaves_s": _of(None, None, None, None, None, 3, 20, 61),
}
LIMITS: dict[str, Draw] = {
    "max_models": _of(1, 1, 2, 3),
    "memory_bytes": _of(None, 4, 5, 6),
    "embeddings": _of(1, 0),
    "patience_s": _of(60, 60, 20, 5, 120),
    "residency": _of(4, 4, 1, 0, 10),
    "wait_s": _of(300, 1000, 100_000),
}

if __name__ == "__main__":
    main()

"""What several pages tell of a gate in the same words: its switch, and the requests that wait.  Pure."""

from typing import Any

from dmap.arbiter import SwitchView
from dmap.gate import Waiting


def switch_fields(switch: SwitchView | None, now: float) -> dict[str, Any] | None:
    """Tell of the switch under way, if there is one; *load* is None where something only goes."""
    if switch is None:
        return None
    return {
        "load": str(switch.load) if switch.load is not None else None,
        "unload": [str(model) for model in switch.unload],
        "phase": switch.phase,
        "for_s": round(now - switch.since, 3),
    }


def waiting_fields(waiting: Waiting) -> dict[str, Any]:
    """Describe one waiting request; *id* is its id."""
    return {
        "id": waiting.name,
        "client": waiting.client,
        "model": str(waiting.model),
        "position": waiting.position,
        "estimate_s": round(waiting.estimate_s, 3),
        "waited_s": round(waiting.waited_s, 3),
    }

"""How times, sizes and tables are written for a person in a terminal."""

import re
from collections.abc import Sequence

_FIGURE = re.compile(r"-|\d+|\d\S* .*")


def duration(seconds: float) -> str:
    """Write *seconds* in the units that matter: `85 ms`, `3.4 s`, `2 min 5 s`, `3 h 12 min`, `4 d 2 h`."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, part, smaller in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if unit == "d" or whole < {"min": 3600, "h": 86400}[unit]:
            return f"{whole // size} {unit} {whole % size // smaller} {part}"
    raise AssertionError("a day is the largest unit")


def count(number: int, noun: str) -> str:
    """Write *number* with its *noun*, whose plural has an `s`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align *rows* under *head*, two spaces between; columns of figures to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    columns = list(zip(*rows, strict=True))
    to_right = [all(map(_FIGURE.fullmatch, column)) and set(column) != {"-"} for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, to_right, strict=True)
        ).rstrip()
        for row in (head, *rows)
    ]

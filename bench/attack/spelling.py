"""Names in other letters that some decoder takes for the same."""

import itertools

_FOLDS = {"s": "\u017f", "k": "\u212a", "i": "\u0131", "I": "\u0130", "l": "\uff4c", "m": "\uff4d"}
_TAILS = (
    "\\u0000",
    "\\u0020",
    " ",
    "\\ufeff",
    "\\u200b",
    "\\t",
    "\\ud800",
    "\\udc00",
    "\\u0301",
    ".",
    "[]",
    "\x7f",
)


def spellings(name: str) -> list[bytes]:
    """Return *name* in other letters that some decoder may take for the same."""
    cases = {"".join(letters) for letters in itertools.product(*((each, each.upper()) for each in name[:4]))}
    words = {case + name[4:] for case in cases} | {name.upper(), name.title(), name.swapcase()}
    words |= {name.replace(letter, fold) for letter, fold in _FOLDS.items()}
    words |= {name.upper().replace(letter, fold) for letter, fold in _FOLDS.items()}
    words |= {name + tail for tail in _TAILS} | {tail + name for tail in _TAILS}
    words |= {name.replace("_", "-"), name.replace("_", ""), name.replace("_", "\\u005f")}
    words |= {"".join(f"\\u{ord(letter):04x}" for letter in name), f"\\u{ord(name[0]):04X}{name[1:]}"}
    return sorted(word.encode("utf-8", "surrogateescape") for word in words)

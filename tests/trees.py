"""Source as a tree of what it means."""

import ast
import gc


def parsed(text: str) -> ast.Module:
    """
    Parse *text* while the collector rests.

    What that finds may be told with a traceback, for which Python 3.11 parses lines of source; and its parser
    raises SystemError if it is called while it is at work.
    """
    gc.disable()
    try:
        return ast.parse(text)
    finally:
        gc.enable()

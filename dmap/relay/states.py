"""
The states of a connection to a backend, and which follows which::

    IDLE -> SENT -> HEAD -> BODY -> COMPLETE -> IDLE
                         -> UNFRAMED
"""

import enum


class State(enum.IntEnum):
    """
    The state of a connection.

    IDLE: nothing is on it.  SENT: a request is written, and nothing of its answer has come.  HEAD: the head
    of the answer is coming, or a 1xx before it.  BODY: the body is coming, and its framing will tell its end.
    UNFRAMED: the body is coming, and ends where the connection does.  COMPLETE: the answer is whole, and
    another request may follow.  SPENT: it is whole, and none may follow.  CLOSED: the connection has ended,
    or is about to.
    """

    IDLE = 0
    SENT = 1
    HEAD = 2
    BODY = 3
    UNFRAMED = 4
    COMPLETE = 5
    SPENT = 6
    CLOSED = 7


NEXT: dict[State, tuple[State, ...]] = {
    State.IDLE: (State.SENT,),
    State.SENT: (State.HEAD,),
    State.HEAD: (State.BODY, State.UNFRAMED),
    State.BODY: (State.COMPLETE, State.SPENT),
    State.COMPLETE: (State.IDLE, State.SPENT),
    State.SPENT: (State.SPENT,),
}
"""The states that may follow each, beside CLOSED."""

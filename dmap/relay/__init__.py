"""
Bytes from one socket to another: a request sent to a backend, and its answer passed on as it comes.

`relay` is the whole story of one answer, `reply` the only writer of the response.  On the other side are the
`pool` of connections to backends, each `connection` with its parser, and the `exchange`, which is one request
and its answer; one `sweep` looks after the time limits of all that are under way.
"""

from dmap.relay.at_node import AtNode
from dmap.relay.exchange import Exchange
from dmap.relay.pool import Pool
from dmap.relay.relay import run
from dmap.relay.reply import Reply

__all__ = ["AtNode", "Exchange", "Pool", "Reply", "run"]

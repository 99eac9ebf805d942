"""
dmap: the Dynamic Model Arbitration Proxy.

One door between the apps of a LAN and the model servers of a GPU box.  See docs/architecture.md for
the plan of the house.
"""

__version__ = "0.1.0"

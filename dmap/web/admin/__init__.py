"""
The admin API: load, unload and activate models, look at the queue, drain devices, reload.

It goes through the arbiter like everybody else.  What it sets is in effect at once and, when the answer is
sent, on the disk (`state`).  Scope `admin`; every change is a POST.
"""

from dmap.web.admin import models, service

__all__ = ["ROUTES"]

ROUTES = (
    ("GET", "/admin/models", models.models),
    ("GET", "/admin/queue", service.queue),
    ("POST", "/admin/models/load", models.load),
    ("POST", "/admin/models/unload", models.unload),
    ("POST", "/admin/models/activate", models.activate),
    ("POST", "/admin/queue/{id}/cancel", service.cancel),
    ("POST", "/admin/drain", service.drain),
    ("POST", "/admin/resume", service.resume),
    ("POST", "/admin/reload", service.reload),
)
"""The admin API."""

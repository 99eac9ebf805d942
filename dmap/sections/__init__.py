"""
What sections of the configuration are made of: their base, the types of their values, the parts about models.

Each kind of backend has a section of its own, which is made of these.  `dmap.config` puts the whole file
together.
"""

from dmap.sections.models import Defaults, Load, ModelSection, Spelled
from dmap.sections.section import Section

__all__ = ["Defaults", "Load", "ModelSection", "Section", "Spelled"]

"""
Which models there are, and where a request for one goes: (model name, client) to `Route` or refusal.

It knows the configuration, what the backends last said they have (`update`), and what was set over the
admin API (`choose`); it asks nobody.  `names` says which name means which model, `entries` what each model
is, `core` what comes of a request, `lists` what is shown of a model, `contexts` what each is loaded with.
"""

from dmap.catalog.contexts import Contexts
from dmap.catalog.core import Catalog
from dmap.catalog.lists import Shown, as_openai, v0, v1

__all__ = ["Catalog", "Contexts", "Shown", "as_openai", "v0", "v1"]

"""
The configuration: one YAML file, read into frozen values.

Every key has a default, an unknown key is an error, and all problems are reported at once, each with its path
in the file.  Nothing is clamped or guessed.  `config.example.yaml` shows every key with the reason for it.
Here is the whole file; what its sections are made of is in `dmap.sections`, and each kind of backend brings
its own section along.
"""

from dmap.config.access import AccessSection, Key, Listen, Tls, exposure
from dmap.config.advice import warnings_of
from dmap.config.file import ConfigProblem, check_key, checked, load, parse, read, values_of
from dmap.config.schema import Activity, Config, Device, Log, Server, TracesSection

__all__ = [
    "AccessSection",
    "Activity",
    "Config",
    "ConfigProblem",
    "Device",
    "Key",
    "Listen",
    "Log",
    "Server",
    "TracesSection",
    "Tls",
    "check_key",
    "checked",
    "exposure",
    "load",
    "parse",
    "read",
    "values_of",
    "warnings_of",
]

"""
The configuration: one YAML file, read into frozen values.

Every key has a default, an unknown key is an error, and all problems are reported at once, each with its
line, its column and its path.  Nothing is clamped or guessed.  `config.example.yaml` shows every key with the
reason for it.  Here is the whole file; what its sections are made of is in `dmap.sections`, and each kind of
backend brings its own section along.
"""

from dmap.config.access import AccessSection, Key, Listen, Tls, exposure
from dmap.config.advice import warnings_of
from dmap.config.device import Device
from dmap.config.environment import BACKEND, BACKEND_KIND, BACKEND_URL, BY_URL, Variables, from_environment
from dmap.config.file import ConfigFile, check_key, checked, load, parse, read, values_of
from dmap.config.problems import ConfigProblem, LocatedProblem, Source, section_of
from dmap.config.process import Activity, Log, Server, TracesSection
from dmap.config.residents import model_of
from dmap.config.schema import Config
from dmap.config.settings import Settings
from dmap.config.shared import CacheSection, RedisSection

__all__ = [
    "BACKEND",
    "BACKEND_KIND",
    "BACKEND_URL",
    "BY_URL",
    "AccessSection",
    "Activity",
    "CacheSection",
    "Config",
    "ConfigFile",
    "ConfigProblem",
    "Device",
    "Key",
    "Listen",
    "LocatedProblem",
    "Log",
    "RedisSection",
    "Server",
    "Settings",
    "Source",
    "TracesSection",
    "Tls",
    "Variables",
    "check_key",
    "checked",
    "exposure",
    "from_environment",
    "load",
    "model_of",
    "parse",
    "read",
    "section_of",
    "values_of",
    "warnings_of",
]

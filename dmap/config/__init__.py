"""
The configuration: one YAML file, read into frozen values.  The only place that knows the file's format.

Every key has a default, an unknown key is an error, and all problems are told at once, each with its path
in the file.  Nothing is clamped or guessed.  `config.example.yaml` shows every key with the reason for it.
"""

from dmap.config.access import Access, Key, Listen, Tls
from dmap.config.advice import warnings_of
from dmap.config.file import load, parse
from dmap.config.kinds import SWITCHING, GGUFBackend, LMStudioBackend, OpenAIBackend
from dmap.config.models import Defaults, Load, Model, in_snake
from dmap.config.schema import Config, ConfigProblem, Debug, Device, Server

__all__ = [
    "Access",
    "Config",
    "ConfigProblem",
    "Debug",
    "Defaults",
    "Device",
    "SWITCHING",
    "GGUFBackend",
    "Key",
    "LMStudioBackend",
    "Listen",
    "Load",
    "Model",
    "OpenAIBackend",
    "Server",
    "Tls",
    "in_snake",
    "load",
    "parse",
    "warnings_of",
]

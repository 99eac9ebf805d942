"""The command line."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dmap import __version__
from dmap.remote import commands as remote
from dmap.remote.client import Trouble

EX_INTERRUPTED = 130
"""What a shell returns for a command that SIGINT has ended: 128 plus the signal's number."""

_EXIT_CODES = """\
exit codes: 0 all is well; 1 it could not be done, the last line says why; 2 the command line is wrong;
78 the configuration is wrong; 130 interrupted.  The commands that ask a running daemon find it by DMAP_URL
(http://127.0.0.1:8000) and show it the key in DMAP_KEY.
"""

MOST_BOXES = 100
_FILE = "the configuration, YAML; without it, DMAP_BACKEND_URL, DMAP_LISTEN and DMAP_KEYS are all there is"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that *argv* names; return its exit code."""
    _open_standard_files()
    try:
        options = _parser().parse_args(argv)
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output has seen enough; the exit must not flush it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, Trouble) as exc:
        print(f"dmap: {_said(exc)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return EX_INTERRUPTED


def _said(exc: OSError | Trouble) -> str:
    """Say what went wrong, without the number that Python puts in front of the system's words."""
    if not isinstance(exc, OSError) or exc.strerror is None:
        return str(exc)
    return f"{f'{exc.filename}: ' if exc.filename else ''}{exc.strerror.lower()}"


def _open_standard_files() -> None:
    """Have files at the descriptors 0, 1 and 2, also when started without them: else sockets get there."""
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(file)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dmap", description="One fair door in front of your model servers.", epilog=_EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"dmap {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, help_text in (
        ("serve", "run the proxy"),
        ("check-config", "tell what is wrong with a configuration file; exit 78 if anything is"),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument("config", type=Path, nargs="?", metavar="FILE", help=_FILE)
        command.set_defaults(run=_local, local=name, refuse=command.error)
        if name == "serve":
            command.add_argument("--port", type=_port, help="where to listen, instead of listen.port")
            levels = ("debug", "info", "warning", "error")
            command.add_argument("--log-level", choices=levels, help="instead of log.level of the file")
    command = commands.add_parser("import", help="make a configuration of another switcher's")
    command.add_argument("switcher", choices=["llama-swap"], metavar="llama-swap", help="whose it is")
    command.add_argument("config", type=Path, metavar="FILE", help="its configuration; dmap's goes to stdout")
    command.set_defaults(run=_local, local="import")
    command = commands.add_parser("demo", help="two tiny real models behind one door")
    command.add_argument("--port", type=_port, default=8000, help="where to listen on loopback (8000)")
    command.set_defaults(run=_local, local="demo")
    _add_simulate(commands)
    remote.add(commands)
    _add_key(commands.add_parser("key", help="API keys").add_subparsers(required=True, metavar="COMMAND"))
    return parser


def _add_simulate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("simulate", help="the queue's policy against plain ones, in virtual time")
    command.add_argument(
        "names",
        nargs="*",
        metavar="NAME|FILE",
        help="a word in names of workloads, or a file of them",
    )
    command.add_argument("--list", action="store_true", help="only show the names of the workloads")
    for option, metavar, type_, help_text in (
        ("--config", "FILE", Path, "play them on the devices of this configuration; one more, to compare"),
        ("--replay", "LOG", Path, "play the traffic of an activity log (a file or its folder) instead"),
        ("--set", "KEY=VALUE,...", str, "compare with other values of a device, such as patience_s=90"),
        (
            "--fleet",
            "COUNT,...",
            _counts,
            "play them on so many boxes, and with one of them dead for a while",
        ),
        (
            "--policies",
            "POLICY,...",
            _words,
            "of fifo, drain, longest-queue and dmap; docs/simulate.md has those of a --fleet",
        ),
        ("--plot", "FILE", Path, "draw what happens, as PNG or SVG; takes the extra `plot`"),
    ):
        is_several = option in ("--config", "--set")
        command.add_argument(
            option,
            metavar=metavar,
            type=type_,
            help=help_text,
            action="append" if is_several else "store",
            default=[] if is_several else None,
        )
    command.add_argument("--seed", type=int, default=1, help="the first seed of all chance (1)")
    command.add_argument("--seeds", type=_count, default=1, metavar="COUNT", help="so many seeds (1)")
    command.set_defaults(run=_local, local="simulate", refuse=command.error)


def _port(text: str) -> int:
    if not (text.isdecimal() and len(text) < 6 and int(text) < 65_536):
        raise argparse.ArgumentTypeError("not a port, 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError("not a number from 1 to 1000")
    return int(text)


def _counts(text: str) -> list[int]:
    counts = [_count(word) for word in _words(text)]
    if max(counts) > MOST_BOXES:
        raise argparse.ArgumentTypeError(f"not numbers from 1 to {MOST_BOXES}")
    return counts


def _add_key(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("new", help="make a key, and the line that the configuration needs")
    command.add_argument("name", metavar="NAME", help="what the client is called, in logs and in the queue")
    for option, metavar, help_text in (
        (
            "--scopes",
            "SCOPE,...",
            "what it may do: inference, front, debug, admin; or none, to list models (inference)",
        ),
        ("--models", "MODEL,...", "globs of the models that it may use (*)"),
    ):
        command.add_argument(
            option, action="extend", type=_words, default=[], metavar=metavar, help=help_text
        )
    command.add_argument("--expires", metavar="DATE", help="refused from this day on, such as 2030-01-31")
    command.add_argument("--parallel", type=int, metavar="COUNT", help="so many requests at once at most")
    command.add_argument("--rate", type=int, metavar="COUNT", help="so many may begin in a minute")
    command.set_defaults(run=_local, local="key new", refuse=command.error)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _local(options: argparse.Namespace) -> int:
    """Import what the command needs now and not before: others then start in half the time."""
    from dmap import local

    return local.run(options)

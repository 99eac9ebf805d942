"""
The `lms` command: loads with what LM Studio's REST API does not take.

One call is one process, which speaks to the server over its WebSocket.  Its traps, by lms's own source
(`src/subcommands/load.ts` and `src/createClient.ts`, 2026-08):

1. Without `--port` it looks for any LM Studio of this host, and starts one if there is none; `--host
   127.0.0.1` alone does not prevent that.  With `--host` and `--port` it asks that server, or fails.
2. It matches the key fuzzily and, with `--yes`, takes the first hit.  `--exact` wants the path, not the key;
   `lms ls --json` has both.
3. Without `--yes` it may ask back.
4. Ends with status 0 say little (`lms unload` of an unknown model has it), and its words come in the user's
   language.  So nothing it prints on success is read: `lmstudio` looks over REST at what there is now.
5. SIGINT makes it cancel its load in LM Studio, which REST cannot.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmap.backends.base import Target
from dmap.backends.lmstudio.client import Fault
from dmap.backends.lmstudio.section import FLAGS

LIST_S = 30.0
REAP_S = 5.0
MOST_BYTES = 4 * 2**20
MOST_WORDS = 300

_ENVIRONMENT = ("HOME", "PATH", "TMPDIR", "USER")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SPINNER = re.compile(r"[\u2800-\u28ff]")


@dataclass(slots=True)
class Lms:
    """
    The command at *path*, always sent to *server*, which dmap has just asked.

    *grace_s* is how long it gets to cancel its load before it is killed.
    """

    path: Path
    server: Target
    api_key: str | None
    grace_s: float = 3.0

    async def load(self, key: str, options: Mapping[str, Any], within_s: float) -> dict[str, Any]:
        """
        Have *key* loaded with *options*, which are among `FLAGS`; return what it said under `words`.

        What was really loaded is for the caller to look up, and only that proves anything.  Raises `Fault`,
        with the exit status as its status, and TimeoutError after *within_s*.  When cancelled or late, the
        load in LM Studio is cancelled too, if LM Studio obeys, and no process is left.
        """
        async with asyncio.timeout(within_s):
            path = await self._path_of(key)
            flags = [f"{FLAGS[option]}={value}" for option, value in options.items()]
            try:
                _, words = await self._run("load", path, "--exact", "--yes", *flags)
            except Fault as fault:
                if "unknown option '--exact'" not in str(fault):
                    raise
                _, words = await self._run("load", key, "--yes", *flags)
        return {"words": words}

    async def _path_of(self, key: str) -> str:
        """Return the path that `--exact` wants for *key*; other devices may have the same model."""
        try:
            async with asyncio.timeout(LIST_S):
                out, words = await self._run("ls", "--json")
            paths = _paths(json.loads(out), key)
        except TimeoutError as exc:
            raise Fault(0, f"lms ls has not ended in {LIST_S:g} s") from exc
        except ValueError:
            raise Fault(0, f"lms ls --json wrote no JSON: {words}") from None
        if not paths:
            raise Fault(0, "lms does not list it")
        return paths[0]

    async def _run(self, *arguments: str) -> tuple[bytes, str]:
        """
        Run it to its end; return its standard output, and all that it wrote in words.

        When nobody waits for it any more, it is ended, with all that it has started.  Raises `Fault` if it
        cannot be run or fails.
        """
        server = ("--host", self.server.host, "--port", str(self.server.port))
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *(str(self.path), *arguments, *server),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                env=self._environment(),
                start_new_session=True,
            )
        except OSError as exc:
            raise Fault(127, f"{self.path} cannot be run: {exc.strerror or exc}") from exc
        assert process.stdout is not None and process.stderr is not None
        work = asyncio.gather(_tail(process.stdout), _tail(process.stderr), process.wait())
        try:
            out, err, status = await asyncio.shield(work)
        finally:
            await _end(process.pid, work, self.grace_s)
        words = self._words(err + b"\n" + out) or f"nothing, exit status {status}"
        if status:
            unheard = "does not appear to be running" in words  # it waits 0.5 s; dmap's next look knows more
            raise Fault(status, f"lms: {words}", garbled=unheard)
        return out, words

    def _environment(self) -> dict[str, str]:
        """Give it its user's home and none of dmap's secrets but the token, which is not for `ps` to show."""
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        token = {"LM_API_TOKEN": self.api_key} if self.api_key else {}
        return {**kept, "LC_ALL": "C", "NO_COLOR": "1", **token}

    def _words(self, written: bytes) -> str:
        """Return what it said, without spinner, colours and token."""
        text = _ESCAPE.sub("", written.decode("utf-8", "replace"))
        lines = (" ".join(line.split()) for line in re.split(r"[\r\n]+", text))
        said = " ".join(line for line in lines if line and not _SPINNER.match(line))
        if self.api_key:
            said = said.replace(self.api_key, "(token)")
        return said[:MOST_WORDS]


def _paths(listed: Any, key: str) -> list[str]:
    """Return the paths of *key*, those on the server's own device first."""
    entries = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    entries.sort(key=lambda entry: entry.get("deviceIdentifier") is not None)
    paths = (entry.get("path") for entry in entries if entry.get("modelKey") == key)
    return [path for path in paths if isinstance(path, str) and not path.startswith("-")]


async def _tail(stream: asyncio.StreamReader) -> bytes:
    """Read to the end, and keep the last of it."""
    kept = bytearray()
    while piece := await stream.read(2**16):
        kept += piece
        if len(kept) > 2 * MOST_BYTES:
            del kept[:-MOST_BYTES]
    return bytes(kept[-MOST_BYTES:])


async def _end(pid: int, work: "asyncio.Future[tuple[bytes, bytes, int]]", grace_s: float) -> None:
    """See the process off: ask it to cancel, then kill it.  Cancelled meanwhile, it kills at once."""
    if work.done():
        return
    try:
        _signal(pid, signal.SIGINT)
        await asyncio.wait((work,), timeout=grace_s)
    finally:
        if not work.done():
            _signal(pid, signal.SIGKILL)
            await asyncio.wait((work,), timeout=REAP_S)
        work.cancel()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)

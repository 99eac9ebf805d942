"""
Models that are commands: to load one is to run its command, to unload it is to end all that came of it.

The life of the children is that of all `Residents`.  Here is what is particular: the values that a command
gets, the port it listens on, and that what it gives is asked of the server.  At the first look each `stop` is
run once, for a container outlives the dmap that started it.
"""

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dmap.backends.base import Loaded, Target, ignore, is_alike
from dmap.backends.process.command import Command, needs_port
from dmap.backends.process.ports import Ports
from dmap.backends.process.section import ProcessSection
from dmap.backends.process.server import Server
from dmap.backends.resident import Recipe
from dmap.backends.residents import Residents
from dmap.errors import BackendDown, LoadFailed
from dmap.models import ModelInfo
from dmap.process import Child, Log, run_once, secrets_in, short_environment
from dmap.sections import ModelSection
from dmap.sections.command import places
from dmap.tasks import end, errand

PATIENCE = 10
"""
A server at work may leave ten times as many questions unanswered as an idle one, before it counts as hung.

Simple ones answer nothing else while they work.  At 10 s each this is `server.first_byte_s`.
"""


class ProcessBackend:
    """
    The `Switcher` over the commands of those models whose `backend` is *name*.

    `commands` has the sections of these models; it may be set anew.  A resident whose command has changed
    does not satisfy any more.  Every *health_s* each resident has to show that it does not hang.
    """

    frees_at_once = True
    url = None

    def __init__(
        self, name: str, section: ProcessSection, connect_s: float, *, health_s: float = 10.0
    ) -> None:
        self.name = name
        self.changed: Callable[[], None] = ignore
        self.in_use: Callable[[str], bool] = lambda model: False
        self.report: Callable[[Sequence[ModelInfo] | BackendDown], None] = ignore
        self.contexts: Mapping[str, int] = {}
        self._commands: Mapping[str, ModelSection] = {}
        self._section = section
        self._connect_s = connect_s
        self._ports = Ports(*section.ports)
        self._residents = residents = Residents(
            name, section.load_s, health_s, lambda: self.changed(), lambda model: self.in_use(model)
        )
        self._sweep: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self.start, self.log, self.doubt = residents.start, residents.log, residents.doubt
        self.unload, self.target = residents.unload, residents.target

    @property
    def commands(self) -> Mapping[str, ModelSection]:
        """The sections of its models, by id."""
        return self._commands

    @commands.setter
    def commands(self, commands: Mapping[str, ModelSection]) -> None:
        """Go by other *commands*; a model that has none any more is ended."""
        self._commands = commands
        if self._sweep is not None and self._sweep.done():
            self.report(self._described())
        for model in {each.recipe.model for each in self._residents if each.is_up} - commands.keys():
            if not self.in_use(model):  # else it goes after its last request
                task = errand(self._retire(model), f"retire {model}", expected=(BackendDown,))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)

    def satisfies(self, model: str, options: Mapping[str, Any]) -> bool:
        """Tell whether the resident *model* runs by the very command that a load with *options* would run."""
        section = self._commands.get(model)
        return section is not None and self._residents.satisfies(model, self._asked(model, section, options))

    async def models(self) -> Sequence[ModelInfo]:
        """List the models that have commands; a resident is listed even when its own has gone."""
        if self._sweep is None:
            self._sweep = errand(self._stop_all(), f"stop what {self.name} had")
        await asyncio.shield(self._sweep)
        await self._residents.cleared()
        return self._described()

    async def load(self, model: str, options: Mapping[str, Any]) -> Loaded:
        """Run the command of *model*; return when its server is ready, with what that says it gives."""
        section = self._commands.get(model)
        if section is None:
            raise _gone(model)

        async def recipe() -> Recipe:
            return await self._recipe(model, section, options)

        loaded = await self._residents.load(model, self._asked(model, section, options), recipe)
        if model not in self._commands:
            await self._residents.unload(model)
            raise _gone(model)
        return loaded

    async def check(self, model: str) -> None:
        """Look whether the program of the command is there."""
        section = self._commands.get(model)
        if section is None:
            raise _gone(model)
        command = Command.of(section, self._values(model, section, {}))
        path = _environment(self._section, command).get("PATH")
        if await asyncio.to_thread(shutil.which, command.run[0], path=path) is None:
            reason = f"there is no program {command.run[0]!r} that may be run"
            raise LoadFailed(f"cannot load model {model!r}: {reason}")

    async def confirm(self) -> None:
        """Nobody else starts or ends these servers; one that dies is noticed at once."""

    def means(self, model: str, named: str) -> bool:
        """Tell whether *named* is *model*, by its looks."""
        return is_alike(model, named)

    def made_of(self, model: str) -> str | None:
        """Return the command; which files it reads is not known."""
        return repr(self._commands.get(model))

    async def close(self) -> None:
        """End all servers at once; loads under way fail, later ones too."""
        await asyncio.gather(end(self._sweep, *self._retiring), self._residents.close())

    async def _retire(self, model: str) -> None:
        """End the server of a model that the configuration has no more: nobody can ask for it again."""
        await self._residents.unload(model)
        self.report(self._described())
        self.changed()

    def _described(self) -> list[ModelInfo]:
        ids = dict.fromkeys((*self._commands, *(each.recipe.model for each in self._residents)))
        return [self._describe(model) for model in ids]

    def _describe(self, model: str) -> ModelInfo:
        loaded, section = self._residents.loaded(model), self._commands.get(model)
        asked = self.contexts.get(model) if section is None else self._context(model, section, {})
        parallel = self._parallel(section, {}) if section is not None else None
        return ModelInfo(
            model,
            resident=loaded is not None,
            context_length=(loaded.context_length if loaded else None) or asked,
            parallel=(loaded.parallel if loaded else None) or parallel,
        )

    def _context(self, model: str, section: ModelSection, options: Mapping[str, Any]) -> int | None:
        """Return the context that a load asks for; None if the command is not told any."""
        given = options.get("context_length") or self.contexts.get(model)
        is_told = any("context_length" in places(word) for word in section.cmd or ())
        return given or (self._section.context_length if is_told else None)

    def _parallel(self, section: ModelSection, options: Mapping[str, Any]) -> int | None:
        asked = options.get("parallel") or section.load.parallel
        return asked or section.parallel or self._section.parallel

    def _asked(self, model: str, section: ModelSection, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a load is told apart by: the command, but for its port."""
        return {"command": Command.of(section, self._values(model, section, options))}

    def _values(self, model: str, section: ModelSection, options: Mapping[str, Any]) -> dict[str, str]:
        context = self._context(model, section, options) or self._section.context_length
        values = {"model": model, "context_length": context, "parallel": self._parallel(section, options)}
        return {name: str(value) for name, value in values.items() if value is not None}

    async def _recipe(self, model: str, section: ModelSection, options: Mapping[str, Any]) -> Recipe:
        values, port = self._values(model, section, options), None
        if needs_port(section):
            port = self._ports.take()
            values["port"] = str(port)
        command = Command.of(section, values)
        server = Server(command.url, command.ready, self._connect_s)
        try:
            await server.check_unused()
        except BaseException:
            self._free(port)
            raise

        async def come_up(child: Child) -> tuple[Target, Loaded]:
            return server.target, await server.come_up()

        return Recipe(
            model,
            command.run,
            _environment(self._section, command),
            come_up,
            command.health,
            server.reason,
            patience=PATIENCE,
            stop=command.stop,
            stop_s=self._section.stop_s,
            secrets=secrets_in(command.variables, (*command.run, *command.stop)),
            freed=lambda: self._free(port),
        )

    def _free(self, port: int | None) -> None:
        if port is not None:
            self._ports.free(port)

    async def _stop_all(self) -> None:
        """Run each `stop` that needs no port: a killed dmap may have left what only that ends."""
        stops = {
            command.stop: command.variables
            for model, section in self._commands.items()
            if (command := Command.of(section, self._values(model, section, {}))).stop
            and not any("port" in places(word) for word in section.stop or ())
        }
        environment, within_s = {**short_environment(), **self._section.visible}, self._section.stop_s
        await asyncio.gather(
            *(
                run_once(stop, {**environment, **variables}, Log(), within_s)
                for stop, variables in stops.items()
            )
        )


def _environment(section: ProcessSection, command: Command) -> dict[str, str]:
    return {**short_environment(), **section.visible, **command.variables}


def _gone(model: str) -> LoadFailed:
    return LoadFailed(f"cannot load model {model!r}: the configuration has no cmd for it any more")

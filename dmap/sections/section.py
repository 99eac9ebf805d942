"""What all sections of the file have in common."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One mapping of the file: closed and frozen.  Text may stand for a number: so the environment has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def given(self) -> dict[str, Any]:
        """Return what is set, by name."""
        return self.model_dump(exclude_none=True)

    def conflicts(self) -> Iterable[str]:
        """Return what does not fit together, each line with its path in this section."""
        return ()

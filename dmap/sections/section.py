"""What all sections of the file have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One mapping of the file: closed and frozen.  Text may stand for a number: so the environment has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

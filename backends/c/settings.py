"""What a target's data file may set for this backend."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.toolchain import best_here
from qcompiler.errors import SpecError
from qcompiler.target import Target


class Settings(BaseModel):
    """Of generated C.

    Args:
        isa: the least that the processor has; `native` is the best that this machine has.
        dispatched: further levels that are taken at run time where the processor has them, best first.
        threads: whether a pool of threads shares the work; without it nothing but math and string is used of libc.
        run_threads: how many threads `artifact(x)` uses on this machine.
        batch: rows of the batch axis, when the model leaves it open.
        passes: texts of passes that run right after the canonical ones; the compiler reads them.
        stored: widths of the codes of each kernel's weight; `Target.stored` reads them.
        weight_only: whether activations beside few-bit weights stay in `float`, or become `int8` by blocks at run time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    isa: Isa | Literal["native"] = Isa.PORTABLE
    dispatched: tuple[Isa, ...] = ()
    threads: bool = True
    run_threads: int = Field(default=1, ge=1)
    batch: int = Field(default=1, ge=1)
    passes: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    weight_only: Literal["float", "int8"] = "float"

    @property
    def level(self) -> Isa:
        """The least that the processor has."""
        return best_here() if self.isa == "native" else self.isa


def settings_of(target: Target) -> Settings:
    """The checked settings of a target.

    Raises:
        SpecError: for one that does not exist, or a value that it cannot have.
    """
    try:
        return Settings.model_validate(dict(target.settings))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if name not in Settings.model_fields:
            fault, mend = f"there is no setting {name}", f"settings: {', '.join(Settings.model_fields)}"
        elif name == "isa":
            levels = ", ".join(["native", *(level.value for level in Isa)])
            fault, mend = f"there is no instruction set {target.settings[name]}", f"instruction sets: {levels}"
        else:
            fault, mend = f"setting {name}: {first['msg']}", ""
        raise SpecError(fault, where=f"target {target.name}", mend=mend) from error

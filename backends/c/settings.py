"""What a target's data file may set for this backend."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.toolchain import best_here
from qcompiler.errors import SpecError
from qcompiler.target import Target

_BOUND = re.compile(r"([A-Za-z]\w*) *<= *([1-9][0-9]*)")


class Settings(BaseModel):
    """Of generated C.

    Args:
        isa: the least that the processor has; `native` is the best that this machine has.
        dispatched: further levels that are taken at run time where the processor has them, best first.
        threads: whether a pool of threads shares the work; without it nothing but math and string is used of libc.
        run_threads: how many threads `artifact(x)` uses on this machine.
        batch: rows of the batch axis, when the model leaves it open.
        sizes: what every call chooses, and up to which number: a free size of the model, or `batch`.
        passes: texts of passes that run right after the canonical ones; the compiler reads them.
        stored: widths of the codes of each kernel's weight; `Target.stored` reads them.
        requantize: in `float`, as other runtimes do, or in `integer`, for processors without floats; portable C only.
        few_bits: whether layers of 2 to 4 bits on both sides multiply codes in `bytes`, or `planes` of bits.
        weight_only: whether activations beside few-bit weights stay in `float`, or become `int8` by blocks at run time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    isa: Isa | Literal["native"] = Isa.PORTABLE
    dispatched: tuple[Isa, ...] = ()
    threads: bool = True
    run_threads: int = Field(default=1, ge=1)
    batch: int = Field(default=1, ge=1)
    sizes: tuple[Annotated[str, Field(pattern=f"^{_BOUND.pattern}$")], ...] = ()
    passes: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    few_bits: Literal["bytes", "planes"] = "bytes"
    weight_only: Literal["float", "int8"] = "float"
    requantize: Literal["float", "integer"] = "float"

    @model_validator(mode="after")
    def _written(self) -> Settings:
        if self.requantize == "integer" and (self.isa is not Isa.PORTABLE or self.dispatched):
            raise ValueError("requantize=integer is written in portable C only: set isa=portable")
        return self

    @property
    def most(self) -> Mapping[str, int]:
        """The largest choice of every size that calls choose, by name."""
        found = map(_BOUND.fullmatch, self.sizes)
        return {bound[1]: int(bound[2]) for bound in found if bound}

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
        name = str(first["loc"][0]) if first["loc"] else "requantize"
        if name not in Settings.model_fields:
            fault, mend = f"there is no setting {name}", f"settings: {', '.join(Settings.model_fields)}"
        elif name == "sizes":
            fault, mend = f"setting sizes cannot be {target.settings[name]}", "for example sizes=[batch<=8, s1<=256]"
        elif name == "isa":
            levels = ", ".join(["native", *(level.value for level in Isa)])
            fault, mend = f"there is no instruction set {target.settings[name]}", f"instruction sets: {levels}"
        else:
            fault, mend = f"setting {name}: {first['msg']}", ""
        raise SpecError(fault, where=f"target {target.name}", mend=mend) from error

"""What a target's data file may set for this backend."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from qcompiler.backends.cuda.arch import ARCHITECTURES, Architecture, architecture
from qcompiler.errors import SpecError
from qcompiler.target import Target

Compute = Literal["float16", "bfloat16", "float32"]
DTYPES: dict[Compute, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}


class Settings(BaseModel):
    """Of generated CUDA.

    Args:
        architectures: compute capabilities times ten, such as 87; each gets code of its own.
        compute: in which floats activations lie on the device, and operators between layers compute.
        build: `ahead` compiles with nvcc while the model is written, `later` leaves it to the machine that runs it, and
            `auto` compiles ahead where nvcc is found.
        wgmma: whether layers of many rows take Hopper's instructions of four warps together.
        device: where `artifact(x)` runs: on a GPU, or its kernels lane by lane on this processor, which is slow.
        passes: texts of passes that run right after the canonical ones; the compiler reads them.
        stored: widths of the codes of each kernel's weight; `Target.stored` reads them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architectures: tuple[int, ...] = Field(default=(80, 86, 89, 90), min_length=1)
    compute: Compute = "float16"
    build: Literal["auto", "ahead", "later"] = "auto"
    wgmma: bool = False
    device: Literal["cuda", "emulation"] = "cuda"
    passes: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()

    @field_validator("architectures")
    @classmethod
    def _known(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        unknown = [one for one in value if one not in ARCHITECTURES]
        if unknown:
            raise ValueError(f"there is no compute capability {unknown[0]}")
        return tuple(sorted(set(value)))

    @property
    def generations(self) -> tuple[Architecture, ...]:
        """The architectures, oldest first."""
        found = (architecture(one) for one in self.architectures)
        return tuple(replace(one, wgmma=self.wgmma and one.capability == 90) for one in found)

    @property
    def dtype(self) -> torch.dtype:
        """Of activations on the device."""
        return DTYPES[self.compute]


def settings_of(target: Target) -> Settings:
    """The checked settings of a target.

    Raises:
        SpecError: for one that does not exist, or a value that it cannot have.
    """
    try:
        settings = Settings.model_validate(dict(target.settings))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if name not in Settings.model_fields:
            fault, mend = f"there is no setting {name}", f"settings: {', '.join(Settings.model_fields)}"
        elif name == "architectures":
            fault = f"setting architectures cannot be {target.settings[name]}"
            mend = f"a list of {', '.join(map(str, ARCHITECTURES))}, for example architectures=[87]"
        else:
            fault, mend = f"setting {name}: {first['msg']}", ""
        raise SpecError(fault, where=f"target {target.name}", mend=mend) from error
    lacking = [one.name for one in settings.generations if settings.compute == "bfloat16" and not one.bfloat16]
    if lacking:
        raise SpecError(
            f"{lacking[0]} has no bfloat16", where=f"target {target.name}", mend="set compute=float16 or float32"
        )
    return settings

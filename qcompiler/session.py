"""Calls that follow each other: a runner that is called like the model, and what it keeps from call to call.

A runner is a pure function of flat inputs, states among them (`ir.states`), to flat results, new states among them. A
session begins at the first values and hands the new ones on; a runner whose states lie in its own memory makes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch

from qcompiler.errors import InputError
from qcompiler.ir.interp import check_inputs, flatten_inputs
from qcompiler.manifest import Face
from qcompiler.target import Runner


class Session(Protocol):
    """Flat inputs to flat results, both without states, which go from call to call."""

    def __call__(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The next call."""
        ...

    def reset(self) -> None:
        """Makes the next call a first one."""
        ...


class Runs(Protocol):
    """A runner as a protocol, for those that can do more."""

    def __call__(self, inputs: Sequence[torch.Tensor], /) -> list[torch.Tensor]:
        """Flat inputs to flat results."""
        ...


@runtime_checkable
class KeepsStates(Runs, Protocol):
    """A runner that can keep states in its own memory."""

    def session(self) -> Session:
        """A session of its own, which shares no state with others."""
        ...


class HandedOn:
    """A session over any runner: the states of a call are given to the next."""

    def __init__(self, runner: Runner, first: Callable[[], list[torch.Tensor]]) -> None:
        self._runner, self._first = runner, first
        self._values: list[torch.Tensor] | None = None

    def __call__(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The next call."""
        values = self._first() if self._values is None else self._values
        found = self._runner([*inputs, *values])
        count = len(found) - len(values)
        self._values = _own(found[count:], [*inputs, *found[:count]])
        return found[:count]

    def reset(self) -> None:
        """Makes the next call a first one."""
        self._values = None


def _own(values: Sequence[torch.Tensor], shared: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Values that the caller, who has the shared tensors and may write to them, cannot change."""
    places = {value.untyped_storage().data_ptr() for value in shared}
    return [value.clone() if value.untyped_storage().data_ptr() in places else value for value in values]


class Caller:
    """A session that is called like the model."""

    def __init__(self, face: Face, runner: Runner, first: Callable[[], list[torch.Tensor]]) -> None:
        """The session begins with the first call.

        Args:
            face: how the model is called.
            runner: flat inputs to flat results, states among them.
            first: makes what the first call starts from.
        """
        self._face, self._runner, self._first = face, runner, first
        self._program = face.program()
        self._session: Session | None = None

    def __call__(self, *args: object, **kwargs: object) -> object:
        """The next call: inputs and results in the model's own structure.

        Raises:
            InputError: when an input has another name, dtype or shape than the model takes.
        """
        flat = flatten_inputs(self._program, args, kwargs)
        check_inputs(self._program, flat)
        if self._session is None:
            own = self._runner if self._face.states and isinstance(self._runner, KeepsStates) else None
            self._session = HandedOn(self._runner, self._first) if own is None else own.session()
        return self._face.signature.result.build(self._session(flat))

    def reset(self) -> None:
        """Makes the next call a first one.

        Raises:
            InputError: when the model keeps nothing from call to call.
        """
        if not self._face.states:
            raise InputError("the model keeps nothing from call to call, so that there is nothing to reset")
        if self._session is not None:
            self._session.reset()

"""The size of every dimension of a program: a number when C is written, but for those that each call chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qcompiler.backends.c.extent import Extent, Free, bounds, extent_of, free_names, made
from qcompiler.errors import SpecError
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import Dim, Dimensions, SymbolType, TensorType, TupleType, dim_symbols

BATCH = "batch"
"""In settings, the first axis of the inputs."""


@dataclass
class Sizes:
    """Sizes by dimension.

    Args:
        dimensions: of the program.
        values: of each symbol; an `Extent` stands for what a call chooses.
        free: what a call chooses.
        nonnegative: sizes that some choices would make less than zero, in the order in which they were met.
    """

    dimensions: Dimensions
    values: Mapping[str, int]
    free: tuple[Free, ...] = ()
    nonnegative: dict[int, None] = field(default_factory=dict)

    def of(self, dim: Dim) -> int:
        """A dimension as a number, or what stands for it."""
        if not self._chosen(dim):
            return self.dimensions.hint(dim, self.values)
        found = extent_of(dim, self.values)
        if isinstance(found, Extent) and bounds(found)[0] < 0:
            self.nonnegative[found] = None
        return found

    def seen_by(self, node: Node) -> list[str]:
        """Names of the free sizes in the types of a node and of what it reads."""
        found = {
            name for dim in _dims(node) for symbol in self._chosen(dim) for name in free_names(self.values[symbol])
        }
        return sorted(found)

    def _chosen(self, dim: Dim) -> list[str]:
        """The symbols of a dimension that a call chooses."""
        if not self.free or isinstance(dim, int):
            return []
        return [name for name in dim_symbols(dim) if isinstance(self.values.get(name), Extent)]


def _dims(node: Node) -> list[Dim]:
    types = [each.meta["type"] for each in (node, *node.all_input_nodes)]
    items = [item for type_ in types for item in (type_.items if isinstance(type_, TupleType) else (type_,))]
    found = [item.expr for item in items if isinstance(item, SymbolType)]
    return found + [dim for item in items if isinstance(item, TensorType) for dim in item.shape]


def sizes_of(program: Program, batch: int) -> dict[str, int]:
    """A number for every symbol: `batch` for those that are the first axis of an input, else the example's size."""
    sizes = {name: symbol.hint for name, symbol in program.dimensions.symbols.items()}
    for name in _batch_symbols(program):
        sizes[name] = max(batch, program.dimensions.symbols[name].low)
    return sizes


def with_free(program: Program, batch: int, most: Mapping[str, int]) -> Sizes:
    """Sizes of which some are chosen by every call.

    Args:
        program: whose symbols get sizes.
        batch: as for `sizes_of`.
        most: the largest choice, by symbol; `batch` stands for the first axis of the inputs.

    Raises:
        SpecError: for a symbol that the program has not, one that no input has as an axis, and a bound that cannot be.
    """
    values = sizes_of(program, batch)
    free: list[Free] = []
    for name, limit in most.items():
        symbols = _batch_symbols(program) if name == BATCH else [name]
        free.append(_free(program, name, symbols, limit))
        values |= dict.fromkeys(symbols, made([((free[-1],), 1)]))
    return Sizes(program.dimensions, values, tuple(free))


def _free(program: Program, name: str, symbols: list[str], most: int) -> Free:
    known = program.dimensions.symbols
    axes = [dim for node in program.inputs for dim in _dims(node)]
    readable = [symbol for symbol in known if any(str(dim) == symbol for dim in axes)]
    if not symbols or any(symbol not in readable for symbol in symbols):
        raise SpecError(
            f"the program has no size '{name}' that an input tells",
            where="setting sizes",
            mend=f"free sizes: {', '.join(readable) or 'none; give examples or calibration data of several shapes'}",
        )
    least = max(known[symbol].low for symbol in symbols)
    highest = min((high for symbol in symbols if (high := known[symbol].high) is not None), default=most)
    if not least <= most <= highest:
        raise SpecError(
            f"'{name}' cannot be {most}", where="setting sizes", mend=f"the model takes {least} to {highest}"
        )
    example = max(known[symbol].hint for symbol in symbols)
    if name != BATCH and example > most:
        raise SpecError(
            f"'{name}' is {example} in the examples, more than {most}",
            where="setting sizes",
            mend="allow as much, or give shorter examples and calibration data",
        )
    return Free(name, most, least)


def _batch_symbols(program: Program) -> list[str]:
    types = [program.type(node) for node in program.inputs]
    first = [type_.shape[0] for type_ in types if isinstance(type_, TensorType) and type_.rank > 1]
    return sorted({name for dim in first for name in dim_symbols(dim)})

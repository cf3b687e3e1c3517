"""Nested arguments of graph nodes: which nodes they hold, and the same with others in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch.fx.node import Argument, Node, map_aggregate, map_arg


def all_nodes(argument: object) -> Iterator[Node]:
    """Every node inside nested call arguments, in order."""
    found: list[Node] = []
    map_arg(argument, lambda node: found.append(node) or node)  # pyright: ignore[reportArgumentType]
    return iter(found)


def map_nodes(argument: Argument, function: Callable[[Node], Argument]) -> Argument:
    """Nested call arguments with every node replaced."""
    return map_aggregate(argument, lambda item: function(item) if isinstance(item, Node) else item)  # pyright: ignore[reportReturnType]


def identifier(name: str) -> str:
    """`name` with everything that no node name may hold replaced by underscores."""
    return "".join(char if char.isascii() and (char.isalnum() or char == "_") else "_" for char in name)

"""Right changes of basis made by the product's own surgery, and the mistakes that can be made in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from qcompiler.analysis.groups import Action, SymmetryGroup
from qcompiler.analysis.symmetry import symmetries
from qcompiler.ir.program import Node, Program
from qcompiler.passes.transform import gains, surgery
from qcompiler.passes.transform.cut import cut_in
from qcompiler.passes.transform.factors import Hadamard
from qcompiler.passes.transform.wanted import reading_of
from tests.transform_models import canonical

STEP = "by_hand"


@dataclass(frozen=True, eq=False)
class Scene:
    """A change of basis that is right.

    Args:
        before: the program.
        after: what the surgery made of it.
        group: where it acted.
        change: the matrix or the scale, one per fibre.
    """

    before: Program
    after: Program
    group: SymmetryGroup
    change: Tensor


@lru_cache
def scene(name: str) -> Scene:
    """A scene by its name."""
    return SCENES[name]()


def random_rotation(size: int, seed: int = 0) -> Tensor:
    draw = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(draw).Q


def random_scale(*shape: int, seed: int = 0) -> Tensor:
    return 0.5 + torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(program: Program, module: str) -> Node:
    """The operator with a weight that came from a module."""
    found = [node for node in program.nodes if program.origin(node).module == module and "weight" in program.bind(node)]
    return found[-1]


def edit(program: Program, module: str, change: Callable[[Tensor], Tensor], argument: str = "weight") -> None:
    """Changes a constant of the layer that came from a module."""
    node = layer(program, module)
    param = program.bind(node)[argument]
    assert isinstance(param, Node)
    program.set_exact(param, change(program.exact(param)))


def value(program: Program, module: str, argument: str = "weight") -> Tensor:
    """A constant of the layer that came from a module."""
    param = program.bind(layer(program, module))[argument]
    assert isinstance(param, Node)
    return program.exact(param)


def written_by(groups: tuple[SymmetryGroup, ...], node: Node) -> SymmetryGroup:
    """The group that a layer writes."""
    return next(group for group in groups if any(site.node is node for site in group.writers))


def stream(kind: str) -> Scene:
    """The widest stream of a model, turned by a random rotation."""
    before = canonical(kind)
    after = before.copy()
    gains.prepare(after, widest(after), STEP)
    group = widest(after)
    turn = random_rotation(group.size)
    surgery.apply(after, group, turn, STEP)
    return Scene(before, after, group, turn)


def widest(program: Program) -> SymmetryGroup:
    """The group with the most writers and readers that may be rotated."""
    may = [group for group in symmetries(program).orthogonal if Action.ORTHOGONAL in group.actions]
    return max(may, key=lambda group: len(group.sites))


def values() -> Scene:
    """The values of each key-value head, mixed by invertible matrices."""
    before = canonical("llama")
    after = before.copy()
    group = written_by(symmetries(after).orthogonal, layer(after, "layers.0.value"))
    mix = torch.stack([random_rotation(group.size, seed) * random_scale(group.size, seed=seed) for seed in (1, 2)])
    surgery.apply(after, group, mix, STEP)
    return Scene(before, after, group, mix)


def scaled(kind: str, module: str) -> Scene:
    """What a layer writes, scaled."""
    before = canonical(kind)
    after = before.copy()
    group = written_by(symmetries(after).scales, layer(after, module))
    vector = random_scale(group.fibres, group.size)
    surgery.scale(after, group, vector, STEP)
    return Scene(before, after, group, vector)


def online() -> Scene:
    """A rotation at run time in front of the layer behind a GELU."""
    before = canonical("vit")
    after = before.copy()
    reading = reading_of(after, layer(after, "layers.0.down"))
    assert reading is not None
    signs = torch.where(torch.arange(32) % 3 == 0, -1.0, 1.0).double()
    cut_in(after, [reading], Hadamard(16, signs), STEP)
    return Scene(before, after, SymmetryGroup("online", 32, 1, frozenset(), ()), signs)


SCENES: dict[str, Callable[[], Scene]] = {
    "llama stream": lambda: stream("llama"),
    "tied stream": lambda: stream("tied llama"),
    "vit stream": lambda: stream("vit"),
    "llama values": values,
    "llama up": lambda: scaled("llama", "layers.0.up"),
    "llama key": lambda: scaled("llama", "layers.0.key"),
    "cnn wide": lambda: scaled("depthwise cnn", "wide"),
    "cnn stem": lambda: scaled("depthwise cnn", "stem"),
    "dit norm": lambda: scaled("dit", "modulation"),
    "unet level": lambda: scaled("unet", "down"),
    "vit online": online,
}

"""The surgery of transforms, on symmetry groups written by hand: what is folded, what is added, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qcompiler.analysis.groups import Action, Place, Site, SymmetryGroup
from qcompiler.errors import VerifyError
from qcompiler.hadamard import random_signs
from qcompiler.ir.interp import evaluate
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program
from qcompiler.passes.transform import surgery
from qcompiler.passes.transform.cut import cut_in
from qcompiler.passes.transform.factors import (
    Chain,
    Dense,
    Diagonal,
    Factor,
    Hadamard,
    Kronecker,
    Order,
    keeping_mean,
    matrix_of,
)
from qcompiler.passes.transform.gains import fold_norm, fold_product, prepare
from qcompiler.passes.transform.wanted import by_source, readings, wanted
from qcompiler.pipeline import difference
from tests.torch_models import noise

SMALL = 1e-12


def orthogonal(size: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(noise(size, size, seed=seed).double())[0]


def place(axis: int, *rows: range, fibre: tuple[int, ...] = ()) -> Place:
    index = torch.tensor([list(row) for row in rows])
    return Place(axis, index, torch.tensor(fibre or (0,) * len(rows)))


def group(program: Program, size: int, *sites: tuple[str, str, str, Place], fibres: int = 1) -> SymmetryGroup:
    found = tuple(Site(program.node(node), argument, role, where) for node, argument, role, where in sites)  # pyright: ignore[reportArgumentType]
    return SymmetryGroup("s0", size, fibres, frozenset({Action.GENERAL}), found)


def changed(before: Program, after: Program) -> float:
    """Relative difference of the results, with checks that the program is legal."""
    after.erase_dead()
    after.verify()
    sample = [noise(*[3 if not isinstance(dim, int) else dim for dim in before.shape(node)]) for node in before.inputs]
    return difference(before, after, sample)


CHAIN = """program @chain stage=canonical {
  input %x : f32[5,6]
  param %w : f32[8,6] = normal(seed=1)
  param %b : f32[8] = normal(seed=2)
  param %c : f32[8] = normal(seed=3)
  param %v : f32[4,8] = normal(seed=4)
  param %u : f32[3,8] = normal(seed=5)
  param %d : f32[4] = normal(seed=6)
  %a = aten.linear %x, %w, %b : f32[5,8]
  %s = aten.add.Tensor %a, %c : f32[5,8]
  %y = aten.linear %s, %v, %d : f32[5,4]
  %z = aten.linear %s, %u, none : f32[5,3]
  return %y, %z
}
"""


def chain(program: Program) -> SymmetryGroup:
    every = range(8)
    return group(
        program,
        8,
        ("a", "weight", "writer", place(0, every)),
        ("a", "bias", "writer", place(0, every)),
        ("s", "other", "writer", place(0, every)),
        ("y", "weight", "reader", place(1, every)),
        ("z", "weight", "reader", place(1, every)),
    )


@pytest.mark.parametrize("kind", ["orthogonal", "general", "hadamard"])
def test_a_change_of_basis_folds_into_writers_and_readers(kind: str) -> None:
    before = parse_program(CHAIN)
    after = before.copy()
    made: dict[str, Tensor | Factor] = {
        "orthogonal": orthogonal(8),
        "general": noise(8, 8, seed=9).double() + 4 * torch.eye(8).double(),
        "hadamard": Hadamard(8, random_signs(8, 1)),
    }
    surgery.apply(after, chain(after), made[kind], "test")
    assert changed(before, after) < SMALL
    chosen = made[kind]
    matrix = chosen if isinstance(chosen, Tensor) else matrix_of(chosen, 8)
    torch.testing.assert_close(after.exact(after.node("w")), matrix.T @ before.exact(before.node("w")))
    torch.testing.assert_close(after.exact(after.node("c")), before.exact(before.node("c")) @ matrix)


def test_weights_are_rounded_once_and_remembered_in_float64() -> None:
    program = parse_program(CHAIN)
    start = program.exact(program.node("w"))
    for seed in range(3):
        surgery.apply(program, chain(program), orthogonal(8, seed), "test")
    for seed in reversed(range(3)):
        surgery.apply(program, chain(program), orthogonal(8, seed).T.contiguous(), "test")
    assert program.param(program.node("w")).dtype == torch.float32
    assert (program.exact(program.node("w")) - start).abs().max() < SMALL
    assert evaluate(program, [noise(5, 6)])[0].dtype == torch.float32


def test_a_scale_follows_the_exponents_of_its_sites() -> None:
    before = parse_program(CHAIN)
    after = before.copy()
    surgery.scale(after, chain(after), noise(8, seed=4).exp(), "test")
    assert changed(before, after) < SMALL
    with pytest.raises(VerifyError, match="positive"):
        surgery.scale(after, chain(after), torch.zeros(8), "test")


def test_a_shift_goes_out_of_one_bias_and_into_those_behind() -> None:
    text = CHAIN.replace("%s = aten.add.Tensor %a, %c : f32[5,8]\n", "").replace("linear %s", "linear %a")
    before = parse_program(text)
    after = before.copy()
    every = range(8)
    sites = group(
        after,
        8,
        ("a", "weight", "writer", place(0, every)),
        ("a", "bias", "writer", place(0, every)),
        ("y", "weight", "reader", place(1, every)),
        ("z", "weight", "reader", place(1, every)),
    )
    surgery.shift(after, sites, noise(8, seed=4), "test")
    assert changed(before, after) < SMALL
    assert after.bind(after.node("z"))["bias"] is not None
    with pytest.raises(VerifyError, match="2 writers"):
        surgery.shift(before.copy(), chain(parse_program(CHAIN)), noise(8), "test")


HEADS = """program @heads stage=canonical {
  input %x : f32[5,6]
  param %w : f32[12,6] = normal(seed=1)
  param %v : f32[4,16] = normal(seed=4)
  %a = aten.linear %x, %w, none : f32[5,12]
  %k = aten.slice.Tensor %a, 1, 4, 12, 1 : f32[5,8]
  %h = aten.reshape %k, [5, 2, 1, 4] : f32[5,2,1,4]
  %e = aten.expand %h, [5, 2, 2, 4] : f32[5,2,2,4]
  %f = aten.reshape %e, [5, 16] : f32[5,16]
  %y = aten.linear %f, %v, none : f32[5,4]
  return %y
}
"""


def test_heads_have_transforms_of_their_own_and_share_them_among_copies() -> None:
    before = parse_program(HEADS)
    after = before.copy()
    rows = [range(start, start + 4) for start in (0, 4, 8, 12)]
    sites = group(
        after,
        4,
        ("a", "weight", "writer", place(0, rows[1], rows[2], fibre=(0, 1))),
        ("y", "weight", "reader", place(1, *rows, fibre=(0, 0, 1, 1))),
        fibres=2,
    )
    surgery.apply(after, sites, [Dense(orthogonal(4, 1)), Dense(noise(4, 4, seed=2).double())], "test")
    assert changed(before, after) < SMALL
    torch.testing.assert_close(after.param(after.node("w"))[:4], before.param(before.node("w"))[:4])
    with pytest.raises(VerifyError, match="takes 2 transforms"):
        surgery.apply(after, sites, torch.stack([orthogonal(4)] * 3), "test")


TIED = """program @tied stage=canonical {
  input %ids : i64[5]
  param %w : f32[9,8] = normal(seed=1)
  param %g : f32[8] = normal(seed=2)
  %x = aten.embedding %w, %ids : f32[5,8]
  %n = aten.rms_norm %x, [8], %g, 1e-05 : f32[5,8]
  %y = aten.linear %n, %w, none : f32[5,9]
  return %y
}
"""


def run_tied(program: Program) -> Tensor:
    return evaluate(program, [torch.tensor([3, 1, 4, 1, 5])], widen=True)[0]


def test_tied_weights_stay_tied_only_while_both_sides_want_the_same() -> None:
    before = parse_program(TIED)
    plain = before.copy()
    plain.set_args(plain.node("n"), (plain.node("x"), [8], None, 1e-5))
    rotated = plain.copy()
    sites = (("x", "weight", "writer", place(1, range(8))), ("y", "weight", "reader", place(1, range(8))))
    surgery.apply(rotated, group(rotated, 8, *sites), orthogonal(8), "test")
    assert (run_tied(plain) - run_tied(rotated)).abs().max() < SMALL
    assert len(rotated.param_nodes) == len(plain.param_nodes)
    folded = before.copy()
    fold_norm(folded, folded.node("n"), "test")
    surgery.apply(folded, group(folded, 8, *sites), orthogonal(8), "test")
    assert (run_tied(before) - run_tied(folded)).abs().max() < SMALL
    tables = [folded.bind(folded.node(name))["weight"] for name in ("x", "y")]
    assert tables[0] is not tables[1]


def test_a_general_matrix_unties_what_writes_and_what_reads() -> None:
    before = parse_program(
        TIED.replace("  %n = aten.rms_norm %x, [8], %g, 1e-05 : f32[5,8]\n", "").replace("r %n", "r %x")
    )
    after = before.copy()
    sites = (("x", "weight", "writer", place(1, range(8))), ("y", "weight", "reader", place(1, range(8))))
    surgery.apply(after, group(after, 8, *sites), noise(8, 8, seed=3), "test")
    assert (run_tied(before) - run_tied(after)).abs().max() < 1e-10


NORMED = """program @normed stage=canonical {
  input %x : f32[2,5,6]
  param %w : f32[8,6] = normal(seed=1)
  param %b : f32[8] = normal(seed=2)
  param %c : f32[1,5,8] = normal(seed=3)
  param %g : f32[8] = normal(seed=4)
  param %h : f32[8] = normal(seed=5)
  param %v : f32[4,8] = normal(seed=6)
  param %u : f32[3,8] = normal(seed=7)
  param %d : f32[3] = normal(seed=8)
  param %l : f32[8] = normal(seed=9)
  %a = aten.linear %x, %w, %b : f32[2,5,8]
  %m = aten.mul.Tensor %a, %l : f32[2,5,8]
  %s = aten.add.Tensor %m, %c : f32[2,5,8]
  %n = aten.layer_norm %s, [8], %g, %h, 1e-05 : f32[2,5,8]
  %y = aten.linear %n, %v, none : f32[2,5,4]
  %p = aten.permute %n, [1, 0, 2] : f32[5,2,8]
  %q = aten.mean.dim %p, [0] : f32[2,8]
  %z = aten.linear %q, %u, %d : f32[2,3]
  return %y, %z
}
"""


def normed(program: Program) -> SymmetryGroup:
    every = range(8)
    bare = group(
        program,
        8,
        ("a", "weight", "writer", place(0, every)),
        ("a", "bias", "writer", place(0, every)),
        ("s", "other", "writer", place(2, every)),
        ("y", "weight", "reader", place(1, every)),
        ("z", "weight", "reader", place(1, every)),
    )
    return replace(
        bare,
        folded_gains=(program.node("m"), program.node("n")),
        centred_norms=(program.node("n"),),
    )


def test_gains_go_away_and_layer_norms_lose_their_mean_before_a_rotation() -> None:
    before = parse_program(NORMED)
    after = before.copy()
    prepare(after, normed(after), "test")
    assert changed(before, after) < SMALL
    assert after.op(after.node("n")) == "aten.rms_norm"
    assert "aten.mul.Tensor" not in [after.op(node) for node in after.nodes]
    surgery.apply(after, normed_again(after), orthogonal(8), "test")
    assert changed(before, after) < SMALL


def normed_again(program: Program) -> SymmetryGroup:
    sites = normed(parse_program(NORMED)).sites
    return group(program, 8, *((site.node.name, site.argument, site.role, site.place) for site in sites))


def test_a_layer_norm_that_keeps_its_mean_keeps_it_under_a_rotation_that_leaves_ones_alone() -> None:
    before = parse_program(NORMED)
    after = before.copy()
    for name in ("m", "n"):
        (fold_product if name == "m" else fold_norm)(after, after.node(name), "test")
    surgery.apply(after, normed_again(after), keeping_mean(Dense(orthogonal(7)), 8), "test")
    assert changed(before, after) < SMALL
    assert after.op(after.node("n")) == "aten.layer_norm"


def test_a_gain_with_another_reader_is_refused() -> None:
    program = parse_program(NORMED.replace("return %y, %z", "return %y, %z, %n"))
    with pytest.raises(VerifyError, match="cannot take it in"):
        fold_norm(program, program.node("n"), "test")
    program = parse_program(NORMED.replace("return %y, %z", "return %y, %z, %a"))
    with pytest.raises(VerifyError, match="multiplies"):
        fold_product(program, program.node("m"), "test")


def test_a_gain_of_a_coordinate_only_takes_permutations() -> None:
    program = parse_program(NORMED)
    sites = normed(program).sites
    both = group(program, 8, *((site.node.name, site.argument, site.role, site.place) for site in sites[2:]))
    gained = SymmetryGroup(
        "s0", 8, 1, both.actions, (*both.sites, Site(program.node("n"), "weight", "multiplier", place(0, range(8))))
    )
    with pytest.raises(VerifyError, match="permutation"):
        surgery.apply(program, gained, orthogonal(8), "test")
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    wanted_gain = program.exact(program.node("g"))[order]
    surgery.apply(program, gained, Order(order), "test")
    torch.testing.assert_close(program.exact(program.node("g")), wanted_gain)


def test_a_number_becomes_a_constant_where_a_basis_changes() -> None:
    before = parse_program(CHAIN.replace("%s = aten.add.Tensor %a, %c", "%s = aten.add.Tensor %a, 0.5"))
    after = before.copy()
    sites = chain(after).sites
    moved = group(
        after,
        8,
        *((s.node.name, s.argument, s.role, place(1, range(8)) if s.argument == "other" else s.place) for s in sites),
    )
    surgery.apply(after, moved, orthogonal(8), "test")
    assert changed(before, after) < SMALL


@pytest.mark.parametrize(
    "factor",
    [
        Hadamard(4, random_signs(8, 3)),
        Hadamard(8),
        Kronecker(noise(2, 2, seed=1).double(), noise(4, 4, seed=2).double()),
        Kronecker(None, orthogonal(4)),
        Dense(noise(8, 8, seed=3).double()),
        Diagonal(noise(8, seed=4).double().exp()),
        Order(torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])),
        Chain((Diagonal(noise(8, seed=4).double().exp()), Hadamard(8, random_signs(8, 1)))),
    ],
    ids=lambda factor: type(factor).__name__,
)
def test_an_online_transform_is_undone_by_the_layers_behind_it(factor: Factor) -> None:
    before = parse_program(CHAIN)
    after = before.copy()
    layers = [layer for layer in readings(after) if layer.source is after.node("s")]
    cut_in(after, layers, factor, "test")
    assert changed(before, after) < 1e-10
    rows = noise(5, 8).double()
    torch.testing.assert_close(factor.times(rows), rows @ matrix_of(factor, 8))
    torch.testing.assert_close(factor.contrary(rows), rows @ torch.linalg.inv(matrix_of(factor, 8)).T)


CONVOLUTION = """program @convolution stage=canonical {
  input %x : f32[2,8,5,5]
  param %w : f32[4,8,3,3] = normal(seed=1)
  %y = aten.conv2d %x, %w, none, [1, 1], [1, 1], [1, 1], 1 : f32[2,4,5,5]
  %z = aten.relu %x : f32[2,8,5,5]
  return %y, %z
}
"""


def test_an_online_transform_turns_the_channels_of_a_convolution() -> None:
    before = parse_program(CONVOLUTION)
    after = before.copy()
    cut_in(after, readings(after), Hadamard(8, random_signs(8, 2)), "test")
    assert changed(before, after) < SMALL
    assert after.node("z").args[0] is after.node("x")


def test_layers_that_read_one_value_are_served_together() -> None:
    program = parse_program(CHAIN)
    assert [[layer.node.name for layer in layers] for layers in by_source(wanted(program))] == [["a"], ["y", "z"]]

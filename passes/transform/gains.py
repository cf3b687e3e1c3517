"""Clears the way for a rotation: gains go into their neighbours, writers are centred, layer norms lose their mean.

Formula   W (g * x + b) + c = (W diag(g)) x + (W b + c);  g * (W x + c) = (diag(g) W) x + g c;
          the mean over the coordinates goes out of every writer, W - mean(W); on rows of mean zero a layer norm is
          x / sqrt(mean(x^2) + eps), a root-mean-square norm
Shapes    as the constants
Promise   Exact: computed in float64, rounded once
Needs     norms whose only readers are layers with constant weights, with rearrangements on other axes in between
Source    Ashkboos et al. 2024, "SliceGPT: Compress Large Language Models by Deleting Rows and Columns", section 3
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from qcompiler.analysis.gains import CROSSING
from qcompiler.analysis.groups import Place, SymmetryGroup
from qcompiler.analysis.weights import TRANSPOSED, spatial_axes
from qcompiler.certificate import Basis, claim_group, hide
from qcompiler.errors import VerifyError
from qcompiler.ir.program import Node, Program
from qcompiler.passes.transform.constants import exact_constant, normalized_shape, set_argument, shift_obstacle
from qcompiler.passes.transform.surgery import Edit, edit_constants, edit_of
from qcompiler.passes.transform.wanted import Reading, offset, reading_of, weight_of

NORMS = ("aten.layer_norm", "aten.rms_norm")
QUOTIENT = "aten.div.Tensor"
PRODUCTS = ("aten.mul.Tensor", QUOTIENT)


def prepare(program: Program, group: SymmetryGroup, step: str) -> None:
    """Makes everything true that a rotation of a group rests on: gains folded, writers centred, norms without a mean.

    Raises:
        VerifyError: when a gain cannot be folded; the program must then be thrown away.
    """
    for node in group.folded_gains:
        if program.op(node) in NORMS:
            fold_norm(program, node, step)
        else:
            fold_product(program, node, step)
    if group.centred_norms:
        centre(program, group, step)
        for norm in group.centred_norms:
            without_mean(program, norm, step)


def fold_norm(program: Program, norm: Node, step: str) -> None:
    """Moves gain and bias of a norm into all layers that read it.

    Raises:
        VerifyError: when somebody else reads it too.
    """
    bound = program.bind(norm)
    gain, bias = (exact_constant(program, bound.get(argument)) for argument in ("weight", "bias"))
    if gain is None and bias is None:
        return
    layers = layers_behind(program, norm)
    if layers is None:
        raise VerifyError(f"the gain of '%{norm.name}' has readers that cannot take it in", step=step)
    edits = [edit for layer in layers for edit in _taken_in(program, layer, gain, bias, step)]
    edit_constants(program, edits, step)
    for argument in ("weight", "bias"):
        if bound.get(argument) is not None:
            set_argument(program, norm, argument, None)
    for value in (norm, *_rearranged(program, norm)):
        hide(value)


def fold_product(program: Program, node: Node, step: str) -> None:
    """Moves a product with a constant, or a quotient, into all layers that read it, else into the one that writes it.

    Raises:
        VerifyError: where neither can take it in.
    """
    source, gain = _factors(program, node, step)
    behind = layers_behind(program, node)
    if behind is not None:
        edits = [edit for layer in behind for edit in _taken_in(program, layer, gain, None, step)]
    else:
        layer = _writer(program, source, node)
        if layer is None:
            raise VerifyError(f"'%{node.name}' multiplies what no layer with constant weights writes", step=step)
        groups = program.bind(layer).get("groups", 1)
        place = _whole(len(gain), _outputs(program, layer), groups if isinstance(groups, int) else 1)
        edits = [
            Edit(layer, argument, where, lambda rows, fibre: rows * gain, f"gain {node.name}")
            for argument, where in (("weight", place), ("bias", _whole(len(gain))))
        ]
        for value in (layer, *_rearranged(program, layer)):
            hide(value)
    for value in _rearranged(program, node):
        hide(value)
    edit_constants(program, edits, step)
    program.replace(node, source)


def centre(program: Program, group: SymmetryGroup, step: str) -> None:
    """Takes the mean over the group's coordinates out of everything that is written into it."""

    def centred(rows: Tensor, fibre: int) -> Tensor:
        return rows - rows.mean(-1, keepdim=True)

    edits = [edit_of(site, centred, "centred") for site in group.writers]
    edit_constants(program, edits, step)
    off_mean = torch.eye(group.size, dtype=torch.float64) - 1 / group.size
    claim_group(program, group, Basis("centring", off_mean.expand(group.fibres, -1, -1)))
    # What a norm yields has lost its mean already: that centring leaves it alone holds for no other rows.
    for norm in group.centred_norms:
        for value in (norm, *_rearranged(program, norm)):
            hide(value)


def without_mean(program: Program, norm: Node, step: str) -> None:
    """Puts a root-mean-square norm in the place of a layer norm without gain and bias.

    Raises:
        VerifyError: for another operator, or when the norm still has a gain or a bias.
    """
    if program.op(norm) == "aten.rms_norm":
        return
    bound = program.bind(norm)
    bare = all(_neutral(program, bound[name], number) for name, number in (("weight", 1.0), ("bias", 0.0)))
    if program.op(norm) != "aten.layer_norm" or not bare:
        raise VerifyError(f"'%{norm.name}' is no bare layer norm", step=step)
    shape, name = list(normalized_shape(program, norm)), norm.name
    new = program.before(norm, step).call("aten.rms_norm", norm.args[0], shape, None, bound["eps"])
    new.meta.update({key: value for key, value in norm.meta.items() if key not in ("type", "origin")})
    program.replace(norm, new)
    program.rename(new, name)


def _neutral(program: Program, value: object, number: float) -> bool:
    """Whether a constant is missing, or is what a missing one stands for."""
    return value is None or (isinstance(value, Node) and bool((program.exact(value) == number).all()))


def layers_behind(program: Program, node: Node) -> list[Reading] | None:
    """All layers that read a value, straight or rearranged; None when anybody else does."""
    found: dict[Node, Reading] = {}
    waiting = list(node.users)
    while waiting:
        user = waiting.pop(0)
        if program.op(user) in CROSSING:
            waiting.extend(user.users)
            continue
        reading = reading_of(program, user) if user.op == "call_function" else None
        if reading is None:
            return None
        found[user] = reading
    return list(found.values())


def _rearranged(program: Program, node: Node) -> Iterator[Node]:
    """What a value is rearranged to."""
    for user in node.users:
        if program.op(user) in CROSSING:
            yield user
            yield from _rearranged(program, user)


def _factors(program: Program, node: Node, step: str) -> tuple[Node, Tensor]:
    """What a product multiplies, and by how much each channel: [channels]."""
    operands = node.args[:2]
    constants = [value for value in operands if isinstance(value, Node) and value.op == "get_attr"]
    sources = [value for value in operands if isinstance(value, Node) and value.op != "get_attr"]
    if program.op(node) not in PRODUCTS or len(constants) != 1 or len(sources) != 1:
        raise VerifyError(f"'%{node.name}' is no product with a constant", step=step)
    gain = program.exact(constants[0])
    if gain.numel() != max(gain.shape, default=1):
        raise VerifyError(f"'%{node.name}' multiplies by more than one number per channel", step=step)
    return sources[0], gain.flatten().reciprocal() if program.op(node) == QUOTIENT else gain.flatten()


def _writer(program: Program, source: Node, user: Node) -> Node | None:
    """The layer that writes a value, rearranged or not, that only `user` reads."""
    while list(source.users) == [user] and source not in program.outputs:
        if spatial_axes(program, source) is not None:
            return source if reading_of(program, source) else None
        if program.op(source) not in CROSSING:
            return None
        source, user = source.all_input_nodes[0], source
    return None


def _outputs(program: Program, layer: Node) -> int:
    """The axis of a layer's weight with one entry per output channel."""
    return 1 if program.op(layer) in TRANSPOSED else 0


def _taken_in(program: Program, layer: Reading, gain: Tensor | None, bias: Tensor | None, step: str) -> Iterator[Edit]:
    """What gain and bias of a layer's input do to its constants."""
    weight = weight_of(program, layer)
    if bias is not None and bool(bias.any()):
        obstacle = shift_obstacle(program, layer.node)
        if obstacle:
            raise VerifyError(f"'%{layer.node.name}' {obstacle} and cannot take in a bias of its input", step=step)
        amount = offset(weight, layer, bias)
        whole, kind = _whole(len(amount)), f"bias {layer.node.name}"
        yield Edit(layer.node, "bias", whole, lambda rows, fibre: rows + amount, kind, 0.0)
    if gain is not None:
        place = _whole(len(gain), layer.weight_axis, layer.groups)
        yield Edit(layer.node, "weight", place, lambda rows, fibre: rows * gain, "gain")


def _whole(size: int, axis: int = 0, groups: int = 1) -> Place:
    groups = groups if axis == 1 else 1
    return Place(axis, torch.arange(size)[None], torch.zeros(1, dtype=torch.int64), groups)

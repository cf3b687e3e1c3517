"""What the symmetry tests share: canonical programs of small models, and a second, independent way to apply a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from qcompiler.analysis.groups import Action, Site, SymmetryGroup, gathered, scattered
from qcompiler.analysis.symmetry import symmetries
from qcompiler.data import Inputs
from qcompiler.frontends.torch_trace import trace_module
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Node, Program
from qcompiler.job import backends
from qcompiler.passes.canonical import CANONICAL
from qcompiler.pipeline import Context, run_passes
from qcompiler.targets import load_target


def canonical(program: Program) -> Program:
    return run_passes(program, CANONICAL, Context(load_target("onnxruntime", backends())))[0]


def canonical_of(model: nn.Module, *inputs: Tensor) -> Program:
    """The program of a model in float64."""
    wide = [value.double() if value.is_floating_point() else value for value in inputs]
    return canonical(trace_module(model.double().eval(), Inputs(*wide)))


def orthogonal(fibres: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(fibres, size, size, generator=generator, dtype=torch.float64))[0]


def keeping_mean(fibres: int, size: int, generator: torch.Generator) -> Tensor:
    """Orthogonal matrices that map the vector of ones onto itself."""
    basis = torch.randn(size, size, generator=generator, dtype=torch.float64)
    basis[:, 0] = 1
    basis = torch.linalg.qr(basis)[0]
    inner = torch.eye(size, dtype=torch.float64).repeat(fibres, 1, 1)
    inner[:, 1:, 1:] = orthogonal(fibres, size - 1, generator)
    return basis @ inner @ basis.T


def matrices(group: SymmetryGroup, action: Action, generator: torch.Generator) -> Tensor:
    """Random matrices of an action, [fibres, size, size]."""
    fibres, size = group.fibres, group.size
    if action is Action.GENERAL:
        left, right = orthogonal(fibres, size, generator), orthogonal(fibres, size, generator)
        return left @ torch.diag_embed(0.5 + torch.rand(fibres, size, generator=generator, dtype=torch.float64)) @ right
    if action is Action.ORTHOGONAL:
        return orthogonal(fibres, size, generator)
    if action is Action.ORTHOGONAL_KEEPING_MEAN:
        return keeping_mean(fibres, size, generator)
    order = torch.stack([torch.randperm(size, generator=generator) for _ in range(fibres)])
    return torch.nn.functional.one_hot(order, size).double()


def apply_matrix(program: Program, group: SymmetryGroup, action: Action, transform: Tensor) -> None:
    """Applies a matrix group to a program with float64 parameters."""
    if any(site.role == "multiplier" for site in group.sites):
        assert action is Action.PERMUTATION
    for node in group.folded_gains:
        fold_gain(program, node)
    if action is Action.ORTHOGONAL:
        for node in group.centred_norms:
            x, sizes, _, _, eps = node.args
            program.replace(node, program.before(node).call("aten.rms_norm", x, sizes, None, eps))
        if group.centred_norms:
            centre = torch.eye(group.size, dtype=torch.float64) - 1 / group.size
            for site in group.writers:
                edit(program, site, centre.repeat(group.fibres, 1, 1))
    contrary = transform.inverse().mT
    for site in group.sites:
        forwards = site.role != "reader"
        edit(program, site, transform if forwards != site.dual else contrary)


def apply_scale(program: Program, group: SymmetryGroup, scale: Tensor) -> None:
    for site in group.sites:
        power = site.exponent * (-1 if site.role == "reader" else 1)
        edit(program, site, torch.diag(scale**power).unsqueeze(0))


def apply_shift(program: Program, group: SymmetryGroup, shift: Tensor) -> None:
    """Adds a vector to the values of a group, and takes it off again in the biases of the readers."""
    writer = group.writers[0]
    names = [site for site in group.writers if site.argument == "bias"] or [writer]
    index = names[0].place.index if names[0].argument == "bias" else writer.place.index
    bias = bias_of(program, writer.node)
    value = program.param(bias).clone()
    for row in index:
        value[row] += shift
    program.set_param(bias, value)
    for site in group.readers:
        weight = program.param(constant_of(program, site))
        wide = (gathered(weight, site.place.groups) if site.place.groups > 1 else weight).movedim(site.place.axis, -1)
        moved = torch.stack([wide[..., row] @ shift for row in site.place.index]).sum(0)
        bias = bias_of(program, site.node)
        per_channel = moved.reshape(moved.shape[0], -1).sum(1)
        program.set_param(bias, program.param(bias) - per_channel)


def constant_of(program: Program, site: Site) -> Node:
    value = program.bind(site.node)[site.argument]
    found = site.constant if isinstance(value, list | tuple) else value
    assert isinstance(found, Node)
    return found


def bias_of(program: Program, node: Node) -> Node:
    """The bias that only `node` has, made if it is not there."""
    bound = program.bind(node)
    if not isinstance(bound["bias"], Node):
        weight = bound["weight"]
        assert isinstance(weight, Node)
        bound["bias"] = program.before(node).param("bias", torch.zeros(len(program.param(weight)), dtype=torch.float64))
        program.set_args(node, list(bound.values()))
        return bound["bias"]
    return program.own_param(node, bound["bias"])


def edit(program: Program, site: Site, matrix: Tensor) -> None:
    """Multiplies a constant's coordinates by `matrix` [fibres, size, size] from the right."""
    node = owned(program, site)
    value = program.param(node).double()
    groups, axis = site.place.groups, site.place.axis
    wide = (gathered(value, groups) if groups > 1 else value).movedim(axis, -1).clone()
    for row, fibre in zip(site.place.index, site.place.fibre.tolist(), strict=True):
        wide[..., row] = wide[..., row] @ matrix[fibre]
    value = wide.movedim(-1, axis)
    program.set_param(node, scattered(value, groups) if groups > 1 else value)


def owned(program: Program, site: Site) -> Node:
    """The parameter of a site, made if it is not there, and copied if others read it."""
    bound = program.bind(site.node)
    value = bound[site.argument]
    if isinstance(value, list | tuple):
        assert site.constant is not None
        return program.own_param(site.node, site.constant)
    if isinstance(value, Node) and program.param(value).numel() > 1:
        return program.own_param(site.node, value)
    if site.argument == "weight":
        made = torch.ones(int(site.place.index.max()) + 1, dtype=torch.float64)
    else:
        number = (
            program.param(value).reshape(()).double()
            if isinstance(value, Node)
            else torch.tensor(float(cast(float, value)))
        )
        shape = [1] * len(program.shape(site.node))
        shape[site.place.axis] = int(program.shape(site.node)[site.place.axis])
        made = number.double().expand(shape).clone()
    bound[site.argument] = program.before(site.node).param("constant", made)
    names = list(bound)
    cut = max(position for position, name in enumerate(names) if bound[name] is not None) + 1
    schema = {name: bound[name] for name in names[:cut]}
    kwargs = {"alpha": schema.pop("alpha")} if "alpha" in schema else {}
    program.set_args(site.node, list(schema.values()), kwargs)
    return cast(Node, bound[site.argument])


def fold_gain(program: Program, node: Node) -> None:
    """Moves the gain and shift of a norm, or a constant factor, into the layers behind it, or the one before."""
    bound = program.bind(node)
    if program.op(node) == "aten.mul.Tensor":
        first, second = cast(Node, bound["self"]), cast(Node, bound["other"])
        source, gain = (first, second) if second.op == "get_attr" else (second, first)
        vector = program.param(gain).double().reshape(-1)
        readers = readers_behind(program, node)
        if readers is None:
            scale_writer(program, source, vector)
        else:
            scale_readers(program, readers, vector, None)
        program.replace(node, source)
        return
    weight, bias = cast(Node | None, bound["weight"]), cast(Node | None, bound.get("bias"))
    readers = readers_behind(program, node)
    assert readers is not None
    gain = torch.ones(()) if weight is None else program.param(weight)
    scale_readers(program, readers, gain.double(), None if bias is None else program.param(bias).double())
    bound["weight"] = None
    if "bias" in bound:
        bound["bias"] = None
    program.set_args(node, [value for name, value in bound.items() if name != "cudnn_enable"])


def readers_behind(program: Program, node: Node) -> list[Node] | None:
    found, waiting = [], list(node.users)
    while waiting:
        user = waiting.pop(0)
        if program.op(user) == "aten.linear" or program.op(user).startswith("aten.conv"):
            found.append(user)
        elif program.op(user).split(".")[1] in (
            "reshape",
            "permute",
            "select",
            "slice",
            "roll",
            "mean",
        ):
            waiting.extend(user.users)
        else:
            return None
    return found


def scale_readers(program: Program, readers: list[Node], gain: Tensor, shift: Tensor | None) -> None:
    for reader in readers:
        weight = program.own_param(reader, cast(Node, program.bind(reader)["weight"]))
        value = program.param(weight)
        rest = [1] * (value.dim() - 2)
        if shift is not None:
            bias = bias_of(program, reader)
            program.set_param(bias, program.param(bias) + (value.flatten(2).sum(-1) if rest else value) @ shift)
        program.set_param(weight, value * gain.view(-1, *rest))


def scale_writer(program: Program, source: Node, gain: Tensor) -> None:
    while program.op(source) != "aten.linear" and not program.op(source).startswith("aten.conv"):
        source = source.all_input_nodes[0]
    bound = program.bind(source)
    for name in ("weight", "bias"):
        if bound[name] is not None:
            node = program.own_param(source, cast(Node, bound[name]))
            value = program.param(node)
            program.set_param(node, value * gain.view(-1, *[1] * (value.dim() - 1)))


def check_all(program: Program, inputs: Sequence[Tensor], seed: int = 0) -> dict[str, float]:
    """Applies every action of every group to a copy of the program; the difference that each makes, by group."""
    generator = torch.Generator().manual_seed(seed)
    wide = [value.double() if value.is_floating_point() else value for value in inputs]
    wanted = evaluate(program, wide, widen=True)
    found: dict[str, float] = {}
    for number, template in enumerate(symmetries(program).groups):
        for action in sorted(template.actions - {Action.SIGNED_PERMUTATION}):
            changed = program.copy()
            act(changed, symmetries(changed).groups[number], action, generator)
            found[f"{template.name}.{action}"] = distance(wanted, evaluate(changed, wide, widen=True))
    return found


def act(program: Program, group: SymmetryGroup, action: Action, generator: torch.Generator) -> None:
    """Applies a random element of an action."""
    noise = torch.randn(group.size, generator=generator, dtype=torch.float64)
    if action is Action.SHIFT:
        apply_shift(program, group, noise)
    elif action is Action.DIAGONAL and Action.GENERAL not in group.actions:
        apply_scale(program, group, torch.exp(noise / 3))
    elif action is Action.DIAGONAL:
        apply_matrix(program, group, action, torch.diag(torch.exp(noise / 3)).repeat(group.fibres, 1, 1))
    else:
        apply_matrix(program, group, action, matrices(group, action, generator))


def distance(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Largest difference, relative to the size of the left side."""
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)) for a, b in zip(left, right, strict=True))

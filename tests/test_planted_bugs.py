"""Mistakes that surgery could make, planted one by one in results that are right: every one of them is caught.

The runner's promise check must see that the function changed, and the checker of certificates must refuse the proof.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qcompiler.certificate import write_certificate
from qcompiler.data import sample_inputs
from qcompiler.ir.program import Node, Program
from qcompiler.pipeline import difference
from tests.certificate_checker import WrongCertificate, check
from tests.planted import SCENES, Scene, edit, layer, random_rotation, scene, value
from tests.transform_models import HEADS, WIDTH

Bug = Callable[[Program, Scene], None]


def put(program: Program, node: Node, **arguments: object) -> None:
    """Gives an operator other arguments."""
    bound = {**program.bind(node), **arguments}
    program.set_args(node, list(bound.values())[: len(node.args)], {key: bound[key] for key in node.kwargs})


def as_before(module: str, argument: str = "weight") -> Bug:
    """A constant that the surgery forgot."""
    return lambda after, made: edit(after, module, lambda _: value(made.before, module, argument), argument)


def turned(module: str, change: Callable[[Tensor, Tensor], Tensor], argument: str = "weight") -> Bug:
    """A constant that became something else: of what it was before, and the matrix."""
    return lambda after, made: edit(
        after, module, lambda _: change(value(made.before, module, argument), made.change), argument
    )


def further(module: str, change: Callable[[Tensor, Tensor], Tensor], argument: str = "weight") -> Bug:
    """A constant that was changed once more."""
    return lambda after, made: edit(after, module, lambda old: change(old, made.change), argument)


def gain(after: Program, made: Scene, module: str, weight: bool = True) -> None:
    """A norm that kept its gain."""
    node, name = layer_norm(after, module), "weight" if weight else "bias"
    param = after.before(node).param("kept", value(made.before, module, name))
    put(after, node, **{name: param})


def layer_norm(program: Program, module: str) -> Node:
    return next(node for node in program.nodes if program.origin(node).module == module and "norm" in program.op(node))


def keep_gain(after: Program, made: Scene) -> None:
    gain(after, made, "layers.0.norm1")


def norm_gain(made: Scene, module: str) -> Tensor:
    return value(made.before, module)


def gain_lost(after: Program, made: Scene) -> None:
    edit(after, "layers.0.query", lambda _: value(made.before, "layers.0.query") @ made.change)


def gain_behind_the_rotation(after: Program, made: Scene) -> None:
    by = norm_gain(made, "layers.0.norm1")
    edit(after, "layers.0.query", lambda _: value(made.before, "layers.0.query") @ made.change * by)


def gain_twice(after: Program, made: Scene) -> None:
    by = norm_gain(made, "layers.0.norm1")
    edit(after, "layers.0.key", lambda _: (value(made.before, "layers.0.key") * by * by) @ made.change)


def layer_norm_kept(after: Program, made: Scene) -> None:
    for node in [node for node in after.nodes if after.op(node) == "aten.rms_norm"]:
        name, bound = node.name, after.bind(node)
        shape = bound["normalized_shape"]
        kept = after.before(node).call("aten.layer_norm", bound["input"], shape, None, None, bound["eps"])
        kept.meta.update({key: item for key, item in node.meta.items() if key not in ("type", "origin")})
        after.replace(node, kept)
        after.rename(kept, name)


def one_layer_norm_kept(after: Program, made: Scene) -> None:
    """Only the last norm, so that the shapes fit and the difference is small."""
    norm = [node for node in after.nodes if after.op(node) == "aten.rms_norm"][-1]
    name, bound = norm.name, after.bind(norm)
    kept = after.before(norm).call(
        "aten.layer_norm", bound["input"], bound["normalized_shape"], None, None, bound["eps"]
    )
    kept.meta.update({key: item for key, item in norm.meta.items() if key not in ("type", "origin")})
    after.replace(norm, kept)
    after.rename(kept, name)


def head_alone(after: Program, made: Scene) -> None:
    """Embedding and head are one table: only the head's copy is turned."""
    edit(after, "embedding", lambda _: value(made.before, "embedding"))


def across(first: str, last: str) -> Bug:
    """A rotation between two layers with a nonlinearity in between."""

    def plant(after: Program, made: Scene) -> None:
        size = value(after, first).shape[0]
        turn = random_rotation(size, 5)
        edit(after, first, lambda old: turn.T @ old)
        if after.bind(layer(after, first)).get("bias") is not None:
            edit(after, first, lambda old: old @ turn, "bias")
        edit(after, last, lambda old: old @ turn)

    return plant


def columns(weight: Tensor, size: int) -> Tensor:
    return weight.unflatten(1, (-1, size))


def head_size_mixed_up(weight: Tensor, mix: Tensor) -> Tensor:
    """Heads taken for strided instead of consecutive coordinates."""
    heads = weight.unflatten(0, (-1, 2))
    return torch.einsum("nhi,hnm->mhi", heads, mix).flatten(0, 1)


def wrong_fibre(weight: Tensor, mix: Tensor) -> Tensor:
    """Query heads that take key-value heads in turn instead of in runs."""
    inverse = torch.linalg.inv(mix).mT
    return torch.einsum("ohn,hnm->ohm", columns(weight, WIDTH // HEADS), inverse.repeat(2, 1, 1)).flatten(1)


def transposed_inverse(weight: Tensor, mix: Tensor) -> Tensor:
    """T^T where T^-T is due: right for rotations only."""
    by = mix.repeat_interleave(2, 0)
    return torch.einsum("ohn,hnm->ohm", columns(weight, WIDTH // HEADS), by).flatten(1)


def without_online_node(after: Program, made: Scene) -> None:
    node = next(node for node in after.nodes if after.op(node) == "qc.hadamard")
    after.replace(node, node.args[0])  # pyright: ignore[reportArgumentType]


def other_block(after: Program, made: Scene) -> None:
    node = next(node for node in after.nodes if after.op(node) == "qc.hadamard")
    put(after, node, block=32)


def signs_lost(after: Program, made: Scene) -> None:
    node = next(node for node in after.nodes if after.op(node) == "qc.hadamard")
    put(after, node, signs=None)


def behind(after: Program, node: Node, change: Callable[[Node], Node]) -> None:
    """Puts something behind a value."""
    users = list(node.users)
    new = change(node)
    for user in users:
        after.redirect(user, node, new)


def one_column_negated(weight: Tensor, turn: Tensor) -> Tensor:
    return torch.cat((-weight[:, :1], weight[:, 1:]), dim=1)


LLAMA, VALUES, VIT = "llama stream", "llama values", "vit stream"
BUGS: dict[str, tuple[str, Bug]] = {
    "factor transposed at a writer": (LLAMA, turned("layers.0.out", lambda w, t: t @ w)),
    "factor transposed at a reader": (LLAMA, turned("head", lambda w, t: w @ t.T)),
    "reader turned on its other axis": (LLAMA, turned("layers.1.query", lambda w, t: t.T @ w)),
    "residual leg missing": (LLAMA, as_before("layers.1.down")),
    "reader missing": (LLAMA, as_before("layers.0.value")),
    "embedding missing": (LLAMA, as_before("embedding")),
    "writer turned twice": (LLAMA, further("layers.0.out", lambda w, t: t.T @ w)),
    "another matrix at one site": (LLAMA, turned("layers.0.down", lambda w, t: random_rotation(WIDTH, 9).T @ w)),
    "sign lost": (LLAMA, further("layers.0.up", one_column_negated)),
    "gain folded and kept": (LLAMA, keep_gain),
    "gain lost": (LLAMA, gain_lost),
    "gain folded behind the rotation": (LLAMA, gain_behind_the_rotation),
    "gain folded twice": (LLAMA, gain_twice),
    "rotation across a gate": (LLAMA, across("layers.0.up", "layers.0.down")),
    "tied table turned on one side": ("tied stream", head_alone),
    "transpose taken for the inverse": (VALUES, turned("layers.0.out", transposed_inverse)),
    "wrong head of grouped queries": (VALUES, turned("layers.0.out", wrong_fibre)),
    "head size mixed up": (VALUES, turned("layers.0.value", head_size_mixed_up)),
    "values mixed and not undone": (VALUES, as_before("layers.0.out")),
    "scale on the gate": ("llama up", lambda after, made: gate_scaled(after, made)),
    "scale not undone": ("llama up", as_before("layers.0.down")),
    "scale multiplied at both ends": ("llama up", further("layers.0.down", lambda w, s: w * s[0] * s[0])),
    "keys scaled like queries": ("llama key", lambda after, made: keys_like_queries(after, made)),
    "halves of the rotary embedding apart": ("llama key", lambda after, made: rotary_apart(after, made)),
    "layer norm kept": (VIT, layer_norm_kept),
    "last layer norm kept": (VIT, one_layer_norm_kept),
    "writer not centred": (VIT, turned("layers.0.down", lambda w, t: t.T @ w)),
    "bias forgotten": (VIT, as_before("layers.0.down", "bias")),
    "bias of the norm forgotten": (VIT, as_before("head", "bias")),
    "scaled branch not folded": (VIT, turned("layers.0.out", lambda w, t: t.T @ (w - w.mean(0)))),
    "rotation across a GELU": (VIT, across("layers.0.up", "layers.0.down")),
    "online node without its inverse": ("vit online", as_before("layers.0.down")),
    "inverse without its online node": ("vit online", without_online_node),
    "other block online": ("vit online", other_block),
    "signs lost online": ("vit online", signs_lost),
    "depthwise taps forgotten": ("cnn wide", as_before("depthwise")),
    "sign through a ReLU": ("cnn wide", lambda after, made: sign_through_relu(after, made)),
    "convolution changed on its other axis": ("cnn wide", lambda after, made: other_axis(after, made)),
    "residual leg of a convolution": ("cnn stem", as_before("narrow")),
}


def gate_scaled(after: Program, made: Scene) -> None:
    edit(after, "layers.0.up", lambda _: value(made.before, "layers.0.up"))
    edit(after, "layers.0.gate", lambda old: old * made.change[0][:, None])


def keys_like_queries(after: Program, made: Scene) -> None:
    edit(
        after,
        "layers.0.query",
        lambda now: value(made.before, "layers.0.query").square() / now.where(now != 0, torch.ones(())),
    )


def rotary_apart(after: Program, made: Scene) -> None:
    """A scale of every coordinate of a key and its inverse of the query's."""
    apart = 1 + torch.arange(4, dtype=torch.float64)
    edit(after, "layers.0.key", lambda old: old * apart.repeat(2)[:, None])
    edit(after, "layers.0.query", lambda old: old / apart.repeat(4)[:, None])


def sign_through_relu(after: Program, made: Scene) -> None:
    for argument in ("weight", "bias"):
        edit(after, "wide", lambda old: -old, argument)
    edit(after, "depthwise", lambda old: -old)


def other_axis(after: Program, made: Scene) -> None:
    before = value(made.before, "narrow")
    edit(after, "narrow", lambda _: before / made.change.flatten()[:8, None, None, None])


def caught(made: Scene, after: Program, folder: Path) -> tuple[float, str]:
    """What the promise check measures, and what the checker objects to."""
    sample = sample_inputs(made.before)
    write_certificate(made.before, after, sample, folder)
    try:
        check(folder)
    except WrongCertificate as wrong:
        return difference(made.before, after, sample), str(wrong)
    return difference(made.before, after, sample), ""


@pytest.mark.parametrize("name", SCENES)
def test_the_surgery_itself_is_right(name: str, tmp_path: Path) -> None:
    made = scene(name)
    error, objection = caught(made, made.after, tmp_path)
    assert (error <= 1e-9, objection) == (True, "")


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name: str, tmp_path: Path) -> None:
    place, plant = BUGS[name]
    made = scene(place)
    after = made.after.copy()
    plant(after, made)
    error, objection = caught(made, after, tmp_path)
    assert error > 1e-6
    assert objection


def test_thirty_bugs_are_planted() -> None:
    assert len(BUGS) >= 30

"""The symmetry analysis: what it finds keeps the function, what the literature folds is found, and refusals say why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.symmetry_speed import convolutions, decoder
from benchmarks.zoo.models import digits_cnn, digits_vit
from qcompiler.analysis.cuts import cut_points
from qcompiler.analysis.describe import describe, largest_action
from qcompiler.analysis.groups import Action, SymmetryGroup, gathered, scattered
from qcompiler.analysis.scales import null_space
from qcompiler.analysis.symmetry import Symmetries, symmetries
from qcompiler.cli.dump import dump_command
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program
from tests.symmetry_models import MODELS, noise, seeded
from tests.symmetry_tools import canonical_of, check_all

GOLDEN = Path(__file__).parent / "golden" / "symmetries"
LARGER = {"digits_vit": (digits_vit, [noise(2, 1, 8, 8)]), "digits_cnn": (digits_cnn, [noise(2, 1, 8, 8)])}


def program_of(*lines: str, inputs: str = "%x : f32[b,4,8]", result: str) -> Program:
    """A program with batch `b`; lines that start with `param` come first."""
    params = [f"  {line} = normal(seed={number})" for number, line in enumerate(lines) if line.startswith("param")]
    body = [f"  {line}" for line in lines if not line.startswith("param")]
    head = ["dim b = 2 in 1..", "program @test stage=canonical {", *(f"  input {item}" for item in inputs.split(";"))]
    return parse_program("\n".join([*head, *params, *body, f"  return {result}", "}"]))


def between(operator: str, result_type: str = "f32[b,4,8]") -> Symmetries:
    """A linear layer, one operator on %y that yields %z, and a linear layer."""
    width = result_type.rstrip("]").split(",")[-1]
    return symmetries(
        program_of(
            "param %w : f32[8,8]",
            f"param %u : f32[3,{width}]",
            "%y = aten.linear %x, %w, none : f32[b,4,8]",
            f"%z = {operator} : {result_type}",
            f"%r = aten.linear %z, %u, none : {result_type.rsplit(',', 1)[0]},3]",
            result="%r",
        )
    )


def group_at(found: Symmetries, writer: str, *actions: Action, role: str = "weight") -> SymmetryGroup:
    """The group with one of the actions that a node writes."""
    return next(
        group
        for group in found.groups
        if group.actions & set(actions) and any(s.node.name == writer and s.argument == role for s in group.writers)
    )


def names(group: SymmetryGroup, role: str) -> list[str]:
    return [site.node.name for site in group.sites if site.role == role]


@pytest.mark.parametrize("name", MODELS)
def test_every_action_of_every_group_keeps_the_function(name: str) -> None:
    make, inputs = MODELS[name]
    differences = check_all(canonical_of(seeded(make()), *inputs), inputs)
    assert differences
    assert max(differences.values()) < 1e-11, {key: value for key, value in differences.items() if value >= 1e-11}


def test_the_published_sites_of_a_decoder() -> None:
    program = decoder(2, width=32, heads=4, groups=2, hidden=48)
    found = symmetries(program)
    stream, *values = found.orthogonal
    assert (stream.size, largest_action(stream)) == (32, Action.ORTHOGONAL)
    assert len(stream.writers) == 5
    assert len(stream.readers) == 11
    assert len(stream.folded_gains) == 5
    assert [(group.size, group.fibres, largest_action(group)) for group in values] == [(8, 2, Action.GENERAL)] * 2
    assert {tuple(site.place.fibre.tolist()) for group in values for site in group.readers} == {(0, 0, 1, 1)}
    ups = [group for group in found.scales if group.size == 48]
    assert [(len(group.writers), len(group.readers)) for group in ups] == [(1, 1)] * 2
    queries = [group for group in found.scales if not group.readers]
    assert [sorted(site.exponent for site in group.sites) for group in queries] == [[-1, 1]] * 2
    down = next(site.node for site in ups[0].readers)
    assert {blocker.reason for blocker in found.blockers(down)} == {"an elementwise function", "an elementwise product"}


def test_one_scale_per_rotary_pair() -> None:
    found = symmetries(decoder(1, width=32, heads=4, groups=4, hidden=8))
    pairs = next(group for group in found.scales if not group.readers)
    assert pairs.size == 4 * 4  # heads, and the two halves of a head tied to each other
    query = pairs.sites[0].place.index
    assert query.shape[0] * query.shape[1] == 32


def test_a_packed_projection_has_a_group_for_its_values_alone() -> None:
    make, inputs = LARGER["digits_vit"]
    found = symmetries(canonical_of(seeded(make()), *inputs))
    values = group_at(found, "linear", Action.GENERAL, role="weight")
    assert {site.dual for site in values.sites} == {False, True}
    heads = [group for group in found.orthogonal if names(group, "writer") == ["linear", "linear"] and group.readers]
    assert [int(site.place.index.min()) for group in heads for site in group.writers] == [128, 128]
    assert heads[0].fibres == 4


def test_a_tied_embedding_and_head_are_two_sites_of_one_parameter() -> None:
    program = program_of(
        "param %w : f32[20,8]",
        "%e = aten.embedding %w, %x : f32[b,4,8]",
        "%r = aten.linear %e, %w, none : f32[b,4,20]",
        inputs="%x : i64[b,4]",
        result="%r",
    )
    [group] = symmetries(program).orthogonal
    assert [(site.role, site.constant.name if site.constant else "") for site in group.sites] == [
        ("writer", "w"),
        ("reader", "w"),
    ]


@pytest.mark.parametrize(
    ("operator", "largest", "reason"),
    [
        ("aten.relu %y", Action.PERMUTATION, "an elementwise function"),
        ("aten.gelu %y", Action.PERMUTATION, "an elementwise function"),
        ("aten.mul.Tensor %y, 3.0", Action.GENERAL, ""),
        ("aten.add.Tensor %y, 1.0", Action.GENERAL, ""),
        ("aten.rms_norm %y, [8], none, 1e-05", Action.ORTHOGONAL, "keeps lengths only"),
        ("aten.layer_norm %y, [8], none, none, 1e-05", Action.ORTHOGONAL, "keeps lengths and means only"),
        ("aten.softmax.int %y, -1", Action.PERMUTATION, "an elementwise function"),
        ("aten.softmax.int %y, 1", Action.PERMUTATION, "an elementwise function"),
        ("aten.flip %y, [2]", Action.GENERAL, ""),
        ("aten.mul.Tensor %y, %y", Action.PERMUTATION, "an elementwise product"),
        ("aten.cumsum %y, 1", Action.GENERAL, ""),
    ],
)
def test_what_an_operator_lets_through(operator: str, largest: Action, reason: str) -> None:
    group = (lambda found: (found.orthogonal + found.permutations)[0])(between(operator))
    assert largest_action(group) is largest
    assert [blocker.reason for blocker in group.blockers][:1] == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("operator", "exponents"),
    [
        ("aten.relu %y", [1, 1]),
        ("aten.gelu %y", None),
        ("aten.clamp %y, 0.0, none", [1, 1]),
        ("aten.clamp %y, 0.0, 6.0", None),
        ("aten.mul.Tensor %y, %y", [1, 2]),
        ("aten.sort %y", None),
    ],
)
def test_scales_that_pass_an_operator(operator: str, exponents: list[int] | None) -> None:
    if operator.startswith("aten.sort"):
        found = symmetries(
            program_of(
                "param %w : f32[8,8]",
                "param %u : f32[3,8]",
                "%y = aten.linear %x, %w, none : f32[b,4,8]",
                "%z, %i = aten.sort %y : (f32[b,4,8], i64[b,4,8])",
                "%r = aten.linear %z, %u, none : f32[b,4,3]",
                result="%r",
            )
        )
    else:
        found = between(operator)
    made = [sorted(site.exponent for site in group.sites) for group in found.scales]
    assert made == ([] if exponents is None else [exponents])


def test_an_operator_without_a_rule_blocks_and_says_so() -> None:
    program = program_of(
        "param %w : f32[8,8]",
        "param %u : f32[3,8]",
        "%y = aten.linear %x, %w, none : f32[b,4,8]",
        "%z, %i = aten.sort %y : (f32[b,4,8], i64[b,4,8])",
        "%r = aten.linear %z, %u, none : f32[b,4,3]",
        result="%r",
    )
    found = symmetries(program)
    assert not found.groups
    head = program.nodes[-1]
    assert [blocker.reason for blocker in found.blockers(head)] == ["its input comes from values that may not change"]


def test_a_norm_over_several_patches_sees_their_means() -> None:
    make, inputs = MODELS["windows"]
    found = symmetries(canonical_of(seeded(make()), *inputs))
    assert Action.ORTHOGONAL not in group_at(found, "conv2d", Action.ORTHOGONAL_KEEPING_MEAN).actions


def test_scales_of_a_modulated_norm() -> None:
    make, inputs = MODELS["modulated"]
    found = symmetries(canonical_of(seeded(make()), *inputs))
    factors = [group for group in found.scales if "linear_2" in names(group, "reader")]
    assert len(factors) == 2  # through the modulation, and through the norm's own gain
    assert any(site.node.name.startswith("add") and site.constant is None for site in factors[0].writers)
    assert any(site.argument == "weight" and site.node.name == "layer_norm" for site in factors[1].writers)


def test_a_depthwise_filter_scales_both_sides_and_is_permuted() -> None:
    found = symmetries(convolutions(1, width=4))
    assert [group.size for group in found.permutations if group.size == 8] == [8]
    depthwise = [group for group in found.scales if group.size == 8]
    assert len(depthwise) == 2
    assert depthwise[0].readers[0].node is depthwise[1].writers[0].node
    assert depthwise[0].readers[0].place.groups == 8


def test_readers_of_one_value_share_a_cut() -> None:
    program = decoder(1, width=32, heads=4, groups=2, hidden=48)
    linears = [node for node in program.nodes if program.op(node) == "aten.linear"]
    cuts = cut_points(program, linears)
    assert [len(cut.readers) for cut in cuts] == [3, 1, 2, 1, 1]
    assert [program.op(cut.node) for cut in cuts] == [
        "aten.rms_norm",
        "aten.reshape",
        "aten.rms_norm",
        "aten.mul.Tensor",
        "aten.rms_norm",
    ]


def test_the_first_variables_are_expressed_by_the_last() -> None:
    assert null_space([0, 1, 2], [{0: 1, 1: -1, 2: -1}]) == [{0: 1, 1: 1}, {0: 1, 2: 1}]
    assert null_space([0, 1], [{0: 1}, {1: 2}]) == []
    assert null_space([0, 1], [{0: 2, 1: -1}]) == [{0: 1, 1: 2}]


def test_a_grouped_weight_and_back() -> None:
    weight = torch.arange(6 * 2 * 3).reshape(6, 2, 3)
    wide = gathered(weight, 3)
    assert wide.shape == (2, 6, 3)
    assert torch.equal(wide[1, 4], weight[2 * 2 + 1, 0])
    assert torch.equal(scattered(wide, 3), weight)


def test_groups_are_the_same_every_time() -> None:
    make, inputs = MODELS["decoder"]
    program = canonical_of(seeded(make()), *inputs)
    other = program.copy()
    assert describe(program, symmetries(program)) == describe(other, symmetries(other))


def test_the_description_of_a_decoder(bless: bool) -> None:
    program = decoder(1, width=16, heads=4, groups=2, hidden=24)
    text = describe(program, symmetries(program)) + "\n"
    path = GOLDEN / "decoder.txt"
    if bless:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_dump_prints_symmetries(tmp_path: Path) -> None:
    path = tmp_path / "decoder.qir"
    path.write_text(str(decoder(1, width=16, heads=4, groups=2, hidden=24)))
    text = CliRunner().invoke(dump_command, [str(path), "--symmetries"])
    assert text.exit_code == 0, text.output
    assert text.output.startswith("symmetries of @decoder: 2 rotations")
    data = CliRunner().invoke(dump_command, [str(path), "--symmetries", "--json"])
    assert '"folded_gains"' in data.output

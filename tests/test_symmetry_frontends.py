"""The symmetries of a model are the same through torch.export and through an ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qcompiler.analysis.symmetry import symmetries
from qcompiler.data import Inputs
from qcompiler.frontends.onnx_import import import_onnx
from qcompiler.frontends.torch_export import import_exported
from qcompiler.frontends.torch_trace import trace_module
from qcompiler.ir.program import Program
from tests.symmetry_models import MODELS, seeded
from tests.symmetry_tools import canonical

FREE = ("unet", "windows")
FIXED = ("decoder", "modulated", "mobile", "cross", "mixture")


class Together(nn.Module):
    """Several models, each with inputs and results of its own: one export is faster than many."""

    def __init__(self, models: Sequence[nn.Module], counts: Sequence[int]) -> None:
        super().__init__()
        self.models, self.counts = nn.ModuleList(models), list(counts)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        ends = [sum(self.counts[: index + 1]) for index in range(len(self.counts))]
        pairs = zip(self.models, self.counts, ends, strict=True)
        return [model(*inputs[end - count : end]) for model, count, end in pairs]


def summary(program: Program) -> Counter[tuple[object, ...]]:
    """What two spellings of a program must agree on."""
    found = symmetries(program)
    return Counter(
        (
            group.size,
            group.fibres,
            tuple(sorted(group.actions)),
            len(group.writers),
            len(group.readers),
            len(group.sites),
            tuple(sorted(site.exponent for site in group.sites)),
            len(group.folded_gains),
            len(group.centred_norms),
        )
        for group in found.groups
    )


def check_same(model: nn.Module, inputs: Sequence[Tensor], path: Path, traced: Program | None = None) -> None:
    """Compares an ONNX file with a traced program, free where that is; without one, with the export it was made of."""
    sizes = [traced.shape(node) for node in traced.inputs] if traced is not None else [value.shape for value in inputs]
    free = [
        {axis: torch.export.Dim.AUTO for axis, dim in enumerate(shape) if not isinstance(dim, int)} for shape in sizes
    ]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = free if traced is not None else None
        exported = torch.export.export(model, tuple(inputs), dynamic_shapes=shapes, strict=False)
        torch.onnx.export(exported, (), path, dynamo=True, verbose=False)
    left = summary(canonical(import_exported(exported) if traced is None else traced))
    right = summary(canonical(import_onnx(path)))
    assert left == right, f"only torch: {left - right}\nonly ONNX: {right - left}"


@pytest.mark.parametrize("name", FREE)
def test_both_frontends_find_the_same_groups_at_free_sizes(name: str, tmp_path: Path) -> None:
    make, inputs = MODELS[name]
    model = seeded(make())
    check_same(model, inputs, tmp_path / "model.onnx", trace_module(model, Inputs(*inputs)))


def test_both_frontends_find_the_same_groups_at_fixed_sizes(tmp_path: Path) -> None:
    chosen = [MODELS[name] for name in FIXED]
    model = Together([seeded(make()) for make, _ in chosen], [len(inputs) for _, inputs in chosen]).eval()
    check_same(model, [value for _, values in chosen for value in values], tmp_path / "model.onnx")

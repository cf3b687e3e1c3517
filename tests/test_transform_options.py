"""Options of transforms that make no sense are refused before anything runs."""

from __future__ import annotations

import pytest

from qcompiler.errors import SpecError
from qcompiler.pass_text import parse_passes
from qcompiler.passes.recipes.catalogue import catalogue
from qcompiler.reducers import Samples

SENSELESS = (
    "smoothquant{alpha=-1}",
    "sqb{alpha=2}",
    "crossquant{alpha=nan}",
    "quantvggt{alpha=-0.5}",
    "smooth_fused{alpha=1.5}",
    "awq{grid=0}",
)


@pytest.mark.parametrize("text", SENSELESS)
def test_an_option_out_of_its_range_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="give"):
        parse_passes(text, catalogue())


def test_nobody_asks_for_no_samples() -> None:
    with pytest.raises(SpecError, match="0 samples"):
        Samples(-1, 0)

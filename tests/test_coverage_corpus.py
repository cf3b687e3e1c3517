"""The coverage table: its corpus, and how it judges a row."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from benchmarks.coverage.architecture import Architecture
from benchmarks.coverage.corpus import CORPUS, find
from benchmarks.coverage.isolated import Row
from benchmarks.coverage.measure import sensitivity, worst_sqnr
from benchmarks.coverage.run import closing, verdict


def test_the_corpus_is_wide_and_its_names_are_unique() -> None:
    counts = Counter(item.name for item in CORPUS)
    assert len(counts) >= 90
    assert set(counts.values()) == {1}
    assert len({item.family for item in CORPUS}) == 8


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(SystemExit, match=CORPUS[0].name):
        find("nothing")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "same", "float dB": 120.0, "w8a8 dB": 30.0}, ""),
        ({"text": "differs", "float dB": 120.0}, "text differs"),
        ({"text": "same", "float dB": 99.0}, "float dB low"),
        ({"text": "same", "float dB": 120.0, "w8a8 dB": 14.9}, "w8a8 dB low"),
        ({"text": "same", "w8a8 dB": 14.9, "sensitivity dB": 25.0}, "w8a8 dB low, ill-conditioned"),
        ({"failed": "trace"}, "trace fails"),
    ],
)
def test_a_row_is_judged_by_the_bars(row: Row, said: str) -> None:
    assert verdict(row) == said


def test_the_closing_line_counts_what_passes() -> None:
    rows: list[Row] = [{"text": "same", "float dB": 120.0}, {"failed": "trace"}]
    assert closing(rows, ()).startswith("1 of 2 models")


def test_the_worst_result_counts() -> None:
    good, bad, count = torch.ones(4), torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.arange(4)
    assert worst_sqnr([[good, good, count]], [[good, bad, count]]) == pytest.approx(10 * torch.log10(torch.tensor(4.0)))


def test_sensitivity_leaves_the_weights_alone() -> None:
    made = Architecture(
        "line", "vision", lambda: torch.nn.Linear(8, 8, bias=False), lambda: {"input": torch.randn(2, 8)}
    )
    module, samples = made.module(), made.samples(2)
    before = module.state_dict()["weight"].clone()
    assert sensitivity(module, samples) == pytest.approx(60, abs=3)
    assert torch.equal(module.state_dict()["weight"], before)

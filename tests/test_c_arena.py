"""The memory plan of generated C: what is alive together never overlaps, what is not may share."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.arena import SLACK, aligned, plan
from qcompiler.backends.c.module import ALIGNMENT
from qcompiler.backends.c.value import Buffer


@st.composite
def buffers(draw: st.DrawFn) -> list[Buffer]:
    spans = draw(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 9), st.integers(0, 5)), max_size=12))
    return [Buffer("arena", size, first=first, last=first + length) for size, first, length in spans]


@given(buffers())
@settings(deadline=None, max_examples=50)
def test_what_is_alive_together_lies_apart_and_inside(given_: list[Buffer]) -> None:
    size = plan(given_)
    assert size % ALIGNMENT == 0
    for i, one in enumerate(given_):
        assert one.place % ALIGNMENT == 0
        assert 0 <= one.place <= size - one.size - SLACK
        for other in given_[:i]:
            together = set(range(one.first, one.last + 1)) & set(range(other.first, other.last + 1))
            apart = one.place + one.size <= other.place or other.place + other.size <= one.place
            assert apart or not together


def test_buffers_of_different_times_share_memory() -> None:
    early, late = Buffer("arena", 100, first=0, last=1), Buffer("arena", 100, first=2, last=3)
    assert plan([early, late]) == aligned(aligned(100) + SLACK)

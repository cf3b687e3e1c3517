"""Branches: part of a weight computed beside the codes, or a channel shared out over several."""

from __future__ import annotations

from qcompiler.passes.transform.branches.split_channels import SplitChannels
from qcompiler.passes.transform.branches.svdquant import SvdQuant
from qcompiler.pipeline import Pass

METHODS: tuple[type[Pass], ...] = (SvdQuant, SplitChannels)

__all__ = ["METHODS", "SplitChannels", "SvdQuant"]

"""What an emitted file tells about its making: recipe, versions and seed of the whole, numbers and error of layers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from qcompiler.manifest import library_versions
from qcompiler.report import Report


def properties(
    recipe: str, target: str, seed: int, report: Report, measured: Mapping[str, float]
) -> tuple[dict[str, str], Mapping[str, Mapping[str, str]]]:
    """Properties of the whole file and of each layer, by the name of its node.

    Args:
        recipe: resolved YAML text.
        target: name of the device.
        seed: of every random choice.
        report: what was asked; wall times are left out, so that equal compilations give equal files.
        measured: SQNR of layers in dB on real data, by name.
    """
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    whole = {"recipe": recipe, "recipe_hash": digest, "target": target, "seed": str(seed)}
    whole |= {f"version.{name}": version for name, version in library_versions().items()}
    layers: dict[str, dict[str, str]] = {}
    for layer in report.layers:
        layers[layer.name] = {"requested": layer.requested, "recipe_hash": digest}
        if layer.name in measured:
            layers[layer.name]["sqnr_db"] = f"{measured[layer.name]:.1f}"
    return whole, layers

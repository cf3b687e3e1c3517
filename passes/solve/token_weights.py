"""What each token counts in the moments of a layer: scores of tokens, mapped to weights with mean 1.

Formula   r = least + (1 - least) (a - min a) / (max a - min a), then r T / sum r, per sequence; 1 where all a are equal
Source    Sung et al. 2025, "RSQ: Learning from Important Tokens Leads to Better Quantized LLMs"
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from qcompiler.ir.program import Node, Program
from qcompiler.passes.solve.driver import finite_weight
from qcompiler.passes.solve.front_to_back import Reader, dequantizers, readers_of
from qcompiler.passes.solve.layers import Inputs
from qcompiler.stats import Batch
from qcompiler.walk import Walk

Score = Literal["attention", "rarity", "norm", "first"]
_ATTENTION = "aten.scaled_dot_product_attention"
_SEQUENCE = 3
_FIRST = 8


def weights_of(scores: Tensor, least: float) -> Tensor:
    """Scores [sequences, tokens] as weights, each sequence with mean 1."""
    low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    spread = high > low
    share = torch.where(spread, (scores - low) / torch.where(spread, high - low, 1.0), 1.0)
    weights = least + (1 - least) * share
    return weights / weights.mean(1, keepdim=True)


def attention_received(query: Tensor, key: Tensor, scale: float | None, causal: bool, mask: Tensor | None) -> Tensor:
    """The attention mass that each key gets from all heads and queries.

    Shapes: query [batch, heads, time, size], key [batch, some heads, keys, size], mask broadcastable to the products,
    truth values or something to add -> [batch, keys].
    """
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    products = query.float() @ key.float().transpose(2, 3) * (scale or 1 / math.sqrt(query.shape[3]))
    if causal:
        keep = torch.ones(products.shape[2:], dtype=torch.bool).tril()
        products = products.masked_fill(~keep, -torch.inf)
    if mask is not None:
        products = products.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else products + mask
    return products.softmax(-1).nan_to_num(0.0).sum((1, 2))


class TokenWeights:
    """Weighs the tokens that each layer reads; a `front_to_back.Gather`.

    Attention scores of a block are found when the first layer that feeds the attention is reached, with the float
    weights of the layers in between, and hold for the layers behind it up to those that feed the next attention.

    Args:
        program: at stage quantized.
        score: what makes a token important.
        least: weight of the least important token before normalisation.
        batches: calibration data.
    """

    def __init__(self, program: Program, score: Score, least: float, batches: Sequence[Batch]) -> None:
        self.score, self.least, self.batches = score, least, batches
        self._readers = readers_of(program)
        self._index = {node: index for index, node in enumerate(program.graph.nodes)}
        self._attention = _attention_of(program, [reader.node for reader in self._readers])
        self._found: dict[Node, list[Tensor] | None] = {}

    def __call__(self, program: Program, walk: Walk, reader: Reader) -> Inputs | None:
        """What the reader at the front sees, weighted where its input is a sequence."""
        if not reader.solvable or reader.geometry is None:
            return None
        source = cast(Node, program.bind(reader.node)["input"])
        scores = self._scores(program, walk, reader, source)
        weights = None
        values = walk.values(source, "quantized")
        if scores is not None and all(
            x.dim() == _SEQUENCE and x.shape[:2] == score.shape for x, score in zip(values, scores, strict=True)
        ):
            weights = [weights_of(score, self.least).flatten() for score in scores]
        return Inputs(lambda stream: walk.values(source, stream), reader.geometry, weights)

    def _scores(self, program: Program, walk: Walk, reader: Reader, source: Node) -> list[Tensor] | None:
        values = walk.values(source, "quantized")
        match self.score:
            case "norm":
                return [x.float().norm(dim=-1) for x in values]
            case "first":
                return [_first(x) for x in values]
            case "rarity":
                return rarity(self.batches)
            case "attention":
                attention = self._attention.get(reader.node)
                if attention is None:
                    return None
                if attention not in self._found:
                    self._found = {attention: self._received(program, walk, reader, attention)}
                return self._found[attention]

    def _received(self, program: Program, walk: Walk, reader: Reader, attention: Node) -> list[Tensor] | None:
        if self._index[attention] < self._index[reader.node]:
            return None
        between = [
            other
            for other in self._readers
            if self._index[reader.node] <= self._index[other.node] < self._index[attention]
        ]
        given = {
            node: finite_weight(program, other.site.param) for other in between for node in dequantizers(other.site)
        }
        bound = program.bind(attention)
        found = []
        for batch in range(walk.batches):
            with torch.no_grad():
                values = walk.ahead(attention, walk.live(batch, "quantized"), "quantized", given)
            query, key = values[cast(Node, bound["query"])], values[cast(Node, bound["key"])]
            mask = bound.get("attn_mask")
            mask = values.get(mask) if isinstance(mask, Node) else None
            scale = bound.get("scale")
            found.append(
                attention_received(
                    cast(Tensor, query),
                    cast(Tensor, key),
                    scale if isinstance(scale, float) else None,
                    bool(bound.get("is_causal")),
                    mask if isinstance(mask, Tensor) else None,
                )
            )
        return found


def rarity(batches: Sequence[Batch]) -> list[Tensor] | None:
    """`-log frequency` of every token among all batches, [sequences, tokens]; None without whole numbers to count."""
    found = [next((x for x in batch if x.dim() == 2 and not x.is_floating_point()), None) for batch in batches]
    ids = [x.long() for x in found if x is not None]
    if len(ids) < len(found) or not ids:
        return None
    counts = torch.bincount(torch.cat([x.flatten() for x in ids])).float()
    return [-(counts[x] / counts.sum()).log() for x in ids]


def _first(x: Tensor) -> Tensor:
    scores = torch.zeros(x.shape[:2])
    scores[:, : max(1, x.shape[1] // _FIRST)] = 1.0
    return scores


def _attention_of(program: Program, readers: list[Node]) -> dict[Node, Node]:
    """The attention of each layer's block: the one it feeds with no other layer in between, else the one before it."""
    order = [node for node in program.nodes if node in set(readers) or program.op(node) == _ATTENTION]
    found: dict[Node, Node] = {}
    for node in order:
        if program.op(node) == _ATTENTION:
            found.update(dict.fromkeys(_feeding(node, set(readers)), node))
    latest: Node | None = None
    for node in order:
        if program.op(node) == _ATTENTION:
            latest = node
        elif latest is not None:
            found.setdefault(node, latest)
    return found


def _feeding(attention: Node, readers: set[Node]) -> set[Node]:
    """Layers from which an attention can be reached without passing through another layer."""
    found: set[Node] = set()
    seen: set[Node] = set()
    waiting = list(attention.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in readers:
            found.add(node)
        else:
            waiting += node.all_input_nodes
    return found

"""Train both models of the zoo on the digits and write their weights: `python -m benchmarks.zoo.train`.

Seeded and single-threaded, so that the same versions on the same kind of machine give the same bytes again.
The number of epochs is fixed and the last weights are kept: the test images choose nothing. Needs
scikit-learn. Prints a table and writes `benchmarks/results/zoo.json`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.zoo.data import Labelled, load_test, split_digits, write_files
from benchmarks.zoo.models import CNN_WEIGHTS, VIT_WEIGHTS, DigitsCNN, DigitsViT

RESULTS_FILE = Path(__file__).resolve().parents[1] / "results" / "zoo.json"
SEED = 0
BATCH = 64


@dataclass(frozen=True)
class Setup:
    """One model of the zoo and how it is trained."""

    name: str
    build: Callable[[], nn.Module]
    weights: Path
    epochs: int
    learning_rate: float
    weight_decay: float


SETUPS = (
    Setup("digits_cnn", DigitsCNN, CNN_WEIGHTS, epochs=40, learning_rate=4e-3, weight_decay=0.05),
    Setup("digits_vit", DigitsViT, VIT_WEIGHTS, epochs=200, learning_rate=2e-3, weight_decay=0.05),
)


@dataclass(frozen=True)
class Result:
    """What one training gave; accuracies are in percent of the unaugmented images."""

    model: str
    parameters: int
    file_bytes: int
    train_accuracy: float
    test_accuracy: float
    test_errors: int
    seconds: float


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn (10 degrees at most), stretch (10 %) and shift (1 pixel) each image `[N, 1, H, W]` at random."""
    count = x.shape[0]
    angle, stretch_x, stretch_y, shift_x, shift_y = 2 * torch.rand(5, count, generator=generator) - 1
    angle = angle * math.radians(10)
    pixel = 2 / x.shape[-1]
    row_x = torch.stack([torch.cos(angle) * (1 + 0.1 * stretch_x), -torch.sin(angle), shift_x * pixel], 1)
    row_y = torch.stack([torch.sin(angle), torch.cos(angle) * (1 + 0.1 * stretch_y), shift_y * pixel], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def train(setup: Setup, data: Labelled) -> nn.Module:
    """Train one model from its seed with AdamW, linear warm-up and cosine decay; returned in eval mode."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    images, digits = torch.from_numpy(data.x), torch.from_numpy(data.y)
    model = setup.build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=setup.learning_rate, weight_decay=setup.weight_decay)
    steps = setup.epochs * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, setup.learning_rate, total_steps=steps, pct_start=0.1)
    for _ in range(setup.epochs):
        for index in torch.randperm(len(images), generator=generator).split(BATCH):
            loss = F.cross_entropy(model(augment(images[index], generator)), digits[index])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def correct(model: nn.Module, data: Labelled) -> int:
    """How many images the model names rightly."""
    return int((model(torch.from_numpy(data.x)).argmax(1) == torch.from_numpy(data.y)).sum())


def run(setup: Setup, data: Labelled, test: Labelled) -> Result:
    """Train one model, write its weights and measure it."""
    start = time.perf_counter()
    model = train(setup, data)
    seconds = time.perf_counter() - start
    save_file(model.state_dict(), setup.weights)
    right = correct(model, test)
    return Result(
        model=setup.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        file_bytes=setup.weights.stat().st_size,
        train_accuracy=round(100 * correct(model, data) / len(data.y), 2),
        test_accuracy=round(100 * right / len(test.y), 2),
        test_errors=len(test.y) - right,
        seconds=round(seconds, 1),
    )


def main() -> None:
    """Write the data files, train every model, print the table and write the results."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    write_files()
    data, _ = split_digits()
    test = load_test()
    results = [run(setup, data, test) for setup in SETUPS]
    print("| model | parameters | file bytes | train accuracy | test accuracy | test errors | seconds |")
    print("|---|---|---|---|---|---|---|")
    for r in results:
        print(
            f"| {r.model} | {r.parameters:,} | {r.file_bytes:,} | {r.train_accuracy:.2f} % "
            f"| {r.test_accuracy:.1f} % | {r.test_errors} | {r.seconds:.0f} |"
        )
    RESULTS_FILE.parent.mkdir(exist_ok=True)
    table = {"torch": torch.__version__, "seed": SEED, "models": [asdict(result) for result in results]}
    RESULTS_FILE.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()

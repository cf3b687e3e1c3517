"""The real models: how each is loaded, calibrated and measured.

Every entry gives the module, example and calibration inputs, and a metric of anything that is called like the module.
Nothing here is used by the product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.common import shared_folder

Call = Callable[..., object]


@dataclass(frozen=True)
class Case:
    """One model with its data.

    Args:
        name: short.
        kind: `cnn`, `vit`, `sr`, `lm` or `diffusion`.
        module: in eval mode.
        calibration: inputs, batches first axis; disjoint from what the metric uses.
        metric: of a callable; returns one number.
        unit: of the metric.
        higher_is_better: direction of the metric.
    """

    name: str
    kind: str
    module: torch.nn.Module
    calibration: Sequence[tuple[torch.Tensor, ...]]
    metric: Callable[[Call], float]
    unit: str
    higher_is_better: bool = True


def tensor(value: object) -> torch.Tensor:
    """The tensor a call returned."""
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)


def cifar(name: str, depth: int, images: int = 6000, samples: int = 512) -> Case:
    """A CIFAR-10 residual network."""
    shared = shared_folder()
    from eval_cifar import load_cifar  # pyright: ignore[reportMissingImports]
    from resnet_cifar import load_resnet, normalize  # pyright: ignore[reportMissingImports]

    x, y = load_cifar(shared / "data/cifar10_test.npz")
    train, _ = load_cifar(shared / "data/cifar10_train_10k.npz")

    def metric(call: Call) -> float:
        hits = 0
        for start in range(0, images, 250):
            batch = normalize(x[start : start + 250])
            hits += int((tensor(call(batch)).argmax(1).numpy() == y[start : start + 250]).sum())
        return 100 * hits / images

    drawn = train[np.random.default_rng(0).permutation(len(train))[:samples]]  # the file is sorted by class
    calibration = [(normalize(drawn[start : start + 64]),) for start in range(0, samples, 64)]
    return Case(
        name, "cnn", load_resnet(str(shared / f"models/{name}.safetensors"), depth), calibration, metric, "top-1 %"
    )


def squeezenet() -> Case:
    """SqueezeNet: agreement of the top class with the float model on photo crops; odd crops calibrate."""
    shared = shared_folder()
    from squeezenet import load_squeezenet, photo_crops, preprocess  # pyright: ignore[reportMissingImports]

    module = load_squeezenet(str(shared / "models/squeezenet1_1_fp16.safetensors"))
    crops = photo_crops(str(shared / "data"))
    test, train = crops[0::2], crops[1::2]
    with torch.no_grad():
        reference = torch.cat([module(preprocess(test[i : i + 10])) for i in range(0, len(test), 10)])

    def metric(call: Call) -> float:
        logits = torch.cat([tensor(call(preprocess(test[i : i + 10]))) for i in range(0, len(test), 10)])
        return 100 * float((logits.argmax(1) == reference.argmax(1)).float().mean())

    calibration = [(preprocess(train[i : i + 10]),) for i in range(0, len(train), 10)]
    return Case("squeezenet1_1", "cnn", module, calibration, metric, "top-1 agreement %")


def vit_mnist(samples: int = 512) -> Case:
    """A vision transformer for MNIST."""
    shared = shared_folder()
    from vit_mnist import load_vit, normalize  # pyright: ignore[reportMissingImports]

    data = np.load(shared / "data/mnist.npz")
    x, y = data["x_test"], data["y_test"]

    def metric(call: Call) -> float:
        hits = sum(
            int((tensor(call(normalize(x[i : i + 500]))).argmax(1).numpy() == y[i : i + 500]).sum())
            for i in range(0, len(x), 500)
        )
        return 100 * hits / len(x)

    calibration = [(normalize(data["x_train"][i : i + 64]),) for i in range(0, samples, 64)]
    module = load_vit(str(shared / "models/vit_mnist.safetensors"))
    return Case("vit_mnist", "vit", module, calibration, metric, "top-1 %")


def super_resolution() -> Case:
    """IMDN x4: luma PSNR on Set5; calibrated on down-scaled photos."""
    shared = shared_folder()
    from eval_sr_psnr import mean_psnr, pairs  # pyright: ignore[reportMissingImports]
    from sr_models import load_sr  # pyright: ignore[reportMissingImports]

    data = pairs(shared / "data/set5_x4.npz")
    photos = torch.from_numpy(np.load(shared / "data/photos_352.npz")["x"]).permute(0, 3, 1, 2).float() / 255
    small = torch.nn.functional.interpolate(photos, scale_factor=0.25, mode="bicubic", antialias=True).clamp(0, 1)

    def metric(call: Call) -> float:
        return float(np.mean(list(mean_psnr(lambda x: tensor(call(x)), "imdn", data).values())))

    module = load_sr(str(shared / "models/imdn_x4.safetensors"), "imdn")
    return Case("imdn_x4", "sr", module, [(image[None],) for image in small], metric, "PSNR dB")


def diffusion() -> Case:
    """DiT: error of the predicted noise; calibrated on noised training images over all times."""
    shared = shared_folder()
    import dit_mnist  # pyright: ignore[reportMissingImports]

    module = dit_mnist.load(str(shared / "models/dit_mnist14.safetensors"))
    x, y = dit_mnist.images("train")
    generator = torch.Generator().manual_seed(0)
    calibration = []
    for start in range(0, 256, 32):
        times = torch.randint(dit_mnist.STEPS, (32,), generator=generator)
        noise = torch.randn(x[:32].shape, generator=generator)
        noised = dit_mnist.noised(x[start : start + 32], times, noise)
        calibration.append((noised, times, y[start : start + 32]))

    def metric(call: Call) -> float:
        errors = dit_mnist.noise_error(lambda *args: tensor(call(*args)), n=200)
        return float(np.mean(list(errors.values())))

    return Case("dit_mnist14", "diffusion", module, calibration, metric, "noise error", higher_is_better=False)


def code_lm(tokens: int = 30000) -> Case:
    """The language model of Python source."""
    shared = shared_folder()
    import code_lm as lm  # pyright: ignore[reportMissingImports]

    data = np.load(shared / "data/code_lm_tokens.npz")
    held = torch.from_numpy(data["eval"].astype(np.int64))[: tokens + 1]
    windows = torch.from_numpy(data["calibration"].astype(np.int64))[:64, :256]

    def metric(call: Call) -> float:
        return lm.perplexity(lambda ids: tensor(call(ids)), held)[0]

    module = lm.load(str(shared / "models/code_lm.safetensors"))
    calibration = [(windows[i : i + 8],) for i in range(0, len(windows), 8)]
    return Case("code_lm", "lm", module, calibration, metric, "perplexity", higher_is_better=False)


def stories(stories_used: int = 40) -> Case:
    """The story-telling language model."""
    shared = shared_folder()
    from eval_lm_ppl import perplexity, windows  # pyright: ignore[reportMissingImports]
    from llama_lm import Llama2cTokenizer, load_llama2c  # pyright: ignore[reportMissingImports]

    module = load_llama2c(str(shared / "models/stories260K.bin"))
    tokenizer = Llama2cTokenizer(str(shared / "models/tok512.bin"), module.config.vocab_size)
    text = (shared / "data/tinystories_eval.txt").read_text(encoding="utf-8")
    sequences = list(windows(text, tokenizer, module.config.max_seq_len))
    test, train = sequences[:stories_used], sequences[stories_used:]
    calibration = [(sequence[None, :200],) for sequence in train if len(sequence) >= 200][:32]

    def metric(call: Call) -> float:
        return perplexity(lambda ids: tensor(call(ids)), test)[0]

    return Case("stories260K", "lm", module, calibration, metric, "perplexity", higher_is_better=False)


CASES: dict[str, Callable[[], Case]] = {
    "resnet20": lambda: cifar("resnet20_cifar10_jpeg", 20),
    "resnet56": lambda: cifar("resnet56_cifar10", 56),
    "squeezenet": squeezenet,
    "vit_mnist": vit_mnist,
    "imdn": super_resolution,
    "dit": diffusion,
    "code_lm": code_lm,
    "stories": stories,
}

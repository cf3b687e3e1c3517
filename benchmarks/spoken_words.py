"""Words of tones: sequences of sounds with the resonances of vowels, spoken by many voices over noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RATE = 8000
SAMPLES = 5376
WINDOW, HOP, BANDS = 256, 80, 32
FRAMES = 64
FORMANTS = torch.tensor([(730.0, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410)])
"""Three resonances in Hz of each sound (Peterson and Barney 1952: a, i, u, e, o)."""
WORDS = torch.tensor(
    [(0, 1, 0), (0, 2, 1), (1, 0, 2), (1, 3, 1), (2, 0, 3), (2, 4, 2), (3, 1, 4), (3, 0, 3), (4, 2, 0), (4, 3, 4)]
)
"""Ten words of three sounds; several differ in one of them alone."""
_HARMONICS = 36


def words(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Log-mel frames and labels of `count` utterances.

    Shapes: float32 [count, BANDS, FRAMES], int64 [count].
    """
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(WORDS), (count,), generator=random)
    parts = [_features(_speak(chosen, random)) for chosen in labels.split(128)]
    return torch.cat(parts), labels


def _speak(labels: Tensor, random: torch.Generator) -> Tensor:
    """[B] -> [B, SAMPLES]: harmonics of a gliding pitch under resonances that move from sound to sound, and noise."""
    count, time = len(labels), torch.linspace(0, 1, SAMPLES)
    place = (time * _between(0.85, 1.15, (count, 1), random) + _between(-0.1, 0.1, (count, 1), random)).clamp(0, 0.999)
    mixed = (place * 3 - 0.5).clamp(0, 2)
    first = mixed.floor().long().clamp(max=1)
    share = ((mixed - first - 0.5) * 3 + 0.5).clamp(0, 1)[..., None]
    sounds = FORMANTS[WORDS[labels]] * _between(0.85, 1.15, (count, 1, 3), random)
    at = first[..., None].expand(-1, -1, 3)
    formants = sounds.gather(1, at) * (1 - share) + sounds.gather(1, at + 1) * share
    pitch = _between(90, 240, (count, 1), random) * (1 + _between(-0.2, 0.2, (count, 1), random) * (time - 0.5))
    phase = 2 * math.pi * pitch.cumsum(1) / RATE
    sound = torch.zeros(count, SAMPLES)
    for harmonic in range(1, _HARMONICS + 1):
        distance = (formants - harmonic * pitch[..., None]) / 90
        level = (1 / (1 + distance.square())).sum(-1) * (harmonic * pitch < RATE / 2)
        sound += level / harmonic**0.5 * torch.sin(harmonic * phase)
    loud = ((place > 0.02) & (place < 0.98)).float()
    sound = sound * loud / sound.std(1, keepdim=True)
    noise = torch.randn(count, SAMPLES, generator=random) * _between(0.1, 0.7, (count, 1), random)
    return (sound + noise) * _between(0.3, 1.0, (count, 1), random)


def _features(sound: Tensor) -> Tensor:
    """[B, SAMPLES] -> [B, BANDS, FRAMES]: logarithms of energies in bands of the mel scale, about zero."""
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(sound, WINDOW, HOP, window=window, center=False, return_complex=True).abs().square()
    energy = _bands() @ spectrum[..., :FRAMES]
    logs = (energy + 1e-3).log()
    return (logs - logs.mean((1, 2), keepdim=True)) / 2


def _bands() -> Tensor:
    """[BANDS, WINDOW / 2 + 1]: triangles that overlap by half, evenly on the mel scale."""
    mel = torch.linspace(2595 * math.log10(1 + 100 / 700), 2595 * math.log10(1 + RATE / 1400), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return torch.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clamp(min=0)


def _between(low: float, high: float, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=random)

"""The real ONNX models: detectors of faces and of things, and a detector of speech that carries a state."""

from __future__ import annotations

import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.common import shared_folder

Inputs = tuple[torch.Tensor, ...]
_FRAME, _CONTEXT, _RATE = 512, 64, 16000


@dataclass(frozen=True)
class OnnxCase:
    """One ONNX model with its data.

    Args:
        name: short.
        path: of the file.
        calibration: inputs, one call each.
        samples: others, to compare on.
        decisions: of the results of a call: what the user of the model looks at.
    """

    name: str
    path: Path
    calibration: Sequence[Inputs]
    samples: Sequence[Inputs]
    decisions: Callable[[Sequence[torch.Tensor]], torch.Tensor]


def ultraface() -> OnnxCase:
    """Faces: whether each of 4,420 boxes holds one."""
    shared = shared_folder()
    images = torch.from_numpy(np.load(shared / "data/faces_320x240.npz")["x"]).permute(0, 3, 1, 2)
    inputs = [((image[None].float() - 127) / 128,) for image in images]
    path = shared / "models/ultraface_rfb_320.onnx"
    return OnnxCase("ultraface", path, inputs[0::2], inputs[1::2], lambda results: results[0].argmax(-1))


def fastestdet() -> OnnxCase:
    """Things on photos: the class of each of 484 places, and whether there is one."""
    shared = shared_folder()
    images = torch.from_numpy(np.load(shared / "data/photos_352.npz")["x"]).flip(-1).permute(0, 3, 1, 2)
    inputs = [(image[None].float() / 255,) for image in images]

    def decisions(results: Sequence[torch.Tensor]) -> torch.Tensor:
        thing, classes = results[0][:, 0], results[0][:, 5:]
        there = thing**0.6 * classes.amax(1) ** 0.4 > 0.5
        return torch.where(there, classes.argmax(1), -1)

    return OnnxCase("fastestdet", shared / "models/fastestdet_coco.onnx", inputs[0::2], inputs[1::2], decisions)


def silero(frames: int = 256) -> OnnxCase:
    """Speech: whether there is some in each frame; states are those of the float model."""
    shared = shared_folder()
    path = shared / "models/silero_vad_16k.onnx"
    with wave.open(str(shared / "data/speech_16k.wav")) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    state, rate, inputs = np.zeros((2, 1, 128), np.float32), np.array(_RATE, np.int64), []
    for start in range(0, min(len(sound) - _FRAME - _CONTEXT, frames * _FRAME), _FRAME):
        frame = sound[None, start : start + _FRAME + _CONTEXT].copy()
        inputs.append((torch.from_numpy(frame), torch.from_numpy(state), torch.from_numpy(rate)))
        _, state = session.run(None, {"input": frame, "state": state, "sr": rate})
    return OnnxCase("silero", path, inputs[0::2], inputs[1::2], lambda results: results[0] > 0.5)


ONNX_CASES: dict[str, Callable[[], OnnxCase]] = {"ultraface": ultraface, "fastestdet": fastestdet, "silero": silero}

"""What a target's data file may set for this backend."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qcompiler.backends.onnx.writer import INLINE_BYTES
from qcompiler.errors import SpecError
from qcompiler.target import Target

ATTENTION_OPSET = 23


class Settings(BaseModel):
    """Choices between forms of equal meaning, and between exact and fast ones.

    Args:
        opset: version of the standard operator set, 13 to 25; what an older one lacks is written otherwise.
        linear: how an integer linear layer is written: `gemm` (standard operators, bias added in int32), `contrib`
            (MatMulIntegerToFloat of onnxruntime, float bias), `matmul` (standard MatMul and Add, float bias).
        bias: biases of convolutions and `gemm` as int32 codes, or float as some compilers want them.
        weight_only: `exact` computes with the dequantized weight, `fast` lets onnxruntime quantize activations per
            block at run time, `standard` leaves the form to the runtime.
        absorbed: an activation between operator and quantization is written as limits on the `codes`, or kept as an
            operator on `reals` where compilers look for it.
        attention: as one `op` where its heads are cut and merged around it, or `decomposed` into matrix products.
        passes: texts of passes that run right after the canonical ones; the compiler reads them.
        stored: widths of the codes of each kernel's weight; `Target.stored` reads them.
        inline_bytes: weights beyond so many bytes lie in a file of their own beside the model.
        runtime: whether the emitted file can be loaded and audited with onnxruntime on this machine.
        rules: whose rules of explicit quantization the emitted file is checked against.
        capability: compute capability of the GPU that the file is for, `8.7` for Jetson Orin.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    opset: int = 21
    linear: Literal["gemm", "contrib", "matmul"] = "gemm"
    bias: Literal["int32", "float"] = "int32"
    weight_only: Literal["exact", "fast", "standard"] = "exact"
    absorbed: Literal["codes", "reals"] = "codes"
    attention: Literal["op", "decomposed"] = "decomposed"
    passes: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    inline_bytes: int = INLINE_BYTES
    runtime: Literal["onnxruntime", "elsewhere"] = "onnxruntime"
    rules: Literal["none", "tensorrt"] = "none"
    capability: str = Field(default="8.7", pattern=r"^\d+\.\d+$")

    @property
    def attention_operator(self) -> bool:
        """Whether attention is written as one operator, which older operator sets lack."""
        return self.attention == "op" and self.opset >= ATTENTION_OPSET

    @property
    def integer_linear_bias(self) -> bool:
        """Whether the bias of a linear layer is added in int32."""
        return self.linear == "gemm" and self.bias == "int32"


def settings_of(target: Target) -> Settings:
    """The checked settings of a target.

    Raises:
        SpecError: for an unknown setting or value.
    """
    try:
        return Settings.model_validate(dict(target.settings))
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(
            f"target {target.name}: setting {'.'.join(map(str, first['loc'])) or '(all)'}: {first['msg']}",
            mend=f"settings: {', '.join(Settings.model_fields)}",
        ) from error

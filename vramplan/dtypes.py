"""Storage formats as integers: elements per block and bytes per block, never float bits per weight."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vramplan.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """`block_bytes` bytes hold `block_elements` elements; a last, partial block is stored whole."""

    name: str
    block_elements: int
    block_bytes: int

    def num_bytes(self, num_elements: int) -> int:
        """Bytes of `num_elements` elements, without the allocator's rounding."""
        return -(-num_elements // self.block_elements) * self.block_bytes


class DType(Enum):
    """A dense tensor element type, named as on the command line."""

    FP32 = ("fp32", 4)
    BF16 = ("bf16", 2)
    FP16 = ("fp16", 2)
    FP8 = ("fp8", 1)
    INT64 = ("int64", 8)
    INT32 = ("int32", 4)
    INT8 = ("int8", 1)
    BOOL = ("bool", 1)

    def __init__(self, label: str, itemsize: int) -> None:
        self.label = label
        self.itemsize = itemsize

    @property
    def is_half(self) -> bool:
        """Whether it is one of the two 16-bit floating types."""
        return self in (DType.BF16, DType.FP16)

    @classmethod
    def parse(cls, text: str) -> DType:
        """A dtype from its name here, in torch (`bfloat16`) or in a safetensors header (`BF16`).

        Raises:
            UsageError: no such dtype.
        """
        name = text.removeprefix("torch.").lower()
        name = _SPELLINGS.get(name, name)
        for dtype in cls:
            if dtype.label == name:
                return dtype
        raise UsageError(f"{text!r} is not a dtype", hint="use bf16, fp16 or fp32")


_SPELLINGS = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "f16": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "f32": "fp32",
    "f8_e4m3": "fp8",
    "f8_e5m2": "fp8",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
    "i64": "int64",
    "i32": "int32",
    "i8": "int8",
    "u8": "int8",
    "uint8": "int8",
}

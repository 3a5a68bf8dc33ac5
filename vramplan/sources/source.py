"""ModelSource: a model's config, where it came from, and what its stored tensors are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Literal

from vramplan.core.quick import dataclass

Origin = Literal["profile", "file", "folder", "cache", "hub"]

# The dtypes a safetensors header can name in which transformers can build a model. 8-bit and 4-bit floats are left
# out, as its own `get_state_dict_dtype` leaves them out (transformers 5.23, modeling_utils.py): quantised weights.
_LABELS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensors:
    """What the headers of a checkpoint's safetensors files say.

    Args:
        tensors: by name, the dtype as the header spells it (`BF16`) and the shape.
        num_files: how many files they lie in.
    """

    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    num_files: int

    @property
    def num_elements_by_dtype(self) -> Mapping[str, int]:
        """Elements by dtype, most first."""
        counts: Counter[str] = Counter()
        for dtype, shape in self.tensors.values():
            counts[dtype] += prod(shape)
        return dict(counts.most_common())

    @property
    def num_elements(self) -> int:
        """Elements of all tensors: the parameters, and scales and buffers where the checkpoint stores them."""
        return sum(self.num_elements_by_dtype.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model's config and where it was found.

    Args:
        reference: what the user wrote.
        id: the profile's or the Hub's name for it; for a file or folder, the path as written.
        origin: which of the sources answered.
        config: the content of `config.json`.
        headers: the checkpoint's stored tensors, or None where no safetensors header was read.
        revision: the commit on the Hub, or None where it came from elsewhere.
        notes: sentences the program owes its user (a profile that hides a shipped one, headers that were out of reach).
    """

    reference: str
    id: str
    origin: Origin
    config: Mapping[str, object]
    headers: StoredTensors | None = None
    revision: str | None = None
    notes: tuple[str, ...] = ()


def stored_dtype_label(headers: StoredTensors | None) -> str | None:
    """`bf16`, `fp16` or `fp32`: the floating dtype most of the checkpoint's elements have, None if it is none of them.

    This is what `dtype="auto"` loads in where the config names no dtype.
    """
    if headers is None:
        return None
    for dtype in headers.num_elements_by_dtype:  # most first
        if dtype in _LABELS:
            return _LABELS[dtype]
    return None

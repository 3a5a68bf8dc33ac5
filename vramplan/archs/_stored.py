"""How a checkpoint lies on disk: the dtype it names and the quantisation it carries."""

from __future__ import annotations

from vramplan.archs._config import ConfigReader
from vramplan.core.model import StoredQuantization
from vramplan.dtypes import DType
from vramplan.errors import UsageError


def stored_dtype(config: ConfigReader) -> str | None:
    """The dtype that the config names (`bf16`, `fp16`, `fp32`), or None if it names none.

    `dtype` wins over the older `torch_dtype`, as in transformers 5.23 (configuration_utils.py, `__post_init__`).
    """
    for name in ("dtype", "torch_dtype"):
        if config.fields.get(name) not in (None, "auto"):
            named = config.text(name, absent="")
            try:
                return DType.parse(named).label
            except UsageError as error:
                raise config.error(f"`{name}` is {named!r}, which is no dtype") from error
    return None


def stored_quantization(config: ConfigReader) -> StoredQuantization | None:
    """The checkpoint's `quantization_config`, or None.

    Defaults are those of transformers 5.23 (utils/quantization_config.py).

    Raises:
        UnsupportedArchitectureError: a method whose layout is not known here.
    """
    section = config.section("quantization_config")
    if section is None:
        return None
    if section.boolean("load_in_4bit", absent=False):
        return StoredQuantization(
            method="bitsandbytes",
            bits=4,
            double_quant=section.boolean("bnb_4bit_use_double_quant", absent=False),
            four_bit_type=section.text("bnb_4bit_quant_type", absent="fp4"),
            skipped_modules=section.texts("llm_int8_skip_modules") or (),
        )
    if section.boolean("load_in_8bit", absent=False):
        skipped = section.texts("llm_int8_skip_modules") or ()
        return StoredQuantization(method="bitsandbytes", bits=8, skipped_modules=skipped)
    method = section.text("quant_method", absent="")
    skipped = section.texts("modules_to_not_convert", "ignored_layers") or ()
    if method == "fp8" and section.text("expert_dtype", absent="fp8") == "fp8":
        return StoredQuantization(method=method, bits=8, block_shape=_fp8_block(section), skipped_modules=skipped)
    if method == "mxfp4":
        # OCP Microscaling: one 8-bit exponent for 32 elements of a row.
        return StoredQuantization(method=method, bits=4, block_shape=(1, 32), skipped_modules=skipped)
    if method in ("gptq", "awq"):
        # AutoAWQ's own files say w_bit and q_group_size; -1 is one group per column.
        bits = section.integer("bits", "w_bit", absent=4) if method == "awq" else section.required_int("bits")
        group = section.integer("group_size", "q_group_size", absent=128, minimum=-1)
        block = (1, group) if group > 0 else None
        return StoredQuantization(method=method, bits=bits, block_shape=block, skipped_modules=skipped)
    raise config.error(
        f"the checkpoint is quantised by {method or 'a method it does not name'!r}, whose layout is not known",
        hint="name the unquantised model, or use `vramplan simulate`",
    )


def _fp8_block(section: ConfigReader) -> tuple[int, int] | None:
    """Rows and columns that share a scale; None where one scale serves the whole matrix (`weight_block_size` null)."""
    if "weight_block_size" not in section.fields:
        return (128, 128)
    sizes = section.integers("weight_block_size")
    if not sizes:
        return None
    if len(sizes) != 2 or min(sizes) < 1:
        raise section.error(f"`weight_block_size` is {list(sizes)!r}, not two sizes")
    return (sizes[0], sizes[1])

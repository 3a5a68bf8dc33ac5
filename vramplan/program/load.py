"""Builds a model from its config.json, quantises and adapts it, in the order a training script does."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, BitsAndBytesConfig

from vramplan.core.run import LoadSpec, Lora, Quantization
from vramplan.dtypes import DType
from vramplan.errors import UnsupportedArchitectureError, UsageError
from vramplan.formula.weights import BF16_NAMES
from vramplan.program.bitsandbytes_kernels import import_bitsandbytes
from vramplan.program.layers import NO_LAYER, Units, layer_number
from vramplan.program.watch import Watch

_TORCH_DTYPES = {DType.FP32: torch.float32, DType.BF16: torch.bfloat16, DType.FP16: torch.float16}


def torch_dtype(dtype: DType) -> torch.dtype:
    """torch's name of a dense dtype.

    Raises:
        KeyError: weights are never of that type.
    """
    return _TORCH_DTYPES[dtype]


def build_config(config: Mapping[str, Any], *, num_layers: int | None = None, num_kept: int | None = None) -> Any:
    """transformers' config object of a `config.json`.

    Args:
        config: the parsed file; of a multimodal model only the text part is used.
        num_layers: how many layers the model has, or None for as many as the config says.
        num_kept: how many of those to build, or None for all.

    Raises:
        UnsupportedArchitectureError: transformers has no such model type.
    """
    values = copy.deepcopy(dict(config))
    model_type = str(values.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise UnsupportedArchitectureError(
            f"transformers has no model type {model_type!r}", hint="install a newer transformers"
        )
    values.pop("quantization_config", None)
    built = CONFIG_MAPPING[model_type].from_dict(values).get_text_config()
    for count in (num_layers, num_kept):
        if count is not None:
            for name, value in list(vars(built).items()):
                if isinstance(value, list) and len(value) == built.num_hidden_layers:  # one item per layer
                    setattr(built, name, value[:count])
            built.num_hidden_layers = count
    built.use_cache = True
    return built


def count_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of a model as transformers builds it, tied ones once."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(build_config(config))
    return sum(parameter.numel() for parameter in model.parameters())


def build_skeleton(config: Any, load: LoadSpec, attention: str) -> Any:
    """The model on the meta device, its linear layers already bitsandbytes' where `load` asks for it."""
    config = copy.deepcopy(config)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = "eager" if attention == "flash_attention_2" else attention
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=torch_dtype(load.dtype), attn_implementation=first)
        except ValueError as error:
            raise UsageError(
                f"transformers has no {attention} attention for {config.model_type}", hint="use eager"
            ) from error
    if attention == "flash_attention_2":  # set afterwards: the package itself is not needed here
        model.config._attn_implementation_internal = attention
    if load.quantization is not Quantization.NONE:
        _convert_linears(model, load)
    return model.eval()


def add_adapters(model: Any, lora: Lora, *, lora_dropout: float) -> Any:
    """peft's model around a skeleton: before it gets memory, since peft cannot move fake tensors."""
    if find_spec("bitsandbytes") is not None:
        import_bitsandbytes()  # peft imports it anyway, with its remarks
    from peft import LoraConfig, get_peft_model

    targets: Any = "all-linear" if lora.target_modules == ("all-linear",) else list(lora.target_modules)
    peft_config = LoraConfig(
        r=lora.r, lora_alpha=lora.r, target_modules=targets, lora_dropout=lora_dropout, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            adapted = get_peft_model(model, peft_config, autocast_adapter_dtype=False)
        except ValueError as error:
            raise UsageError(
                f"{model.config.model_type} has no module to adapt among {', '.join(lora.target_modules)}",
                hint="name others with --lora-target-modules, or all-linear",
            ) from error
    dtype = torch_dtype(lora.dtype)
    for name, parameter in adapted.named_parameters():
        if _is_adapter(name):
            parameter.data = parameter.data.to(dtype)
    return adapted


def materialise(
    model: Any, load: LoadSpec, watch: Watch, units: Units, *, warms_up: bool = False
) -> Callable[[], None]:
    """Gives every parameter and buffer its memory, in a training script's order: base, upcast, adapters.

    Parameters come one after the other, tied ones once, and are quantised on the way as transformers does (since it
    loads without threads then; 5.0 had four of them and no order).

    Args:
        model: a skeleton.
        load: its precision.
        watch: looks on, and says where.
        units: what its layers are called.
        warms_up: transformers' caching_allocator_warmup comes first: one block of the model's size, freed at once.

    Returns:
        What takes the memory away again.
    """
    if warms_up:
        torch.empty(_warm_up_bytes(model, units), dtype=torch.uint8, device=watch.device)
    skeleton = [(module, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    watch.owner = "weights"
    modules = [(path, module) for path, module in model.named_modules()]

    def enter(path: str) -> None:
        watch.layer_index = units.of(layer_number(path))

    places: dict[int, list[tuple[str, Any, str]]] = {}
    for path, module in modules:
        for name, parameter in module._parameters.items():
            if parameter is not None and not _is_adapter(path):
                places.setdefault(id(parameter), []).append((path, module, name))
    order = list(places.values())
    if warms_up:  # from_pretrained sorts the checkpoint; what a script moves by itself goes module by module
        order.sort(key=lambda uses: _natural_key(f"{uses[0][0]}.{uses[0][2]}"))
    for uses in order:
        path, module, name = uses[0]
        enter(path)
        value = _allocated(module._parameters[name], load, watch)
        for _, module, name in uses:  # tied ones once
            module._parameters[name] = value
            if getattr(value, "quant_state", None) is not None:
                module.quant_state = value.quant_state
    for path, module in modules:
        enter(path)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=watch.device)
                watch.fill(module._buffers[name])
    if load.kbit_fp32_upcast:
        upcast(model, enter, norms_only=load.kbit_norms_only)
    watch.owner = "adapters"
    for path, module in modules:
        if _is_adapter(path):
            enter(path)
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[name] = _allocated(parameter, load, watch)
    if load.kbit_bf16_embeddings:
        watch.owner = "weights"
        cast_embeddings(model, enter)
    if watch.is_real:
        _fill_buffers(model)
    watch.layer_index, watch.owner = NO_LAYER, ""

    def forget() -> None:
        for module, parameters, buffers in skeleton:
            module._parameters.update(parameters)
            module._buffers.update(buffers)
            vars(module).pop("quant_state", None)
            state = vars(module).get("state")
            if hasattr(state, "CB"):  # bitsandbytes' MatmulLtState: from the first forward on it holds the int8 codes
                state.CB = state.SCB = None

    return forget


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """core_model_loading.py dot_natural_key (transformers 5): by parts, numbers as numbers and before words."""
    parts = name.removeprefix("base_model.model.").replace(".base_layer", "").split(".")
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def _warm_up_bytes(model: Any, units: Units) -> int:
    # modeling_utils.py get_total_byte_count: what each parameter of the whole model will take, without scales
    sizes = {"Params4bit": 0.5, "Int8Params": 1}
    total = 0.0
    done: set[int] = set()
    for name, item in model.named_parameters():
        if id(item) not in done and not _is_adapter(name):
            done.add(id(item))
            num_bytes = item.numel() * sizes.get(type(item).__name__, item.element_size())
            total += num_bytes * units.stands_for(layer_number(name))
    return int(total)


def _is_adapter(path: str) -> bool:
    return "lora_" in path


def upcast(model: Any, enter: Callable[[str], None], *, norms_only: bool = False) -> None:
    """peft's prepare_model_for_kbit_training (utils/other.py): all that is not quantised is frozen and becomes fp32.

    Args:
        model: on its device, with or without adapters.
        enter: is told of each module's path before the module changes.
        norms_only: TRL 0.25's function of that name (models/utils.py): only what is called a norm becomes fp32.
    """
    done: set[int] = set()
    for path, module in list(model.named_modules()):
        enter(path)
        for parameter in module._parameters.values():
            if parameter is None or _is_adapter(path) or id(parameter) in done:
                continue
            done.add(id(parameter))
            if parameter.dtype in (torch.float16, torch.bfloat16) and ("norm" in path.lower() or not norms_only):
                parameter.data = parameter.data.to(torch.float32)
            parameter.requires_grad_(requires_grad=False)


def cast_embeddings(model: Any, enter: Callable[[str], None]) -> None:
    """TRL's peft_module_casting_to_bf16 (0.13.0 to 0.28.0): norms fp32, embeddings and head bf16 where they are fp32.

    Args:
        model: on its device, with its adapters.
        enter: is told of each module's path before the module changes.
    """
    for path, module in model.named_modules():
        dtype = None
        if isinstance(module, torch.nn.LayerNorm) or "norm" in path:
            dtype = torch.float32
        elif any(name in path for name in BF16_NAMES) and getattr(module, "weight", None) is not None:
            dtype = torch.bfloat16 if module.weight.dtype == torch.float32 else None
        if dtype is None:
            continue
        enter(path)
        for parameter in module.parameters():
            if parameter.dtype != dtype:
                parameter.data = parameter.data.to(dtype)


def _fill_buffers(model: Any) -> None:
    """Values for buffers, as transformers 5 computes those that no checkpoint holds (rotary frequencies)."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.no_grad():
        for module in base.modules():
            if any(buffer is not None for buffer in module._buffers.values()):
                for parameter in module._parameters.values():
                    if parameter is not None:
                        parameter._is_hf_initialized = True  # transformers/initialization.py leaves such a one alone
                base._init_weights(module)


def quantization_config(load: LoadSpec) -> BitsAndBytesConfig:
    """What transformers is told of bitsandbytes."""
    if load.quantization is Quantization.INT8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=load.quantization.value,
        bnb_4bit_use_double_quant=load.double_quant,
        bnb_4bit_compute_dtype=torch_dtype(load.dtype),
    )


def _convert_linears(model: Any, load: LoadSpec) -> None:
    import_bitsandbytes()
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    model.is_loaded_in_8bit = load.quantization is Quantization.INT8
    model.is_loaded_in_4bit = not model.is_loaded_in_8bit
    keep = list(get_keys_to_not_convert(model)) + list(getattr(model, "_keep_in_fp32_modules", None) or [])
    replace_with_bnb_linear(model, modules_to_not_convert=keep, quantization_config=quantization_config(load))
    for module in model.modules():  # biases are made fp32, and loaded in the model's dtype
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt") and module.bias is not None:
            module.bias.data = module.bias.data.to(torch_dtype(load.dtype))
    model.is_quantized = True
    model.config._is_quantized = True


def _allocated(parameter: Any, load: LoadSpec, watch: Watch) -> Any:
    """A parameter with memory, made by bitsandbytes' own quantisers where it is theirs.

    On fake tensors it is a plain Parameter that carries the attributes of Params4bit or Int8Params: torch cannot make
    those subclasses of a fake tensor, and their modules ask for the attributes only.
    """
    kind = type(parameter).__name__
    if kind not in ("Params4bit", "Int8Params"):
        value = torch.empty(parameter.shape, dtype=parameter.dtype, device=watch.device)
        watch.fill(value)
        return torch.nn.Parameter(value, requires_grad=parameter.requires_grad)
    from bitsandbytes import functional

    value = torch.empty(parameter.shape, dtype=torch_dtype(load.dtype), device=watch.device)
    watch.fill(value)
    if kind == "Params4bit":
        packed, state = functional.quantize_4bit(
            value,
            blocksize=parameter.blocksize,
            compress_statistics=parameter.compress_statistics,
            quant_type=parameter.quant_type,
            quant_storage=parameter.quant_storage,
        )
        if watch.is_real:
            kept = {**vars(parameter), "quant_state": state, "bnb_quantized": True}
            return type(parameter)(packed, requires_grad=False, **kept)
        quantized = torch.nn.Parameter(packed, requires_grad=False)
        quantized.quant_state, quantized.bnb_quantized = state, True
        return quantized
    codes, scales, _ = functional.int8_vectorwise_quant(value.to(torch.float16))
    if watch.is_real:
        return type(parameter)(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
    quantized = torch.nn.Parameter(codes, requires_grad=False)
    quantized.CB, quantized.SCB, quantized.has_fp16_weights = codes, scales, False
    return quantized

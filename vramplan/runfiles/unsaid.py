"""Settings of a file that move memory, and that a flat run has no word for: what an estimate of the file leaves out."""

from __future__ import annotations

from vramplan.runfiles.runfile import RunFile, Written
from vramplan.runfiles.trl_names import words

# Their memory roles: research/training-memory.md §2.1, §3.2 and §6.
_NAMES = words(
    "steps_per_generation generation_batch_size num_iterations use_liger_kernel use_liger_loss use_liger "
    "cast_lm_head_to_fp32 activation_offloading precompute_ref_log_probs padding_free auto_find_batch_size "
    "torch_compile vllm_tensor_parallel_size backprop_accumulation_steps use_dora lora_modules_to_save "
    "offload_optimizer_device offload_param_device fsdp_offload_params use_reentrant "
    "gradient_checkpointing_use_reentrant"
)
_OFF = (None, False, "none", "")
_DEEPSPEED_OFFLOAD = ("zero_optimization.offload_optimizer.device", "zero_optimization.offload_param.device")


def unsaid(run: RunFile) -> tuple[Written, ...]:
    """The settings that the file gives, that cost or save memory, and that `run.flat` cannot hold."""
    return tuple(
        one
        for key, one in run.written.items()
        if _is_on(one.value) and (key.rpartition(".")[2] in _NAMES or key in _DEEPSPEED_OFFLOAD)
    )


def _is_on(value: object) -> bool:
    """A count of 1 is what there is without the setting; `true` equals 1 and is not one."""
    return value not in _OFF and (value is True or value != 1)

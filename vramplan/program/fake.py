"""Fake tensors that behave as CUDA's, and the record of what they allocate and free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vramplan.program.bitsandbytes_kernels import bitsandbytes_kernels, bitsandbytes_on_cuda
from vramplan.program.cuda_rules import cuda_dispatch
from vramplan.program.device_kind import DeviceKind
from vramplan.program.flash_package import flash_package
from vramplan.program.kernels_attention import attention_kernels
from vramplan.program.kernels_cuda import cuda_kernels
from vramplan.program.recorder import Recorder


@contextmanager
def fake_device(device: DeviceKind, *, with_labels: bool = False, groups_heads: bool = True) -> Iterator[Recorder]:
    """Everything made inside is a fake tensor on a simulated `device`; the recorder has what it would allocate.

    Args:
        device: the card.
        with_labels: note where each allocation comes from.
        groups_heads: whether transformers' sdpa may pass fewer key heads than query heads, as it does from 4.54 on.
    """
    kernels = {**cuda_kernels(), **attention_kernels(device), **bitsandbytes_kernels(device)}
    recorder = Recorder(kernels=kernels, cublas_workspace_bytes=device.cublas_workspace_bytes, with_labels=with_labels)
    with ExitStack() as stack:
        stack.enter_context(cuda_dispatch(device))
        stack.enter_context(bitsandbytes_on_cuda())
        stack.enter_context(flash_package(device))
        # transformers keeps a mask that it would drop on a device, where it can see that no token is masked.
        stack.enter_context(patch("transformers.masking_utils.is_tracing", lambda *_: False, create=True))
        # peft asks `torch.is_autocast_enabled()`, which means CUDA's: here autocast is the CPU's.
        of_device = torch.is_autocast_enabled
        stack.enter_context(patch("torch.is_autocast_enabled", lambda device="cpu": of_device(device)))
        if not groups_heads:
            target = "transformers.integrations.sdpa_attention.use_gqa_in_sdpa"
            stack.enter_context(patch(target, lambda *_, **__: False, create=True))
        if with_labels:
            stack.enter_context(recorder.modules.watching())
        stack.enter_context(FakeTensorMode())
        stack.enter_context(recorder)
        yield recorder

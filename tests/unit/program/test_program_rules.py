from __future__ import annotations

from typing import Any

import pytest
import torch

from vramplan.program.device_kind import DeviceKind
from vramplan.program.fake import fake_device
from vramplan.program.kernels_attention import flash_backward, flash_forward
from vramplan.program.sdpa import choose_backend

AMPERE = DeviceKind.of(80)
TURING = DeviceKind.of(75)


def _heads(dtype: torch.dtype, heads: int = 8, key_heads: int = 8, width: int = 64) -> tuple[Any, Any, Any]:
    query = torch.empty((2, heads, 32, width), dtype=dtype, device="meta")
    key = torch.empty((2, key_heads, 32, width), dtype=dtype, device="meta")
    return query, key, key


def _backend(device: DeviceKind, tensors: tuple[Any, Any, Any], *, mask: Any = None, gqa: bool = False) -> str:
    return choose_backend(*tensors, mask, 0.0, mask is None, enable_gqa=gqa, device=device)


def test_sdpa_chooses_as_cuda_does() -> None:
    mask = torch.empty((2, 1, 32, 32), dtype=torch.bfloat16, device="meta")
    assert _backend(AMPERE, _heads(torch.bfloat16)) == "flash"
    assert _backend(AMPERE, _heads(torch.bfloat16), mask=mask) == "efficient"
    assert _backend(AMPERE, _heads(torch.float32)) == "efficient"
    assert _backend(AMPERE, _heads(torch.bfloat16, key_heads=2), gqa=True) == "flash"
    assert _backend(AMPERE, _heads(torch.bfloat16, key_heads=2)) == "math"
    assert _backend(AMPERE, _heads(torch.bfloat16, width=288)) == "efficient"
    assert _backend(TURING, _heads(torch.float16)) == "efficient"
    assert _backend(TURING, _heads(torch.bfloat16)) == "math"
    older = DeviceKind(compute_capability=75, num_sms=40, cublas_workspace_bytes=1, efficient_attention_takes_gqa=False)
    assert _backend(older, _heads(torch.float16, key_heads=2), gqa=True) == "math"


def test_hopper_has_the_large_workspace() -> None:
    assert DeviceKind.of(90).cublas_workspace_bytes == 32 << 20
    assert DeviceKind.of(80).cublas_workspace_bytes == 8_519_680


def test_flash_attention_accumulates_in_fp32_and_expands_grouped_heads() -> None:
    with fake_device(AMPERE) as recorder:
        query = torch.empty((2, 200, 8, 64), dtype=torch.bfloat16)
        key = torch.empty((2, 200, 2, 64), dtype=torch.bfloat16)
        start = len(recorder.events)
        out, lse, rng_state, unused = flash_forward(query, key, dropout=0.0, num_sms=1)
        forward = recorder.events[start:]
        start = len(recorder.events)
        gradients = flash_backward(out, query, key, key, out)
        backward = [event for event in recorder.events[start:] if event > 0]
        recorder.close()
    assert forward == [2 * 200 * 8 * 64 * 2, 2 * 8 * 200 * 4, 16, 8]
    accumulators = [2 * 8 * 256 * 4, 2 * 256 * 8 * 64 * 4, 2 * 200 * 8 * 64 * 2, 2 * 200 * 8 * 64 * 2]
    assert backward == [out.nbytes, key.nbytes, key.nbytes, *accumulators]
    assert [gradient.shape for gradient in gradients] == [query.shape, key.shape, key.shape]
    assert (lse.shape, rng_state.shape, unused.shape) == ((2, 8, 200), (2,), ())


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_autocast_runs_softmax_in_fp32_as_on_cuda(name: str) -> None:
    with fake_device(AMPERE), torch.autocast("cpu", dtype=torch.bfloat16):
        scores = torch.empty((4, 4), dtype=torch.bfloat16)
        assert getattr(scores, name)(-1).dtype is torch.float32
        assert scores.pow(2).dtype is torch.float32
        assert scores.sum().dtype is torch.float32
        assert torch.cat([scores, scores]).dtype is torch.bfloat16
        assert (scores @ scores.float()).dtype is torch.bfloat16


def test_the_cpus_own_rules_are_back_afterwards() -> None:
    with fake_device(AMPERE):
        pass
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = torch.ones((4, 4), dtype=torch.bfloat16)
        assert scores.softmax(-1).dtype is torch.bfloat16
        assert torch.nn.functional.dropout(scores, 0.5).shape == (4, 4)


def test_half_precision_scores_need_no_fp32_copy_but_bfloat16_ones_do() -> None:
    def events(dtype: torch.dtype) -> list[int]:
        with fake_device(AMPERE) as recorder:
            scores = torch.empty((64, 64), dtype=dtype)
            result = torch.nn.functional.softmax(scores, dim=-1, dtype=torch.float32)
            recorder.close()
        assert result.dtype is torch.float32
        return recorder.events

    assert events(torch.float16) == [8192, 16384]
    assert events(torch.bfloat16) == [8192, 16384, 16384, -2]


def test_dropout_keeps_a_mask_of_bytes() -> None:
    with fake_device(AMPERE) as recorder:
        dropped = torch.nn.functional.dropout(torch.empty(4096, dtype=torch.bfloat16), 0.1)
        recorder.close()
    assert dropped.dtype is torch.bfloat16
    assert sorted(event for event in recorder.events if event > 0) == [4096, 8192, 8192]

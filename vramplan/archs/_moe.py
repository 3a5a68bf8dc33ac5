"""What mixtures of experts share."""

from __future__ import annotations

from vramplan.core.model import Linear, ModuleKind


def router(hidden_size: int, num_experts: int, *, name: str = "mlp.gate", bias: bool = False) -> Linear:
    """The routing matrix: since transformers 5.0 a bare parameter, which no quantiser converts."""
    return Linear(name=name, in_features=hidden_size, out_features=num_experts, bias=bias, kind=ModuleKind.ROUTER)

"""Dense feed-forward blocks. Names of modules are those of transformers 5.23."""

from __future__ import annotations

from vramplan.core.model import Linear, Mlp, ModuleKind


def gated_mlp(
    hidden_size: int, intermediate_size: int, *, activation: str, bias: bool = False, name: str = "mlp"
) -> Mlp:
    """Gate, up and down, as llama has them."""

    def widen(projection: str) -> Linear:
        return Linear(name=f"{name}.{projection}", in_features=hidden_size, out_features=intermediate_size, bias=bias)

    return Mlp(
        intermediate_size=intermediate_size,
        gate=widen("gate_proj"),
        up=widen("up_proj"),
        down=Linear(name=f"{name}.down_proj", in_features=intermediate_size, out_features=hidden_size, bias=bias),
        activation=activation,
    )


def plain_mlp(
    hidden_size: int,
    intermediate_size: int,
    *,
    names: tuple[str, str],
    activation: str,
    bias: bool = True,
    kind: ModuleKind = ModuleKind.LINEAR,
) -> Mlp:
    """Up and down, as gpt2 has them.

    Args:
        hidden_size: width of the stream.
        intermediate_size: width between the two.
        names: of the two.
        activation: between the two.
        bias: whether both have biases.
        kind: what holds both weights.
    """
    up, down = names
    return Mlp(
        intermediate_size=intermediate_size,
        up=Linear(name=up, in_features=hidden_size, out_features=intermediate_size, bias=bias, kind=kind),
        down=Linear(name=down, in_features=intermediate_size, out_features=hidden_size, bias=bias, kind=kind),
        activation=activation,
    )

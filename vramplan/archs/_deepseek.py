"""What deepseek_v2 and deepseek_v3 share: dense layers first, then layers of shared and routed experts."""

from __future__ import annotations

from vramplan.archs._config import ConfigReader
from vramplan.archs._decoder import norms
from vramplan.archs._mlp import gated_mlp
from vramplan.archs._moe import router
from vramplan.core.model import Attention, LayerShape, MixtureOfExperts, Mlp


def deepseek_layers(
    config: ConfigReader,
    *,
    hidden_size: int,
    attention: Attention,
    num_experts_per_tok: int,
    num_shared_experts: int,
    absent_dense_layers: int,
    mlp_bias: bool = False,
) -> tuple[LayerShape, ...]:
    """The decoder blocks.

    Args:
        config: names the experts' number and widths.
        hidden_size: width of the stream.
        attention: of every block.
        num_experts_per_tok: routed experts each token passes through.
        num_shared_experts: `n_shared_experts`; together they are one dense block.
        absent_dense_layers: `first_k_dense_replace` where the config has none.
        mlp_bias: whether dense blocks have biases.
    """
    activation = config.text("hidden_act", absent="silu")
    width = config.required_int("moe_intermediate_size")
    num_experts = config.required_int("n_routed_experts", "num_local_experts", "num_experts")
    sparse = MixtureOfExperts(
        router=router(hidden_size, num_experts),
        num_experts=num_experts,
        num_experts_per_tok=num_experts_per_tok,
        hidden_size=hidden_size,
        intermediate_size=width,
        name="mlp.experts",
        shared=gated_mlp(
            hidden_size,
            width * num_shared_experts,
            activation=activation,
            bias=mlp_bias,
            name="mlp.shared_experts",
        ),
        activation=activation,
    )
    dense = gated_mlp(hidden_size, config.required_int("intermediate_size"), activation=activation, bias=mlp_bias)
    num_layers = config.layers("num_hidden_layers")
    num_dense = min(config.integer("first_k_dense_replace", absent=absent_dense_layers, minimum=0), num_layers)

    def layer(mlp: Mlp | MixtureOfExperts) -> LayerShape:
        return LayerShape(attention=attention, mlp=mlp, norms=norms(hidden_size))

    return (layer(dense),) * num_dense + (layer(sparse),) * (num_layers - num_dense)

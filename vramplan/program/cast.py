"""The models of a run, each with its memory, or without it while it rests on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vramplan.core.run import Method, Role, Run, Tuning
from vramplan.program.checkpoint_folder import load_checkpoint
from vramplan.program.extend import NUM_TRACED_UNITS
from vramplan.program.layers import Units
from vramplan.program.load import add_adapters, build_config, build_skeleton, cast_embeddings, materialise
from vramplan.program.older_loss import LogitsCode
from vramplan.program.pattern import Pattern, find_pattern
from vramplan.program.watch import Watch


class Actor:
    """One role's model.

    Args:
        role: how it is loaded.
        model: a skeleton without memory.
        pattern: how its layers repeat, None where all are built.
        units: what its layers are called in the record.
    """

    def __init__(self, role: Role, model: Any, pattern: Pattern | None, units: Units) -> None:
        self.role = role
        self.model = model
        self.pattern = pattern
        self._units = units
        self._forget: Callable[[], None] | None = None

    def enter(self, watch: Watch, *, warms_up: bool = False) -> None:
        """Onto the device, if it is not there; after a warm-up of the allocator if from_pretrained puts it there."""
        if self._forget is not None:
            return
        self._forget = materialise(self.model, self.role.load, watch, self._units, warms_up=warms_up)
        watch.watch_model(self.model, self.role.name, self._units)

    def rest(self) -> None:
        """Off the device, if it is offloaded between its phases."""
        if self.role.offloaded and self._forget is not None:
            self._forget()
            self._forget = None


class CheckpointActor(Actor):
    """One role's model as from_pretrained loads it.

    Args:
        run: the run.
        role: how it is loaded.
        folder: the checkpoint: a folder, or a name on the Hub.
        lora_dropout: of the adapters.
    """

    def __init__(self, run: Run, role: Role, folder: str, *, lora_dropout: float) -> None:
        super().__init__(role, None, None, Units())
        self._run = run
        self._folder = folder
        self._lora_dropout = lora_dropout
        self._rests = False

    def enter(self, watch: Watch, *, warms_up: bool = False) -> None:
        """Onto the device: loaded the first time, brought back from host memory later.

        Without a warm-up a script loads into host memory and moves: with a device map from_pretrained warms up.
        """
        if self.model is None:
            model = load_checkpoint(
                self._folder,
                self.role.load,
                self._run.attn_implementation.value,
                watch.device,
                moves=not warms_up,
            )
            self.model = prepared(self._run, self.role, model, lora_dropout=self._lora_dropout)
            if self.role.load.kbit_bf16_embeddings:
                cast_embeddings(self.model, lambda _: None)
        elif self._rests:
            self.model.to(watch.device)
            self._rests = False

    def rest(self) -> None:
        """Into host memory, if it is offloaded between its phases."""
        if self.role.offloaded and self.model is not None:
            self.model.to("cpu")
            self._rests = True


class Cast:
    """Every role's actor; roles that share another's weights have the other's.

    Args:
        run: the run.
        configs: per role its parsed `config.json`.
        num_layers: build only that many layers of each model, or None.
        every_layer: build all layers even where a few, repeated, do the same.
        lora_dropout: of the adapters.
        logits_code: how the trained model gets to its loss.
        checkpoints: per role the checkpoint that it is loaded from; the others are skeletons that get memory later.
    """

    def __init__(
        self,
        run: Run,
        configs: Mapping[str, Mapping[str, Any]],
        *,
        num_layers: int | None,
        every_layer: bool,
        lora_dropout: float,
        logits_code: LogitsCode,
        checkpoints: Mapping[str, str] | None = None,
    ) -> None:
        self.actors: dict[str, Actor] = {}
        for role in run.roles:
            if role.shares is None:
                number, folder = len(self.actors), (checkpoints or {}).get(role.name)
                if folder is not None:
                    self.actors[role.name] = CheckpointActor(run, role, folder, lora_dropout=lora_dropout)
                    continue
                self.actors[role.name] = _actor(
                    run,
                    role,
                    configs[role.name],
                    number,
                    num_layers=num_layers,
                    every_layer=every_layer,
                    lora_dropout=lora_dropout,
                )
        if run.training is not None and self.actors[run.trained.name].model is not None:
            logits_code.put_into(self.actors[run.trained.name].model)
        self._shared = {role.name: role.shares for role in run.roles if role.shares is not None}

    def __getitem__(self, name: str) -> Actor:
        return self.actors[self._shared.get(name, name)]

    def get(self, name: str) -> Actor | None:
        """The role's actor, or None where the run has no such role."""
        return self.actors.get(self._shared.get(name, name))

    @property
    def num_units(self) -> list[int]:
        """Per model how many units of layers it has, 0 where all layers are built."""
        return [0 if actor.pattern is None else actor.pattern.num_units for actor in self.actors.values()]


def _actor(
    run: Run,
    role: Role,
    config: Mapping[str, Any],
    number: int,
    *,
    num_layers: int | None,
    every_layer: bool,
    lora_dropout: float,
) -> Actor:
    built = build_config(config, num_layers=num_layers)
    pattern = None if every_layer else find_pattern(built)
    if pattern is not None:
        built = build_config(config, num_layers=num_layers, num_kept=pattern.num_traced_layers)
    model = build_skeleton(built, role.load, run.attn_implementation.value)
    model = prepared(run, role, model, lora_dropout=lora_dropout)
    units = Units(number)
    if pattern is not None:
        units = Units(number, pattern.unit_of_layer, num_left_out=pattern.num_units - NUM_TRACED_UNITS)
    return Actor(role, model, pattern, units)


def prepared(run: Run, role: Role, model: Any, *, lora_dropout: float) -> Any:
    """A model as its role needs it: adapters, checkpointing and train mode for the trained one, others frozen."""
    training = run.training
    trained = role is run.trained and training is not None
    if trained and training is not None:
        if training.tuning is Tuning.LORA and training.lora is not None:
            model = add_adapters(model, training.lora, lora_dropout=lora_dropout)
        if training.gradient_checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": training.reentrant_checkpointing})
        model.train()
    elif _is_frozen(run, role):
        for parameter in model.parameters():
            parameter.requires_grad_(requires_grad=False)
    return model


def _is_frozen(run: Run, role: Role) -> bool:
    """TRL's reference and RLT's student are loaded and never frozen; RLT deep-copies and freezes its reference."""
    if run.training is None:
        return True
    return run.method is Method.RLT and role.name == "reference"

"""A card's constants from records: medians, each judged on the records that it was not fitted to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from vramplan.core.device import CUBLAS_WORKSPACE_BYTES, LARGE_CUBLAS_WORKSPACE_BYTES, Gpu
from vramplan.records.calibration import Observation
from vramplan.units import MiB

MIN_RECORDS = 6
"""Fewest for a median: the smallest number whose lowest and highest hold the true median with 95 in 100, whatever the
distribution (1 - 2 / 2**6 = 96.9 %; five give 93.8 %). Two of six may be wild, and the median is still between good
ones."""

MIN_BAND_RECORDS = 39
"""Fewest for a band: the lowest and highest of n errors hold the next one with (n - 1) / (n + 1) in 1, which is the
95 % that `vramplan accuracy` asks for from 39 on."""

_OUTSIDE = 0.05  # share of runs that a band may miss, half at each end

MAX_BAND = 0.25
"""Widest half of a band that is taken: records farther off say that estimates are wrong for these runs, and no band
mends that."""

_WORKSPACES = (CUBLAS_WORKSPACE_BYTES, LARGE_CUBLAS_WORKSPACE_BYTES)  # the two defaults that torch has

_FAR = 10  # median absolute deviations: a record this far off is named
_NEAR_BYTES = 32 * MiB  # but not below this: the driver pads the context by so much from boot to boot


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What estimates take of a card now.

    Args:
        context_bytes: the CUDA context, and libraries beside torch's segments.
        cublas_workspace_bytes: of each handle.
        training_band, inference_band: how far measurements may lie below and above, as ratios.
    """

    context_bytes: int
    cublas_workspace_bytes: int
    training_band: tuple[float, float]
    inference_band: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Errors of held-out records: half are smaller than the median."""

    median: float
    worst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BandFit:
    """A band.

    Args:
        num_records: that an estimate could be held against, those far off left out.
        before: what is taken now.
        found: what the records show, None where they are too few.
    """

    num_records: int
    before: tuple[float, float]
    found: tuple[float, float] | None

    @property
    def fitted(self) -> tuple[float, float] | None:
        """What is to be taken: what was found, unless it is wider than any band should be."""
        return None if self.found is None or max(self.found) > MAX_BAND else self.found


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What the records of one card and driver say.

    Args:
        gpu: the card's name as the driver has it.
        driver: its version.
        num_records: how many.
        before: what estimates take now.
        context_bytes: fitted; None where the records are too few.
        bare_context_bytes: of it, the context without libraries; None where no record has it.
        deviation_bytes: half of the records lie nearer to it.
        cublas_workspace_bytes: fitted, or what is taken now.
        training, inference: the bands.
        above_before, above_after: errors of what lies above reserved, in bytes, on held-out records.
        device_before, device_after: errors of the device peak, as ratios, on held-out records; None without estimates.
        far_off: ids of records that lie far from the fit.
        newest: when the newest of the records was made.
    """

    gpu: str
    driver: str
    num_records: int
    before: Constants
    context_bytes: int | None
    bare_context_bytes: int | None
    deviation_bytes: int | None
    cublas_workspace_bytes: int
    training: BandFit
    inference: BandFit
    above_before: Errors
    above_after: Errors | None
    device_before: Errors | None
    device_after: Errors | None
    far_off: tuple[str, ...]
    newest: str

    @property
    def is_enough(self) -> bool:
        """Whether there were records enough for a fit."""
        return self.context_bytes is not None

    @property
    def is_better(self) -> bool:
        """Whether held-out records are nearer to it than to what is taken now, or it has a band of its own."""
        if self.above_after is None:
            return False
        banded = self.training.fitted is not None or self.inference.fitted is not None
        nearer = self.above_after.median < self.above_before.median
        return nearer or banded or self.cublas_workspace_bytes != self.before.cublas_workspace_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFit:
    """The fit of a card under one driver.

    Args:
        found: what the records say.
        name: of the card's profile.
        profile: what is to be written, or None where nothing is.
        reason: why nothing is, or None.
    """

    found: Fit
    name: str
    profile: Gpu | None
    reason: str | None


def fit(observations: Sequence[Observation], before: Constants) -> Fit:
    """Fit one card under one driver.

    Args:
        observations: at least one, all of one card and driver.
        before: what estimates take now.
    """
    above = [one.above_reserved_bytes for one in observations]
    enough = len(observations) >= MIN_RECORDS
    context = round(statistics.median(above)) if enough else None
    deviation = None if context is None else round(statistics.median(abs(one - context) for one in above))
    bare = [one.bare_context_bytes for one in observations if one.bare_context_bytes is not None]
    far_off = {
        one.id
        for one in observations
        if context is not None
        and deviation is not None
        and abs(one.above_reserved_bytes - context) > max(_FAR * deviation, _NEAR_BYTES)
    }
    held_out = _held_out(observations, before) if enough else []
    near = [held for held in held_out if held.id not in far_off]
    predicted = [one for one in observations if one.predicted is not None]
    return Fit(
        gpu=observations[0].gpu,
        driver=observations[0].driver,
        num_records=len(observations),
        before=before,
        context_bytes=context,
        bare_context_bytes=round(statistics.median(bare)) if bare and enough else None,
        deviation_bytes=deviation,
        cublas_workspace_bytes=_workspace(observations, before) if enough else before.cublas_workspace_bytes,
        training=_band(near, before.training_band, is_training=True),
        inference=_band(near, before.inference_band, is_training=False),
        above_before=_errors([one - before.context_bytes for one in above]),
        above_after=_errors([held.above_error_bytes for held in held_out]) if enough else None,
        device_before=_errors([_device(one, before, before) / one.device_bytes - 1 for one in predicted])
        if predicted
        else None,
        device_after=_errors([held.error_ratio for held in held_out if held.error_ratio is not None])
        if any(held.error_ratio is not None for held in held_out)
        else None,
        far_off=tuple(one.id for one in observations if one.id in far_off),
        newest=max(one.when for one in observations),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _HeldOut:
    """A record, predicted with what the others of its card say."""

    id: str
    is_training: bool
    above_error_bytes: int
    error_ratio: float | None  # of the device peak, None without an estimate


def _held_out(observations: Sequence[Observation], before: Constants) -> list[_HeldOut]:
    found = []
    for index, one in enumerate(observations):
        others = [*observations[:index], *observations[index + 1 :]]
        constants = Constants(
            context_bytes=round(statistics.median(other.above_reserved_bytes for other in others)),
            cublas_workspace_bytes=_workspace(others, before),
            training_band=before.training_band,
            inference_band=before.inference_band,
        )
        ratio = None if one.predicted is None else _device(one, constants, before) / one.device_bytes - 1
        found.append(
            _HeldOut(
                id=one.id,
                is_training=one.is_training,
                above_error_bytes=constants.context_bytes - one.above_reserved_bytes,
                error_ratio=ratio,
            )
        )
    return found


def _device(one: Observation, constants: Constants, before: Constants) -> int:
    """The device peak that an estimate gives with these constants."""
    if one.predicted is None:
        raise ValueError(f"{one.id} has no estimate")
    workspaces = one.predicted.num_workspaces * (constants.cublas_workspace_bytes - before.cublas_workspace_bytes)
    return one.predicted.reserved_bytes + workspaces + constants.context_bytes


def _workspace(observations: Sequence[Observation], before: Constants) -> int:
    """The default of torch's whose estimates of allocated bytes are nearest, where another is twice as near as now.

    The difference of the two, 24 MiB a handle, is small beside what else an estimate may be off by, so it takes that
    much to change it.
    """
    known = [(one, one.predicted) for one in observations if one.predicted is not None and one.predicted.num_workspaces]
    if len(known) < MIN_RECORDS - 1:
        return before.cublas_workspace_bytes

    def off(workspace_bytes: int) -> float:
        change = workspace_bytes - before.cublas_workspace_bytes
        return statistics.median(
            abs(predicted.allocated_bytes + predicted.num_workspaces * change - one.allocated_bytes)
            for one, predicted in known
        )

    best = min(_WORKSPACES, key=off)
    return best if 2 * off(best) < off(before.cublas_workspace_bytes) else before.cublas_workspace_bytes


def _band(held_out: Sequence[_HeldOut], before: tuple[float, float], *, is_training: bool) -> BandFit:
    """The quantiles of measured / predicted that hold 95 in 100 of the next, rounded outwards to a tenth of a per cent.

    The k-th lowest and the k-th highest of n hold it with 1 - 2 k / (n + 1), whatever the distribution.
    """
    errors = [one.error_ratio for one in held_out if one.is_training == is_training and one.error_ratio is not None]
    if len(errors) < MIN_BAND_RECORDS:
        return BandFit(num_records=len(errors), before=before, found=None)
    ratios = sorted(1 / (1 + error) for error in errors)
    place = int((len(ratios) + 1) * _OUTSIDE / 2)
    low, high = ratios[place - 1], ratios[-place]
    below, above = (max(0.0, math.ceil(ratio * 1000) / 1000) for ratio in (1 - low, high - 1))
    return BandFit(num_records=len(errors), before=before, found=(below, above))


def _errors(errors: Sequence[float]) -> Errors:
    sizes = [abs(error) for error in errors]
    return Errors(median=statistics.median(sizes), worst=max(sizes))

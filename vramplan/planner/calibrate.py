"""From a fit to the profile of a card: which card it is, what is taken of it now, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from vramplan.catalog.dirs import ProfileDirs
from vramplan.catalog.gpus import find_gpu, read_gpu
from vramplan.core.device import (
    MODELLED_CONTEXT_SOURCE,
    Gpu,
    default_cublas_workspace_bytes,
    modelled_context_bytes,
)
from vramplan.errors import UsageError
from vramplan.formula.band import INFERENCE, TRAINING
from vramplan.records.calibration import Observation
from vramplan.records.fit import CardFit, Constants, Fit, fit
from vramplan.records.record import RecordGpu
from vramplan.records.store import folder_name
from vramplan.units import MiB


def card_of(gpu: RecordGpu, dirs: ProfileDirs) -> Gpu | None:
    """The card's profile, one made of what the record says where there is none, or None where it says too little."""
    try:
        return read_gpu(find_gpu(gpu.profile or gpu.name, dirs).path)
    except UsageError:
        pass
    try:
        return read_gpu(find_gpu(gpu.name, dirs).path)
    except UsageError:
        return _made_of(gpu)


def _made_of(gpu: RecordGpu) -> Gpu | None:
    total, processors, capability = gpu.total_bytes, gpu.num_multiprocessors, gpu.compute_capability
    if total is None or processors is None or capability is None:
        return None
    major, _, minor = capability.partition(".")
    chip = (int(major), int(minor))
    context = modelled_context_bytes(chip, processors) or gpu.context_bytes
    if context is None:
        return None
    source = f"a vramplan record on {gpu.name}"
    return Gpu(
        name=folder_name(gpu.name),
        label=gpu.name,
        total_bytes=total,
        total_source=source,
        torch_total_bytes=gpu.torch_total_bytes,
        torch_total_source=None if gpu.torch_total_bytes is None else source,
        compute_capability=chip,
        num_multiprocessors=processors,
        chip_source=source,
        context_bytes=context,
        context_basis="modelled",
        context_source=MODELLED_CONTEXT_SOURCE,
        cublas_workspace_bytes=default_cublas_workspace_bytes(chip),
    )


def constants_of(gpu: Gpu) -> Constants:
    """What estimates take of a card."""
    return Constants(
        context_bytes=gpu.context_bytes,
        cublas_workspace_bytes=gpu.cublas_workspace_bytes,
        training_band=gpu.training_band or TRAINING,
        inference_band=gpu.inference_band or INFERENCE,
    )


def fit_cards(observations: Iterable[Observation], cards: Mapping[str, Gpu]) -> tuple[CardFit, ...]:
    """Fit every card under each of its drivers; the newest driver with a fit decides the profile.

    Args:
        observations: in any order.
        cards: the profile of each card by the driver's name for it.
    """
    groups: dict[tuple[str, str], list[Observation]] = {}
    for one in sorted(observations, key=lambda item: item.id):  # the answer does not depend on the files' order
        groups.setdefault((one.gpu, one.driver), []).append(one)
    fits = [fit(groups[key], constants_of(cards[key[0]])) for key in sorted(groups, key=_by_card_and_driver)]
    return tuple(_card_fit(one, fits, cards[one.gpu]) for one in fits)


def _card_fit(one: Fit, fits: Sequence[Fit], card: Gpu) -> CardFit:
    newer = [
        other.driver
        for other in fits
        if other.gpu == one.gpu and other.is_enough and _version(other.driver) > _version(one.driver)
    ]
    reason = None
    if not one.is_enough:
        reason = "too few records"
    elif newer:
        reason = f"driver {newer[-1]} is newer, and a profile holds one"
    elif not one.is_better:
        reason = "held-out records are as near to what is taken now"
    return CardFit(found=one, name=card.name, profile=None if reason else _fitted(one, card), reason=reason)


def _fitted(one: Fit, card: Gpu) -> Gpu:
    if one.context_bytes is None:
        raise ValueError(f"there is no fit for {one.gpu}")
    parts = ""
    if one.bare_context_bytes is not None:
        libraries = one.context_bytes - one.bare_context_bytes
        parts = f", {one.bare_context_bytes // MiB} MiB of it the bare context and {libraries // MiB} MiB libraries"
    source = (
        f"vramplan calibrate: the median of {one.num_records} records, driver {one.driver}, "
        f"the newest of {one.newest}{parts}"
    )
    training = one.training.fitted or card.training_band
    inference = one.inference.fitted or card.inference_band
    return replace(
        card,
        context_bytes=one.context_bytes,
        context_basis="measured",
        context_source=source,
        cublas_workspace_bytes=one.cublas_workspace_bytes,
        training_band=training,
        inference_band=inference,
        band_source=None if training is None and inference is None else _band_source(one, card),
    )


def _band_source(one: Fit, card: Gpu) -> str:
    fitted = [
        f"{kind}: {band.num_records}"
        for kind, band in (("training", one.training), ("inference", one.inference))
        if band.fitted is not None
    ]
    if not fitted and card.band_source is not None:
        return card.band_source
    return (
        f"vramplan calibrate: lowest and highest of measured / predicted, each record held out ({', '.join(fitted)} "
        f"records), driver {one.driver}"
    )


def _by_card_and_driver(key: tuple[str, str]) -> tuple[str, tuple[int, ...], str]:
    return key[0], _version(key[1]), key[1]


def _version(driver: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in driver.split("."))

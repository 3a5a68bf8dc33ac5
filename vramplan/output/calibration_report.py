"""`vramplan calibrate` as text and JSON (`vramplan.calibration/1`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vramplan.output.explain import wrapped
from vramplan.records.fit import MIN_BAND_RECORDS, MIN_RECORDS, BandFit, CardFit, Errors, Fit
from vramplan.units import MB, MiB

SCHEMA = "vramplan.calibration/1"
_MOST_IDS = 6


def calibration_to_dict(fits: Sequence[CardFit], *, written: Sequence[str], dry_run: bool) -> dict[str, Any]:
    """Plain values; the keys never depend on the records."""
    return {
        "schema": SCHEMA,
        "dry_run": dry_run,
        "min_records": MIN_RECORDS,
        "min_band_records": MIN_BAND_RECORDS,
        "cards": [_card(one) for one in fits],
        "written": list(written),
    }


def render_calibration(fits: Sequence[CardFit], *, units: str = "GB", width: int = 80, dry_run: bool = False) -> str:
    """A paragraph for each card and driver: what is taken now, what was fitted, and how near each is."""
    lines: list[str] = []
    if not fits:
        lines = wrapped(f"There are no records to fit; {MIN_RECORDS} of one GPU and driver are needed.", width)
    for one in fits:
        lines += (
            ["", *_paragraph(one, units, width, dry_run=dry_run)]
            if lines
            else _paragraph(one, units, width, dry_run=dry_run)
        )
    if fits and not any(one.found.is_enough for one in fits):
        lines += ["", *wrapped(f"Nothing was changed: a fit needs {MIN_RECORDS} records of one GPU and driver.", width)]
    return "\n".join(lines) + "\n"


def _paragraph(one: CardFit, units: str, width: int, *, dry_run: bool) -> list[str]:
    found, before = one.found, one.found.before
    plural = "" if found.num_records == 1 else "s"
    lines = wrapped(f"{found.gpu}, driver {found.driver}: {found.num_records} record{plural}", width, hanging=2)

    def say(text: str) -> None:
        lines.extend(wrapped(text, width, indent=2, hanging=4))

    if found.context_bytes is None:
        say(f"too few: {MIN_RECORDS} are needed; estimates go on with {_bytes(before.context_bytes, units)} of context")
        return lines
    change = f"{_bytes(before.context_bytes, units)} now, {_bytes(found.context_bytes, units)} fitted"
    parts = (
        "" if found.deviation_bytes is None else f"half of the records within {_bytes(found.deviation_bytes, units)}"
    )
    if found.bare_context_bytes is not None:
        libraries = _bytes(found.context_bytes - found.bare_context_bytes, units)
        parts += f"; {_bytes(found.bare_context_bytes, units)} are the bare context, {libraries} libraries"
    say(f"device above reserved: {change} ({parts})")
    workspace, fitted = before.cublas_workspace_bytes, found.cublas_workspace_bytes
    same = "as now" if workspace == fitted else f"{_bytes(workspace, units)} now"
    say(f"cuBLAS workspace of a handle: {_bytes(fitted, units)}, {same}")
    for kind, band in (("training", found.training), ("inference", found.inference)):
        say(f"band, {kind}: {_band_words(band)}")
    say("on records held out, median and worst error:")
    above = [_error_bytes(errors, units) for errors in (found.above_before, found.above_after)]
    lines.extend(wrapped(f"above reserved: {above[0]} now, {above[1]} fitted", width, indent=4, hanging=6))
    if found.device_before is not None and found.device_after is not None:
        now, then = (
            f"{errors.median:.2%} and {errors.worst:.2%}" for errors in (found.device_before, found.device_after)
        )
        lines.extend(wrapped(f"device peak: {now} now, {then} fitted", width, indent=4, hanging=6))
    if found.far_off:
        ids = ", ".join(found.far_off[:_MOST_IDS])
        more = "" if len(found.far_off) <= _MOST_IDS else f" and {len(found.far_off) - _MOST_IDS} more"
        say(f"far from the fit: {ids}{more}")
    if one.profile is None:
        say(f"not written: {one.reason}")
    else:
        say(f"profile {one.name}: {'would be written' if dry_run else 'written'}")
    return lines


def _band_words(band: BandFit) -> str:
    before = f"-{band.before[0]:.1%} to +{band.before[1]:.1%}"
    if band.found is not None and band.fitted is None:
        found = f"-{band.found[0]:.1%} to +{band.found[1]:.1%}"
        return f"{before}, as now: {band.num_records} records lie within {found}, so estimates are wrong for these runs"
    if band.fitted is None:
        return f"{before}, as now: {band.num_records} of the {MIN_BAND_RECORDS} records that a fit needs"
    return f"{before} now, -{band.fitted[0]:.1%} to +{band.fitted[1]:.1%} fitted to {band.num_records} records"


def _bytes(num_bytes: int, units: str) -> str:
    """Small beside a card: MB where tables have GB, MiB where they have GiB."""
    if units == "bytes":
        return f"{num_bytes:,} bytes"
    return f"{num_bytes / MB:.1f} MB" if units == "GB" else f"{num_bytes / MiB:.1f} MiB"


def _error_bytes(errors: Errors | None, units: str) -> str:
    if errors is None:
        return "unknown"
    return f"{_bytes(round(errors.median), units)} and {_bytes(round(errors.worst), units)}"


def _card(one: CardFit) -> dict[str, Any]:
    found: Fit = one.found
    bare, context = found.bare_context_bytes, found.context_bytes
    return {
        "gpu": found.gpu,
        "driver": found.driver,
        "profile": one.name,
        "num_records": found.num_records,
        "is_enough": found.is_enough,
        "is_better": found.is_better,
        "reason": one.reason,
        "context": {
            "before_bytes": found.before.context_bytes,
            "fitted_bytes": context,
            "bare_bytes": bare,
            "libraries_bytes": None if bare is None or context is None else context - bare,
            "deviation_bytes": found.deviation_bytes,
        },
        "cublas_workspace": {
            "before_bytes": found.before.cublas_workspace_bytes,
            "fitted_bytes": found.cublas_workspace_bytes,
        },
        "bands": {"training": _band(found.training), "inference": _band(found.inference)},
        "held_out": {
            "above_reserved_bytes": {"before": _errors(found.above_before), "fitted": _errors(found.above_after)},
            "device_ratio": {"before": _errors(found.device_before), "fitted": _errors(found.device_after)},
        },
        "far_off": list(found.far_off),
        "newest": found.newest,
    }


def _band(band: BandFit) -> dict[str, Any]:
    return {
        "num_records": band.num_records,
        "before": list(band.before),
        "found": None if band.found is None else list(band.found),
        "fitted": None if band.fitted is None else list(band.fitted),
    }


def _errors(errors: Errors | None) -> dict[str, float] | None:
    return None if errors is None else {"median": errors.median, "worst": errors.worst}

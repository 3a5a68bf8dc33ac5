"""The curve as a picture, for papers and issues; drawn by matplotlib (extra `[plots]`)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from vramplan.errors import UsageError
from vramplan.output.log_report_chart import time_unit
from vramplan.output.log_report_html import INSTALL_HINT
from vramplan.output.log_report_series import Series
from vramplan.units import GB, GiB

_COLOURS = ("#2f6fde", "#d9731a", "#27935c", "#b5478d", "#7d60c9", "#1792a6", "#a17a00", "#c94545")


def render_png(document: Mapping[str, Any], series: Sequence[Series], *, units: str = "GB") -> bytes:
    """A PNG of 1600 × 800 points with each curve, the predicted peak, its band and the capacity.

    Raises:
        UsageError: matplotlib is not installed, or there is no curve.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--png needs the matplotlib package", hint=INSTALL_HINT) from None
    curves = [one for one in series if one.used]
    if not curves:
        raise UsageError("there is no curve to draw: no log says how much memory was used")
    divisor = {"GB": GB, "GiB": GiB, "bytes": 1}[units]
    has_times = all(one.has_times for one in curves)
    longest = max(one.seconds[-1] for one in curves)
    x_divisor, x_title = (1.0, "samples") if not has_times else time_unit(longest)
    figure = Figure(figsize=(10, 5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for at, one in enumerate(curves):
        axes.step(
            [second / x_divisor for second in one.seconds],
            [float("nan") if value is None else value / divisor for value in one.used],
            where="post",
            linewidth=1.4,
            color=_COLOURS[at % len(_COLOURS)],
            label=_plain(one.name),
        )
    top = max(value for one in curves for value in one.used if value is not None)
    top = max(top, _draw_lines(axes, document, divisor, units, top))
    axes.set_ylim(0, top * 1.07 / divisor or 1)
    axes.set_xlim(min(one.seconds[0] for one in curves) / x_divisor, longest / x_divisor or 1)
    axes.set_xlabel(x_title)
    axes.set_ylabel(f"used, {units}")
    axes.grid(visible=True, color="#e6e9ed", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=4, frameon=False, fontsize=9)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": "vramplan"})
    return out.getvalue()


def _plain(text: str) -> str:
    """A dollar sign would start mathematics, and a leading underscore would hide the curve from the legend."""
    return text.replace("$", r"\$").lstrip("_") or "log"


def _draw_lines(axes: Any, document: Mapping[str, Any], divisor: int, units: str, top: int) -> int:
    """Draw predicted peaks and, where they do not flatten the curve, capacities; the highest of them in bytes."""
    highest = 0
    drawn: set[tuple[str, int]] = set()
    for gpu in document["gpus"]:
        predicted, capacity = gpu["predicted"], gpu["capacity_bytes"]
        peak = predicted["peak_bytes"]
        if peak is not None and ("predicted", peak) not in drawn:
            drawn.add(("predicted", peak))
            axes.axhline(
                peak / divisor, color="#b4540a", linestyle="--", label=f"predicted {peak / divisor:,.2f} {units}"
            )
            highest = max(highest, peak)
            if predicted["low_bytes"] is not None and predicted["high_bytes"] is not None:
                low, high = predicted["low_bytes"] / divisor, predicted["high_bytes"] / divisor
                axes.axhspan(low, high, color="#b4540a", alpha=0.12, linewidth=0)
                highest = max(highest, predicted["high_bytes"])
        if capacity is not None and ("capacity", capacity) not in drawn and max(top, highest) > 0.35 * capacity:
            drawn.add(("capacity", capacity))
            axes.axhline(
                capacity / divisor, color="#b42318", linestyle=":", label=f"capacity {capacity / divisor:,.2f} {units}"
            )
            highest = max(highest, capacity)
    return highest

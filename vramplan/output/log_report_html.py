"""One self-contained page: the curve with the predicted peak, its band and the capacity, and the plan beside it.

It asks no network for anything: plotly.js is embedded (from the plotly package, extra `[plots]`). The same page shows
a plan without a log. Text is escaped; numbers come from the document that `--json` prints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vramplan.errors import UsageError
from vramplan.output.log_report import log_report_document
from vramplan.output.log_report_chart import chart_data, component_names, shaded_gpu
from vramplan.output.log_report_page import SCRIPT, STYLE
from vramplan.output.log_report_series import MOST_POINTS, Series
from vramplan.output.log_report_text import (
    COLUMNS,
    duration_text,
    gpu_name,
    phase_lines,
    remarks,
    short_name,
    table_rows,
)
from vramplan.units import format_bytes

INSTALL_HINT = "pip install 'vramplan[plots]'"


def plotly_script() -> str:
    """The charting library's source.

    Raises:
        UsageError: the plotly package is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UsageError("--html needs the plotly package", hint=INSTALL_HINT) from None
    return str(get_plotlyjs())


def render_plan_html(name: str, report: Mapping[str, Any], *, units: str = "GB") -> str:
    """The page of a plan without a log, for `vramplan estimate|simulate|measure --html`.

    Args:
        name: what the page calls the plan.
        report: a `vramplan.report/1` document.
        units: GB, GiB or bytes.
    """
    return render_html(log_report_document([], [(name, report)]), [], units=units)


def render_html(document: Mapping[str, Any], series: Sequence[Series], *, units: str = "GB") -> str:
    """The page of a `vramplan.log-report/1` document.

    Raises:
        UsageError: the plotly package is not installed.
    """
    library = plotly_script()
    title = "GPU memory over time" if document["gpus"] else "GPU memory plan"
    has_curves, has_plans = any(one.used for one in series), any(plan["phases"] for plan in document["plans"])
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
            f"<h1>{escape(title)}</h1>\n<p class=soft>{escape(_subtitle(document))}</p>\n",
            _tiles(document, units),
            _charts(has_curves, has_plans, document, series),
            _gpu_table(document, units),
            *(_plan_table(plan, units) for plan in document["plans"]),
            _list("Phases found in the curve", phase_lines(document, units, most=20)),
            _list("Notes", remarks(document, units)),
            "</main>\n",
            f'<script type="application/json" id="data">{_json(chart_data(document, series, units))}</script>\n',
            f"<script>{library}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        ]
    )


def _json(value: object) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _subtitle(document: Mapping[str, Any]) -> str:
    names = [short_name(log["source"]) for log in document["logs"]]
    names += [f"{short_name(plan['source'])} ({plan['how'] or 'plan'})" for plan in document["plans"]]
    starts = [gpu["start_time"] for gpu in document["gpus"] if gpu["start_time"]]
    since = f" · from {min(starts).replace('T', ' ').replace('Z', ' UTC')}" if starts else ""
    return " · ".join(names) + since


def _tile(label: str, value: str, unit: str, detail: str) -> str:
    return (
        f"<div class=tile><span>{escape(label)}</span><b>{escape(value)}<small>{escape(unit)}</small></b>"
        f"<span>{escape(detail)}</span></div>\n"
    )


def _tiles(document: Mapping[str, Any], units: str) -> str:
    tiles = []
    known = [gpu for gpu in document["gpus"] if gpu["peak_used_bytes"] is not None]
    if known:
        gpu = max(known, key=lambda one: one["peak_used_bytes"])
        at = "" if gpu["peak_seconds"] is None else f", {duration_text(gpu['peak_seconds'])} in"
        tiles.append(_tile("Highest use", _text(gpu["peak_used_bytes"], units), units, gpu_name(document, gpu) + at))
        if gpu["margin_bytes"] is not None:
            left = f"of {_text(gpu['capacity_bytes'], units)} {units}"
            tiles.append(_tile("Left at the peak", _text(gpu["margin_bytes"], units), units, left))
        if gpu["mean_used_bytes"] is not None:
            p95 = f"95 % of samples ≤ {_text(gpu['p95_used_bytes'], units)} {units}"
            tiles.append(_tile("Mean use", _text(gpu["mean_used_bytes"], units), units, p95))
        error = gpu["predicted"]["error_ratio"]
        if error is not None:
            side = "above" if error >= 0 else "below"
            tiles.append(
                _tile(
                    "Predicted peak",
                    _text(gpu["predicted"]["peak_bytes"], units),
                    units,
                    f"{abs(error):.1%} {side} what was measured",
                )
            )
        every = gpu["interval_seconds"]
        gaps = {0: "no gaps", 1: "1 gap"}.get(gpu["num_gaps"], f"{gpu['num_gaps']} gaps")
        pace = gaps if every is None else f"one every {every:g} s, {gaps}"
        tiles.append(_tile("Samples", f"{gpu['num_samples']:,}", "", pace))
    else:
        for plan in document["plans"]:
            peak = plan["peak"]
            if peak["device_used_bytes"] is not None:
                low, high = peak["low_bytes"], peak["high_bytes"]
                band = "" if low is None else f", {_text(low, units)} to {_text(high, units)}"
                tiles.append(
                    _tile(
                        "Peak on the device", _text(peak["device_used_bytes"], units), units, f"{peak['phase']}{band}"
                    )
                )
            if peak["device_used_bytes"] is not None and plan["budget_bytes"] is not None:
                left = plan["budget_bytes"] - peak["device_used_bytes"]
                label = "Left in the budget" if left >= 0 else "Above the budget"
                tiles.append(_tile(label, _text(abs(left), units), units, f"of {_text(plan['budget_bytes'], units)}"))
    return f"<div class=tiles>\n{''.join(tiles)}</div>\n" if tiles else ""


def _text(num_bytes: int | None, units: str) -> str:
    return "–" if num_bytes is None else format_bytes(num_bytes, units)


def _charts(has_curves: bool, has_plans: bool, document: Mapping[str, Any], series: Sequence[Series]) -> str:
    cards = []
    if has_curves:
        note = []
        shaded = shaded_gpu(document)
        if shaded is not None and len(document["gpus"]) > 1:
            note.append(f"shaded: the phases of {gpu_name(document, shaded)}")
        if any(one.is_thinned for one in series):
            note.append(f"long logs are drawn with {MOST_POINTS:,} points that keep every peak")
        hint = "<span class=screen>drag to zoom, double-click to go back. </span>"
        caption = f"<p class=soft>{hint}{escape('; '.join(note))}</p>"
        cards.append(
            "<div class=card><div class=head><h2>Used memory</h2><button id=whole type=button></button></div>"
            f'<div id="curve" class="chart"></div>{caption}</div>\n'
        )
    if has_plans:
        cards.append('<div class=card><h2>The plan, phase by phase</h2><div id="bars" class="chart"></div></div>\n')
    layout = "charts two" if len(cards) == 2 else "charts"
    return f'<div class="{layout}">\n{"".join(cards)}</div>\n' if cards else ""


def _gpu_table(document: Mapping[str, Any], units: str) -> str:
    if not document["gpus"]:
        return ""
    heads = "".join(f"<th{' class=left' if at < 2 else ''}>{escape(name)}</th>" for at, name in enumerate(COLUMNS))
    rows = []
    for cells, gpu in zip(table_rows(document, units), document["gpus"], strict=True):
        cells = [short_name(gpu["log"]), *cells[1:]]
        if gpu["name"]:
            cells[1] += f" · {gpu['name']}"
        rows.append(
            "<tr>"
            + "".join(f"<td{' class=left' if at < 2 else ''}>{escape(cell)}</td>" for at, cell in enumerate(cells))
            + "</tr>\n"
        )
    return (
        f"<div class=card><h2>By GPU, in {escape(units)}</h2><div class=scroll><table><tr>{heads}</tr>\n"
        f"{''.join(rows)}</table></div></div>\n"
    )


def _plan_table(plan: Mapping[str, Any], units: str) -> str:
    """Components by phase, with totals: the numbers of the bars."""
    phases = plan["phases"]
    if not phases:
        return ""
    heads = "".join(f"<th>{escape(str(phase['name']))}</th>" for phase in phases)
    rows = []
    for name in component_names(plan):
        sizes = [phase["components"].get(name, 0) for phase in phases]
        cells = "".join(f"<td>{_text(size, units) if size else '0'}</td>" for size in sizes)
        rows.append(f"<tr><td class=left>{escape(name.replace('_', ' '))}</td>{cells}</tr>\n")
    totals = "".join(f"<td><b>{_text(sum(phase['components'].values()), units)}</b></td>" for phase in phases)
    title = f"{short_name(plan['source'])}, in {units}"
    return (
        f"<div class=card><h2>{escape(title)}</h2><div class=scroll><table><tr><th class=left>part</th>{heads}</tr>\n"
        f"{''.join(rows)}<tr><td class=left><b>in all</b></td>{totals}</tr>\n</table></div></div>\n"
    )


def _list(heading: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>\n" for line in lines)
    return f"<div class=card><h2>{escape(heading)}</h2><ul>\n{items}</ul></div>\n"

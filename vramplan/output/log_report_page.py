"""The page's own style and script; the charting library (plotly.js) comes from the plotly package.

Nothing here is loaded from anywhere, and no text of a log reaches the page except as text.
"""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1c2430; --soft: #5c6877; --line: #dfe4ea; --grid: #e9edf1;
  --accent: #1f6feb; --warn: #b4540a; --shade: rgba(31, 111, 235, .07); --band: rgba(180, 84, 10, .12);
  --capacity: #b42318;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f141a; --card: #171e27; --ink: #e6ebf1; --soft: #9aa7b6; --line: #2a3441; --grid: #232d39;
    --accent: #6ea8fe; --warn: #f0a35e; --shade: rgba(110, 168, 254, .10); --band: rgba(240, 163, 94, .16);
    --capacity: #ff7b72;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 24px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 2px; letter-spacing: -.01em; }
h2 { font-size: 15px; margin: 0 0 10px; }
p { margin: 0; }
.soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(185px, 1fr)); gap: 12px; margin: 20px 0 16px; }
.tile { max-width: 360px; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 16px 13px; }
.tile b { display: block; font-size: 25px; font-weight: 620; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile b small { font-size: 14px; font-weight: 500; color: var(--soft); margin-left: 3px; }
.tile span { font-size: 13px; color: var(--soft); }
.card { padding: 16px 18px; margin-bottom: 16px; }
.charts { display: grid; gap: 16px; grid-template-columns: minmax(0, 1fr); }
.charts.two { grid-template-columns: minmax(0, 2.1fr) minmax(0, 1fr); }
.charts .card { margin: 0 0 16px; }
@media (max-width: 900px) { .charts.two { grid-template-columns: minmax(0, 1fr); } }
.head { display: flex; justify-content: space-between; align-items: baseline; gap: 12px; flex-wrap: wrap; }
.chart { width: 100%; height: 440px; }
button { font: inherit; font-size: 13px; color: var(--ink); background: transparent; border: 1px solid var(--line);
  border-radius: 7px; padding: 3px 10px; cursor: pointer; }
button:hover, button:focus-visible { border-color: var(--accent); color: var(--accent); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px 6px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 550; font-size: 13px; color: var(--soft); }
th.left, td.left { text-align: left; }
tr:last-child td { border-bottom: 0; }
ul { margin: 0; padding-left: 18px; } li { margin: 3px 0; overflow-wrap: anywhere; }
.leak { color: var(--warn); }
@media print {
  :root { --page: #fff; --card: #fff; --ink: #111; --soft: #555; --line: #ccc; --grid: #e5e5e5;
    --accent: #1f6feb; --warn: #b4540a; --shade: rgba(31,111,235,.07); --band: rgba(180,84,10,.12);
    --capacity: #b42318; }
  main { padding: 0; max-width: none; } button, .screen { display: none; }
  .card, .tile { break-inside: avoid; }
}
"""

SCRIPT = """
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const COLOURS = ["#3b82f6", "#e07a1f", "#2fa66a", "#c4519b", "#8b6fd6", "#1aa3b8", "#b58900", "#dc5050"];
  const PARTS = ["#3b82f6", "#2fa66a", "#e0a21f", "#c4519b", "#8b6fd6", "#1aa3b8", "#dc6b3f", "#a3b63b", "#4758c0",
                 "#d98fb5", "#7fb8a4", "#8c5a3c", "#c9a2e8", "#5c7a29"];
  const OVERHEAD = { context: "#6f7b88", fragmentation: "#9aa4af", padding: "#bcc4cc", workspace: "#566270" };
  const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = value => value.toLocaleString("en", { minimumFractionDigits: data.digits,
                                                       maximumFractionDigits: data.digits });
  const scaled = bytes => bytes === null ? null : bytes / data.divisor;
  const top = Math.max(1e-9, ...data.curves.flatMap(c => c.used.filter(v => v !== null)),
    ...data.lines.filter(l => l.kind !== "capacity").map(l => l.high === null ? l.value : Math.max(l.high, l.value)),
    ...data.plans.flatMap(p => p.totals));
  const capacity = Math.max(0, ...data.lines.filter(l => l.kind === "capacity").map(l => l.value));
  let whole = capacity > 0 && top > 0.35 * capacity;
  const range = () => [0, scaled(whole ? Math.max(capacity, top) : top) * 1.07];
  const axis = title => ({ title: { text: title, font: { size: 13 } }, gridcolor: css("--grid"), zeroline: false,
                           linecolor: css("--line"), tickcolor: css("--line"), automargin: true });
  const base = () => ({ paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: css("--ink") },
    margin: { l: 56, r: 14, t: 10, b: 46 },
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink"), size: 13 } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12.5 } } });
  const config = { responsive: true, displayModeBar: false };

  function clock(seconds) {
    if (!data.has_times) return "sample " + Math.round(seconds);
    const s = Math.floor(seconds), pad = n => String(n).padStart(2, "0");
    return Math.floor(s / 3600) + ":" + pad(Math.floor(s / 60) % 60) + ":" + pad(s % 60);
  }

  const value = "<b>%{y:,." + data.digits + "f} " + data.unit + "</b>";
  function curves() {
    const traces = data.curves.map((curve, i) => ({ type: "scatter", mode: "lines", name: curve.name,
      x: curve.seconds.map(s => s / data.x_divisor), y: curve.used.map(scaled), connectgaps: false,
      customdata: curve.seconds.map(clock), line: { width: 1.8, color: COLOURS[i % COLOURS.length], shape: "hv" },
      hovertemplate: value + " at %{customdata}<extra>%{fullData.name}</extra>" }));
    const ends = [Math.min(...data.curves.map(c => c.seconds[0])), Math.max(...data.curves.map(c => c.seconds.at(-1)))]
      .map(s => s / data.x_divisor);
    const shapes = [];
    data.shading.filter((_, i) => i % 2 === 0).forEach(p => shapes.push({ type: "rect", layer: "below", yref: "paper",
      y0: 0, y1: 1, x0: p.start / data.x_divisor, x1: p.end / data.x_divisor, line: { width: 0 },
      fillcolor: css("--shade") }));
    data.lines.forEach(line => {
      const predicted = line.kind === "predicted";
      if (predicted && line.low !== null && line.high !== null)
        shapes.push({ type: "rect", layer: "below", xref: "paper", x0: 0, x1: 1, y0: scaled(line.low),
          y1: scaled(line.high), line: { width: 0 }, fillcolor: css("--band") });
      traces.push({ type: "scatter", mode: "lines", x: ends, y: [scaled(line.value), scaled(line.value)],
        name: line.name + " " + number(scaled(line.value)) + " " + data.unit, hoverinfo: "skip",
        line: { width: 1.6, dash: predicted ? "dash" : "dot", color: css(predicted ? "--warn" : "--capacity") } });
    });
    const layout = Object.assign(base(), { shapes, hovermode: "x unified", showlegend: true,
      xaxis: Object.assign(axis(data.x_title), { range: ends, hoverformat: ".2f" }),
      yaxis: Object.assign(axis("used, " + data.unit), { range: range() }) });
    Plotly.react("curve", traces, layout, config);
  }

  function planned(layout) {
    layout.shapes = [];
    layout.annotations = [];
    data.lines.forEach(line => {
      const predicted = line.kind === "predicted", colour = css(predicted ? "--warn" : "--capacity");
      const across = { type: "rect", xref: "paper", x0: 0, x1: 1, line: { width: 0 } };
      if (predicted && line.low !== null && line.high !== null)
        layout.shapes.push(Object.assign({}, across, { y0: scaled(line.low), y1: scaled(line.high),
                                                       fillcolor: css("--band") }));
      layout.shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: scaled(line.value), y1: scaled(line.value),
                           line: { width: 1.6, dash: predicted ? "dash" : "dot", color: colour } });
      layout.annotations.push({ xref: "paper", x: 0, y: scaled(line.value), xanchor: "left", yanchor: "bottom",
        showarrow: false, text: line.name + " " + number(scaled(line.value)) + " " + data.unit,
        font: { color: colour, size: 12.5 } });
    });
  }

  function bars() {
    const names = [...new Set(data.plans.flatMap(p => p.phases.flatMap(f => Object.keys(f.components))))];
    const several = data.plans.length > 1;
    const xs = data.plans.flatMap(p => p.phases.map(f => (several ? p.name + "<br>" : "") + f.name));
    const phases = data.plans.flatMap(p => p.phases);
    const coloured = names.filter(name => !(name in OVERHEAD));
    const colour = name => OVERHEAD[name] || PARTS[coloured.indexOf(name) % PARTS.length];
    const traces = names.map(name => ({ type: "bar", name: name.replaceAll("_", " "), x: xs,
      y: phases.map(f => scaled(f.components[name] || 0)), marker: { color: colour(name) },
      hovertemplate: value + "<extra>%{fullData.name}</extra>" }));
    const layout = Object.assign(base(), { barmode: "stack", bargap: 0.35, showlegend: true,
      xaxis: Object.assign(axis(""), { type: "category" }),
      yaxis: Object.assign(axis(data.unit), { range: range() }) });
    if (!data.curves.length) planned(layout);
    layout.legend = { orientation: "h", x: 0, y: -0.16, yanchor: "top", font: { size: 12 }, traceorder: "normal" };
    Plotly.react("bars", traces, layout, config);
  }

  function draw() {
    if (data.curves.length) curves();
    if (data.plans.length) bars();
  }
  const button = document.getElementById("whole");
  function label() { button.textContent = whole ? "fit to the curve" : "show the capacity"; }
  if (button) {
    if (!capacity) button.remove();
    else { label(); button.addEventListener("click", () => { whole = !whole; label(); draw(); }); }
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", draw);
  addEventListener("afterprint", draw);
  draw();
})();
"""

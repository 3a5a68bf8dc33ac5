"""The page, in a real browser: it draws the log's numbers, asks nobody for anything, and logs no error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from vramplan.cli import app

GB = 10**9
PROBE = """
<pre id="probe"></pre>
<script>
(function () {
  const problems = [];
  addEventListener("error", event => problems.push(String(event.message)));
  const error = console.error;
  console.error = (...all) => { problems.push(all.join(" ")); error(...all); };
  window.__problems = problems;
})();
</script>
"""
ANSWER = """
<script>
addEventListener("load", () => setTimeout(() => {
  const chart = name => { const at = document.getElementById(name);
    return at && at.data ? at.data.map(t => ({name: t.name, type: t.type, y: Array.from(t.y)})) : null; };
  document.getElementById("probe").textContent = JSON.stringify({
    problems: window.__problems,
    requests: performance.getEntriesByType("resource").map(one => one.name),
    curve: chart("curve"), bars: chart("bars"),
    drawn: document.querySelectorAll("svg .scatterlayer .trace").length,
    shapes: document.getElementById("curve") ? document.getElementById("curve").layout.shapes.length : 0,
    planned: ((document.getElementById("bars") || {}).layout || {annotations: []}).annotations?.map(one => one.text),
    injected: window.__injected === true,
    wide: document.documentElement.scrollWidth > innerWidth,
  });
}, 300));
</script>
"""


@pytest.fixture
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    return found


@pytest.fixture
def page(tmp_path):
    pytest.importorskip("plotly", reason="--html needs the plotly package")

    def make(*arguments):
        target = tmp_path / "page.html"
        assert app.run(["report", *(str(one) for one in arguments), "--html", str(target)]) == 0
        return target.read_text(encoding="utf-8")

    return make


def browse(chromium: str, tmp_path: Path, text: str, width: int = 1280):
    """The page's own account of what it drew."""
    probed = tmp_path / "probed.html"
    probed.write_text(text.replace("<main>", PROBE + "<main>", 1).replace("</body>", ANSWER + "</body>"))
    done = subprocess.run(
        [
            chromium,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1200"),
            *("--virtual-time-budget=10000", "--dump-dom", probed.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    return json.loads(unescape(found[1]))


def log(path: Path, used, name="NVIDIA H100"):
    rows = [
        f"2026/07/03 22:{at // 60:02d}:{at % 60:02d}.000, 0, {name}, {mib} MiB, 81559 MiB"
        for at, mib in enumerate(used)
    ]
    path.write_text("timestamp, index, name, memory.used [MiB], memory.total [MiB]\n" + "\n".join(rows) + "\n")
    return path


def plan(path: Path):
    components = {"weights": 12 * GB, "context": GB}
    phases = [
        {"name": "load", "components": components},
        {"name": "train", "components": {**components, "activations": 20 * GB}},
    ]
    peak = {"phase": "train", "device_used_bytes": 33 * GB, "low_bytes": 31 * GB, "high_bytes": 35 * GB}
    path.write_text(
        json.dumps({"schema": "vramplan.report/1", "how": "estimate", "id": None, "phases": phases, "peak": peak})
    )
    return path


def test_it_draws_the_logs_numbers_and_asks_nobody(chromium, page, tmp_path):
    used = [500] * 30 + [20000] * 40 + [30000] * 50
    text = page(log(tmp_path / "log.csv", used), "--estimate", plan(tmp_path / "plan.json"))
    seen = browse(chromium, tmp_path, text)
    assert seen["problems"] == []
    assert seen["requests"] == []
    curve, predicted, capacity = seen["curve"]
    assert curve["y"] == [mib * 2**20 / GB for mib in used]
    assert predicted["name"] == "predicted peak 33.00 GB"
    assert predicted["y"] == [33.0, 33.0]
    assert capacity["name"] == "capacity 85.52 GB"
    assert seen["drawn"] == 3
    assert seen["shapes"] >= 3  # the band, and the shades of the phases
    assert {bar["name"]: bar["y"] for bar in seen["bars"]} == {
        "weights": [12.0, 12.0],
        "context": [1.0, 1.0],
        "activations": [0.0, 20.0],
    }
    for number in ("31.46", "85.52", "33.00"):  # peak, capacity and prediction, as text
        assert number in text


def test_several_logs_are_compared(chromium, page, tmp_path):
    first, second = log(tmp_path / "first.csv", [100, 200]), log(tmp_path / "second.csv", [300, 400])
    seen = browse(chromium, tmp_path, page(first, second))
    assert [one["name"] for one in seen["curve"]] == ["first.csv · GPU 0", "second.csv · GPU 0", "capacity 85.52 GB"]
    assert seen["problems"] == []


def test_a_plan_without_a_log_has_the_same_page(chromium, tmp_path):
    pytest.importorskip("plotly", reason="--html needs the plotly package")
    from vramplan.output.log_report_html import render_plan_html

    document = json.loads(plan(tmp_path / "plan.json").read_text())
    document["budget"] = {"bytes": 40 * GB, "verdict": "fits", "margin_bytes": 7 * GB}
    document["phases"][0]["components"]["nothing"] = 0
    text = render_plan_html("my plan", document)
    seen = browse(chromium, tmp_path, text)
    assert seen["curve"] is None
    assert [bar["name"] for bar in seen["bars"]] == ["weights", "context", "activations"]
    assert seen["planned"] == ["peak on the device 33.00 GB", "budget 40.00 GB"]
    assert "<td><b>13.00</b></td><td><b>33.00</b></td>" in text
    assert "Left in the budget" in text
    assert seen["problems"] == []


def test_text_of_a_log_is_text(chromium, page, tmp_path):
    evil = "</script><script>window.__injected=true</script><img src=x onerror=window.__injected=true>"
    path = log(tmp_path / "<b>&log.csv", [100, 200], name=evil)
    text = page(path)
    seen = browse(chromium, tmp_path, text)
    assert not seen["injected"]
    assert seen["problems"] == []
    assert seen["requests"] == []
    assert "<img" not in text


def test_a_narrow_screen_needs_no_sideways_scrolling(chromium, page, tmp_path):
    text = page(log(tmp_path / "log.csv", [500] * 30 + [20000] * 40), "--estimate", plan(tmp_path / "plan.json"))
    assert not browse(chromium, tmp_path, text, width=500)["wide"]


def test_nothing_on_the_page_is_loaded_from_elsewhere(page, tmp_path):
    text = page(log(tmp_path / "log.csv", [100, 200]))
    from plotly.offline import get_plotlyjs

    own = text.replace(get_plotlyjs(), "")
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?:", own)


def test_a_long_log_stays_small_and_keeps_its_peak(page, tmp_path):
    rows = [f"2026/07/{1 + at // 86400:02d} {at // 3600 % 24:02d}:{at // 60 % 60:02d}:{at % 60:02d}.000, {mib} MiB"
            for at, mib in enumerate([100] * 50000 + [77777] + [100] * 50000)]  # fmt: skip
    (tmp_path / "long.csv").write_text("timestamp, memory.used [MiB]\n" + "\n".join(rows) + "\n")
    text = page(tmp_path / "long.csv")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    (curve,) = data["curves"]
    assert len(curve["used"]) < 4100
    assert max(curve["used"]) == 77777 * 2**20


def test_a_picture_for_papers(tmp_path):
    pytest.importorskip("matplotlib", reason="--png needs the matplotlib package")
    path = log(tmp_path / "cost_$1_$2.csv", [500] * 30 + [20000] * 40)
    arguments = [str(path), "--estimate", str(plan(tmp_path / "plan.json")), "--png", str(tmp_path / "x.png")]
    assert app.run(["report", *arguments]) == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_without_the_libraries_one_sentence_says_what_to_install(monkeypatch, tmp_path, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    path = log(tmp_path / "log.csv", [500, 600])
    for flag in ("--html", "--png"):
        assert app.run(["report", str(path), flag, str(tmp_path / "x")]) == 2
        assert "vramplan[plots]" in capsys.readouterr().err
        assert not (tmp_path / "x").exists()

"""Charts for the reader's browser: what they hold, and what a browser makes of them."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from sb3_matrl.zoo.report import main
from sb3_matrl.zoo.reporting import live_charts
from sb3_matrl.zoo.reporting.charts import Series, line_chart, share_chart
from tests.zoo.reporting.pages import NASTY, Page, synthetic_run

bokeh = pytest.importorskip("bokeh.document")


def plot_of(chart):
    """The plot that a page's script gets, read by Bokeh itself."""
    (root,) = bokeh.Document.from_json(json.loads(live_charts.live_chart(chart))["doc"]).roots
    return root


def parts_of(plot, index):
    return [part for part in plot.renderers if part.glyph.tags == [index]]


def test_curves_hold_the_numbers_of_the_picture():
    x = np.arange(1.0, 2000.0)
    curves = [Series("a", x, np.sin(x), np.sin(x) - 1, np.sin(x) + 1), Series(NASTY, 2.0**30 + x[:3], x[:3], colour=1, dash=1)]
    chart = line_chart("t", curves)
    plot = plot_of(chart)
    band, line = parts_of(plot, 0)
    for name in ("x", "low", "high"):
        np.testing.assert_allclose(band.data_source.data[name], getattr(chart.curves[0], name), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(line.data_source.data["y"], chart.curves[0].y, rtol=1e-5, atol=1e-6)
    (other,) = parts_of(plot, 1)
    np.testing.assert_array_equal(other.data_source.data["x"], 2.0**30 + x[:3])
    assert [line.name, other.name] == [entry.label for entry in chart.legend]
    assert "<" not in live_charts.live_chart(chart)


def test_single_values_and_gaps_of_bands_are_drawn():
    one, nan = np.array([1.0]), np.array([np.nan, 2.0])
    chart = line_chart("t", [Series("point", one, one), Series("gap", np.arange(2.0), np.ones(2), nan, nan + 1)])
    plot = plot_of(chart)
    assert [type(part.glyph).__name__ for part in plot.renderers] == ["Scatter", "VArea", "Line"]
    assert parts_of(plot, 1)[0].data_source.data["low"].tolist() == [2.0]


def test_axes_begin_at_zero_where_values_do_and_cover_what_they_should():
    x = np.array([0.0, 1.0])
    above, below, share = (
        line_chart("t", [Series("s", x, y)], covers=covers)
        for y, covers in ((x + 5, None), (x - 5, None), (x / 2 + 0.2, (0.0, 1.0)))
    )
    assert plot_of(above).y_range.start == 0.0 and np.isnan(plot_of(below).y_range.start)
    ends = plot_of(share).y_range
    assert ends.start < 0.0 and ends.end > 1.0


def test_bars_hold_the_shares():
    chart = share_chart("t", np.arange(1.0, 5.0), ["a", "b", "b", "b"], ["c", "a", "b"])
    plot = plot_of(chart)
    for index, name, lefts in ((0, "a", [0.0]), (1, "b", [1.0, 2.0, 3.0])):
        (part,) = parts_of(plot, index)
        data = part.data_source.data
        assert part.name == name and data["left"].tolist() == lefts and data["right"].tolist() == [left + 1 for left in lefts]
        assert set(data["share"].tolist()) == {1.0} and set((data["top"] - data["bottom"]).tolist()) == {1.0}
    assert (plot.y_range.start, plot.y_range.end) == (0.0, 1.0)


def write(tmp_path, *words, count=1, **sizes):
    runs = [synthetic_run(tmp_path / f"matrl/checkers_v0_{k}", **sizes) for k in range(1, count + 1)]
    out = tmp_path / "page.html"
    assert main([*map(str, runs), "--no-frames", "--out", str(out), *words]) == 0
    return out


@pytest.mark.e2e
def test_page_is_one_file_of_a_few_megabytes(tmp_path, capsys):
    out = write(tmp_path, count=4, rows=300, evaluations=20)
    page = Page(out.read_text(encoding="utf-8"))
    assert out.stat().st_size < 5_000_000
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(link.startswith("#") for link in links) and not page.of("link")
    items = [attributes for attributes in page.of("script") if attributes]
    assert items == [{"type": "application/json"}] * len(page.of("svg"))
    assert "Copyright" in out.read_text(encoding="utf-8")  # Bokeh's licence asks for it
    assert "pip install" not in capsys.readouterr().out


@pytest.mark.e2e
def test_without_bokeh_or_scripts_the_pictures_stay(tmp_path, capsys, monkeypatch):
    static = write(tmp_path, "--static")
    assert not Page(static.read_text(encoding="utf-8")).of("script")
    assert "pip install" not in capsys.readouterr().out
    monkeypatch.setattr(live_charts, "is_available", lambda: False)
    static.unlink()
    assert main([str(tmp_path / "matrl/checkers_v0_1"), "--no-frames", "--out", str(static)]) == 0
    assert not Page(static.read_text(encoding="utf-8")).of("script")
    assert 'pip install "sb3-matrl[report]"' in capsys.readouterr().out


# Hides the first curve by its entry in the legend, and leaves what the page then holds in its title.
CLICK = """<script>setTimeout(() => {
  const figure = document.querySelector("figure.has-live"), plot = Bokeh.documents[0].roots()[0];
  figure.querySelector(".legend li").click();
  const tagged = plot.renderers.map((part) => [part.glyph.tags[0], part.visible]);
  const count = (selector) => document.querySelectorAll(selector).length;
  document.title = JSON.stringify({live: count("figure.has-live"), pictures: count("svg.chart"), tagged});
}, 5000);</script></body>"""


@pytest.mark.expensive
def test_browser_draws_charts_and_hides_curves(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    out = write(tmp_path)
    out.write_text(out.read_text(encoding="utf-8").replace("</body>", CLICK), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000"]
    command = [browser, *flags, "--window-size=1000,5000", "--dump-dom", f"file://{out}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = shown.partition("<title>")[2].partition("</title>")[0]
    seen = json.loads(title)
    assert seen["live"] == seen["pictures"] > 0
    # The first entry is a band and a line.
    assert [visible for tag, visible in seen["tagged"] if tag == 0] == [False, False]
    assert all(visible for tag, visible in seen["tagged"] if tag != 0)

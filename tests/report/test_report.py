"""The HTML report of a short real comparison, opened in headless Chromium: charts are drawn, nothing is
fetched, nothing fails. RINGLANE_BENCH is the program; RINGLANE_REPORT_DIR takes the report and its
screenshots, light and dark."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from browser import Browser

BENCH = os.environ["RINGLANE_BENCH"]
PLACE = Path(os.environ["RINGLANE_REPORT_DIR"])
BROKERS = ("ringlane", "mosquitto")
WORKLOADS = 3
ROUNDS = 2
#: The CPUs of broker and load; on a machine with one, both have it, and the report says so.
CPUS = ("0", "1" if (os.cpu_count() or 1) > 1 else "0")


@pytest.fixture(scope="module")
def comparison():
    """The files of a comparison: HTML, JSON, and the directory of .hgrm files."""
    PLACE.mkdir(parents=True, exist_ok=True)
    html, results, hgrm = PLACE / "report.html", PLACE / "report.json", PLACE / "hgrm"
    brokers = [word for name in BROKERS for word in ("--broker", name)]
    command = [
        BENCH, "compare", *brokers, "--set", "quick", "--rounds", str(ROUNDS), "--duration", "1",
        "--warm-up", "0.3", "--broker-cpu", CPUS[0], "--cpu", CPUS[1],
        "--html", html, "--json", results, "--hgrm", hgrm,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return html, results, hgrm


@pytest.fixture(scope="module")
def browser(comparison):
    """A browser that has opened the report."""
    with Browser(1280, 900) as browser:
        browser.open(comparison[0])
        yield browser


def test_the_comparison_has_every_cell(comparison):
    results = json.loads(comparison[1].read_text())
    assert results["held"] is True
    assert [broker["name"] for broker in results["brokers"]] == list(BROKERS)
    assert len(results["workloads"]) == WORKLOADS
    for workload in results["summary"]:
        for cell in workload["cells"]:
            figures = cell["figures"]
            assert cell["counts"] is True
            assert figures["broker_cpu_us_per_message"]["rounds"] == ROUNDS
            assert figures["messages_per_second"]["median"] > 0
        assert workload["cells"][1]["first_broker_over_this"]["broker_cpu_us_per_message"]["median"] > 0
    assert len(list(comparison[2].glob("*-latency.hgrm"))) == WORKLOADS * len(BROKERS)


def test_nothing_is_fetched_and_nothing_fails(browser, comparison):
    page = comparison[0].resolve().as_uri()
    assert [url for url in browser.requests(page) if not url.startswith("data:")] == [page]
    assert browser.console() == []


def boxes(browser, selector):
    """Number of path commands and size on the screen of every element that matches."""
    return browser.run(
        """return [...document.querySelectorAll(arguments[0])].map(element => {
            const box = element.getBoundingClientRect();
            const points = (element.getAttribute('d') || '').split(/[ML]/).length - 1;
            return {points, width: box.width, height: box.height};
        });""", selector)


def test_every_chart_is_drawn(browser):
    charts = boxes(browser, "svg.chart")
    assert len(charts) == 3 * WORKLOADS + 1, "bars, percentiles and a timeline for each, and one of PUBACK"
    assert all(chart["width"] > 300 and chart["height"] > 100 for chart in charts)
    bars = boxes(browser, "rect.bar")
    assert len(bars) == WORKLOADS * len(BROKERS)
    assert all(bar["width"] >= 1 and bar["height"] > 8 for bar in bars)
    curves = boxes(browser, "path.curve")
    assert len(curves) == (WORKLOADS + 1) * len(BROKERS)
    assert all(curve["points"] > 20 and curve["width"] > 100 and curve["height"] > 10 for curve in curves)
    rates = boxes(browser, "path.rate")
    assert len(rates) == WORKLOADS * len(BROKERS) * ROUNDS
    assert all(line["points"] >= 2 and line["width"] > 100 for line in rates)


def test_axes_have_units_and_text_stays_inside(browser):
    axes = browser.run("return [...document.querySelectorAll('svg .axis')].map(e => e.textContent)")
    for text in ("µs of CPU time per delivered message", "percentile of messages (%)", "seconds"):
        assert any(text in axis for axis in axes), text
    outside = browser.run(
        """return [...document.querySelectorAll('svg.chart')].flatMap(svg => {
            const frame = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].filter(text => {
                const box = text.getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1
                    || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
            }).map(text => text.textContent);
        });""")
    assert outside == []


def test_the_ratio_table_and_the_set_up_are_there(browser):
    text = browser.run("return document.body.textContent")
    for part in ("of mosquitto", "persistence false", "frequency governor", "To repeat it", "--broker ringlane"):
        assert part in text, part
    ratios = browser.run("return [...document.querySelectorAll('.ratios td b')].map(e => e.textContent)")
    assert len(ratios) == WORKLOADS
    assert all(float(ratio) > 0 for ratio in ratios)


def luminance(color):
    """Relative luminance of an `rgb(...)` text (WCAG 2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Contrast ratio of two colours (WCAG 2)."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_can_be_read(browser, scheme):
    browser.color_scheme(scheme)
    back, text, soft, panel, *bars = browser.run(
        """const style = element => getComputedStyle(element);
        return [style(document.body).backgroundColor, style(document.body).color,
            style(document.querySelector('.small')).color,
            style(document.querySelector('svg.chart')).backgroundColor,
            ...[...document.querySelectorAll('rect.bar')].map(bar => style(bar).fill)];""")
    assert (luminance(back) > 0.5) == (scheme == "light")
    assert contrast(text, back) >= 7
    assert contrast(soft, back) >= 4.5
    assert all(contrast(bar, panel) >= 3 for bar in bars)
    browser.screenshot(PLACE / f"{scheme}.png")
    assert (PLACE / f"{scheme}.png").stat().st_size > 20_000

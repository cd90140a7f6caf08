"""The pages in a real browser: nothing loads, nothing fails, all can be read and used by keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser_program, running_browser
from run_folders import HOSTILE, history, png, write_run, write_section

from estimator.report import build
from estimator.runs import compare, load

WIDTHS = (360, 1600)
SCHEMES = ("light", "dark")
# The ratio of luminances after WCAG 2, for each text that is seen, and each line of a chart.
CONTRAST = """
(() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const found = rgb(getComputedStyle(e).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const ratio = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const style = getComputedStyle(e);
    if (!e.getClientRects().length) continue;
    const inSvg = e.namespaceURI.endsWith("svg");
    const told = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    const colour = rgb(inSvg ? style.fill : style.color);
    if (told && e.tagName !== "title") found.push([ratio(colour, behind(e)), 4.5, e.outerHTML]);
    if (e.matches("path.line")) found.push([ratio(rgb(style.stroke), behind(e)), 3, e.outerHTML]);
  }
  return { seen: found.length, poor: found.filter(([r, least]) => !(r >= least)).slice(0, 9) };
})()
"""
ROWS = (
    "[...document.querySelectorAll('#TABLE tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as found:
        yield found


def full_run(folder: Path, epochs: int, text: str = "", **changes: Any) -> Path:
    """A run with a section of each kind, and its page."""
    run = write_run(folder, history(epochs), **changes)
    rows = [["a", 10, 0.5], ["b", 9, "NaN"], ["c", 100, "Infinity"], ["d", None, -1.5]]
    table = {"title": f"By class {text}", "columns": ["class", "n", "F1"], "rows": rows}
    write_section(run, "report", f"Report {text}", text=text or "Said.", tables=[table])
    (run / "large.png").write_bytes(png(900, 300))
    picture = {"file": "large.png", "caption": f"Large {text}"}
    write_section(run, "picture", f"Picture {text}", 310, pictures=[picture])
    cards = []
    for i in range(6):
        (run / f"{i}.png").write_bytes(png(28, 28, i))
        facts = {"target": text or "cat", "confidence": 0.123456789}
        pictures = [{"file": f"{i}.png", "caption": text}]
        cards.append({"title": f"uid {i}", "facts": facts, "pictures": pictures})
    write_section(run, "worst", "Worst", 420, samples=cards)
    return build(run)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    long = "w" * 300
    found = {
        "short": full_run(root / "short", 1),
        "long": full_run(root / "long", 500, outcome="stopped", reason="enough"),
        "hostile": full_run(root / "hostile", 12, HOSTILE, name=HOSTILE, missing={HOSTILE: long}),
        "wide": full_run(root / long[:200], 3, long, outcome="failed"),
    }
    (root / "damaged").mkdir()
    (root / "damaged" / "run.json").write_text("{")
    return {**found, "comparison": compare(load(root)).sort("val_loss").write(root)}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["short", "long", "hostile", "wide", "comparison"])
def test_a_page_loads_nothing_and_can_be_read(
    name: str, width: int, scheme: str, pages: dict[str, Path], browser: Browser, tmp_path: Path
) -> None:
    browser.view(width, scheme=scheme)
    browser.open(pages[name])
    # What is folded is read as well.
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    contrast = browser.evaluate(CONTRAST)
    assert contrast["seen"] > 30 and contrast["poor"] == []
    dark = browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 23, 25)"
    assert dark is (scheme == "dark")
    titles = browser.evaluate("[...document.querySelectorAll('h2')].map(h => h.innerText)")
    linked = (
        "[...document.querySelectorAll('.contents a')].map(a => document.querySelector(a.hash))"
    )
    assert browser.evaluate(f"{linked}.map(s => s.querySelector('h2').innerText)") == titles
    assert len(titles) == (4 if name == "comparison" else 10)
    assert "true" in browser.evaluate(
        "[...document.images].filter(i => i.src).every(i => i.complete && i.naturalWidth > 0) + ''"
    )
    picture = tmp_path / "page.png"
    browser.screenshot(picture)
    assert int.from_bytes(picture.read_bytes()[16:20], "big") == width
    assert browser.complaints == []
    assert browser.requests == [pages[name].as_uri()]


def test_a_table_is_sorted_by_keys(pages: dict[str, Path], browser: Browser) -> None:
    browser.view(1600)
    browser.open(pages["short"])
    browser.evaluate(
        "[...document.querySelectorAll('table')].find(t => t.innerText.includes('F1')).id = 'TABLE'"
    )

    def sorted_by(column: int) -> tuple[str, str]:
        browser.evaluate(f"document.querySelectorAll('#TABLE button')[{column}].focus()")
        browser.press("Enter")
        states = "[...document.querySelectorAll('#TABLE th')].map(h => h.getAttribute('aria-sort'))"
        state = browser.evaluate(states)
        assert [s for i, s in enumerate(state) if i != column] == [None, None]
        return state[column], "".join(row[0] for row in browser.evaluate(ROWS))

    assert sorted_by(1) == ("ascending", "bacd"), "as numbers, and what is missing last"
    assert sorted_by(1) == ("descending", "cabd")
    assert sorted_by(2) == ("ascending", "dacb"), "NaN is last"
    assert sorted_by(2) == ("descending", "cadb")
    assert sorted_by(0) == ("ascending", "abcd")
    assert sorted_by(0) == ("descending", "dcba")
    assert browser.complaints == []


def test_keys_reach_the_content_and_show_where_they_are(
    pages: dict[str, Path], browser: Browser
) -> None:
    browser.view(360)
    browser.open(pages["short"])
    browser.press("Tab")
    top = "document.activeElement.getBoundingClientRect().top"
    assert browser.evaluate("document.activeElement.className") == "skip"
    assert browser.evaluate(top) >= 0
    browser.press("Enter")
    assert browser.evaluate("document.activeElement.id") == "main"
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.closest('main') !== null")
    outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_a_chart_tells_its_values_to_keys_and_pointer(
    pages: dict[str, Path], browser: Browser
) -> None:
    browser.view(1600)
    browser.open(pages["long"])
    told = (
        "(f => [f.querySelector('.at').textContent, "
        "...[...f.querySelectorAll('.value')].map(v => v.textContent)])"
        "(document.querySelector('figure.chart'))"
    )
    rows = history(500).rows

    def values(epoch: int) -> list[str]:
        return [f"{rows[epoch - 1][name]:.6g}" for name in ("train_loss", "val_loss")]

    assert browser.evaluate(told) == ["last", *values(500)]
    browser.evaluate("document.querySelector('figure.chart > svg').focus()")
    browser.press("Home")
    assert browser.evaluate(told) == ["epoch 1", *values(1)]
    browser.press("ArrowRight")
    label, *found = browser.evaluate(told)
    assert found == values(int(label.split()[1])) and label != "epoch 1"
    browser.evaluate("document.activeElement.blur()")
    assert browser.evaluate(told) == ["last", *values(500)]
    browser.evaluate("document.querySelector('figure.chart').scrollIntoView({behavior: 'instant'})")
    box = browser.evaluate(
        "(b => [b.left, b.top, b.width, b.height])"
        "(document.querySelector('figure.chart > svg').getBoundingClientRect())"
    )
    browser.call(
        "Input.dispatchMouseEvent",
        type="mouseMoved",
        x=box[0] + box[2] * 0.6,
        y=box[1] + box[3] * 0.5,
    )
    label, *found = browser.evaluate(told)
    assert 200 < int(label.split()[1]) < 400 and found == values(int(label.split()[1]))


def test_a_picture_opens_in_full_size(pages: dict[str, Path], browser: Browser) -> None:
    browser.view(360)
    browser.open(pages["short"])
    browser.evaluate("document.querySelector('.pictures .zoom').focus()")
    browser.press("Enter")
    large = "document.querySelector('dialog[open] img').naturalWidth"
    assert browser.evaluate(large) == 900
    browser.press("Escape")
    assert browser.evaluate("document.querySelector('dialog[open]')") is None


def test_nothing_that_gets_into_the_page_can_run_or_call_out(
    pages: dict[str, Path], browser: Browser
) -> None:
    browser.view(1600)
    browser.open(pages["hostile"])
    refused = browser.evaluate(
        """new Promise((done) => {
          const found = [];
          document.addEventListener("securitypolicyviolation", (event) => {
            found.push(event.effectiveDirective);
            if (found.length === 4) done(found);
          });
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
          document.body.insertAdjacentHTML("beforeend", "<b onclick='window.ran = true'></b>");
          document.body.lastChild.click();
          document.body.insertAdjacentHTML("beforeend", "<i style='color: red'></i>");
          document.body.append(new Image());
          document.body.lastChild.src = "https://example.invalid/x.png";
        })"""
    )
    assert sorted(refused) == ["img-src", "script-src-attr", "script-src-elem", "style-src-attr"]
    assert browser.evaluate("window.ran === undefined")
    assert browser.requests[1:] == browser.refused == ["https://example.invalid/x.png"]


def test_what_goes_wrong_in_a_page_is_seen(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<img src=none.png><script>console.log('hi'); throw Error('no')</script>")
    browser.open(page)
    assert len(browser.complaints) >= 3
    assert browser.requests == [page.as_uri(), (tmp_path / "none.png").as_uri()]


def test_without_a_browser_the_tests_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTIMATOR_BROWSER", "no-such-browser")
    with pytest.raises(pytest.fail.Exception, match="must name a program, and 'no-such-browser'"):
        browser_program()
    monkeypatch.delenv("ESTIMATOR_BROWSER")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.skip.Exception, match="no browser: install chromium"):
        browser_program()

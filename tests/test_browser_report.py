"""The page in a real browser: from disk, without a network, on a telephone and a wide screen, by mouse and keyboard.

Screenshots of every section go to `screenshots/`, which git ignores, to be looked at.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from chromium import WIDTHS, Scheme, Visit, chromium
from conftest import SOAK
from illustrated_run import illustrated_run
from playwright.sync_api import Browser

from analysis.leaderboard_page import write_leaderboard
from analysis.report import Report, write_report

SCREENSHOTS = Path(__file__).parent.parent / "screenshots"
TASKS = ("gqa", "flickr30k", "vqa", "hateful_memes") if SOAK else ("gqa", "flickr30k")
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
DOWNLOADS = 8
"""Of one visit: Chromium asks before it saves more than ten files for one page."""
HOSTILE = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&</td>{{ 7 * 7 }}",
    "long": "x" * 10_000,
    "long words": "word " * 2_000,
    "right to left": "\u202e\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u2067\u05d0",
    "emoji": "\U0001f469\u200d\U0001f680\U0001f1eb\U0001f1f7 e\u0301\u0301\u0301",
    "formula": "=HYPERLINK(\"https://example.org\",\"x\")",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def runs(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Report]]:
    """Two runs; asking for the browser first, so that nothing is rendered where there is none."""
    home = tmp_path_factory.mktemp("runs")
    wanted = {"concat": TASKS, "gated": TASKS if SOAK else TASKS[:1]}
    folders = [illustrated_run(home / name, tasks=tasks, num_rows=160) for name, tasks in wanted.items()]
    return [(folder, write_report(folder, num_resamples=100)) for folder in folders]


@pytest.fixture(scope="module")
def page(runs: list[tuple[Path, Report]]) -> Path:
    return runs[0][1].html


@pytest.fixture(scope="module")
def board(runs: list[tuple[Path, Report]]) -> Path:
    return write_leaderboard(runs, runs[0][0].parent / "leaderboard")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["page", "board"])
def test_it_opens_without_complaint_or_request_and_nothing_sticks_out(
    browser: Browser, page: Path, board: Path, which: str, width: int, scheme: Scheme
) -> None:
    with Visit(browser, {"page": page, "board": board}[which], width=width, scheme=scheme) as visit:
        assert visit.sticking_out() == []
        _look(visit, f"{which}-{width}-{scheme}")
        visit.open_everything()
        assert visit.sticking_out() == []
        assert visit.complaints == [] and visit.asked_for_elsewhere() == []


def _look(visit: Visit, name: str) -> None:
    """A screenshot of each section, or of a few."""
    SCREENSHOTS.mkdir(exist_ok=True)
    sections: list[str] = visit.page.evaluate("[...document.querySelectorAll('section')].map(part => part.id)")
    for section in sections if SOAK else [s for s in sections if s in ("verdict", "scores", "examples")]:
        visit.page.evaluate(f"document.getElementById('{section}').scrollIntoView()")
        visit.page.screenshot(path=SCREENSHOTS / f"{name}-{section}.png")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_has_the_contrast_that_wcag_aa_asks_for(browser: Browser, page: Path, scheme: Scheme) -> None:
    with Visit(browser, page, scheme=scheme) as visit:
        visit.open_everything()
        low = visit.page.evaluate(
            """() => {
                const parts = colour => colour.match(/[\\d.]+/g).map(Number);
                const light = colour => parts(colour).slice(0, 3).map(v => v / 255)
                    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
                const paper = element => {
                    for (let e = element; e; e = e.parentElement) {
                        const colour = getComputedStyle(e).backgroundColor;
                        if ((parts(colour)[3] ?? 1) > 0) return colour;
                    }
                    return 'rgb(255, 255, 255)';
                };
                const found = new Set();
                for (const element of document.body.querySelectorAll('*')) {
                    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
                    if (!own || element.matches('script, style')) continue;
                    const style = getComputedStyle(element);
                    const ink = element.closest('svg') ? style.fill : style.color;
                    const [a, b] = [light(ink), light(paper(element))].sort((x, y) => y - x);
                    const ratio = (a + 0.05) / (b + 0.05);
                    if (ratio < 4.5) found.add(ratio.toFixed(2) + ' ' + element.textContent.slice(0, 30));
                }
                return [...found];
            }"""
        )
        assert low == []


def test_numbers_in_shaded_cells_stay_legible(browser: Browser, page: Path) -> None:
    """The deepest shade of a heat map, over the card, against the ink."""
    for scheme in SCHEMES:
        with Visit(browser, page, scheme=scheme) as visit:
            ratios: list[float] = visit.page.evaluate(
                """() => {
                    const of = (element, key) => getComputedStyle(element)[key].match(/[\\d.]+/g).map(Number);
                    const light = rgb => rgb.slice(0, 3).map(v => v / 255)
                        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
                    const card = of(document.querySelector('.card'), 'backgroundColor');
                    const ink = light(of(document.body, 'color'));
                    const ratios = [];
                    for (const cell of document.querySelectorAll('#interactions svg [style*=fill-opacity]')) {
                        const style = getComputedStyle(cell), alpha = parseFloat(style.fillOpacity);
                        if (style.fill === 'none' || alpha >= 1 || alpha === 0) continue;
                        const shade = of(cell, 'fill').map((v, i) => alpha * v + (1 - alpha) * card[i]);
                        const [a, b] = [ink, light(shade)].sort((x, y) => y - x);
                        ratios.push((a + 0.05) / (b + 0.05));
                    }
                    return ratios;
                }"""
            )
            assert len(ratios) > 10 and min(ratios) >= 4.5


def test_everything_has_a_name(browser: Browser, page: Path) -> None:
    with Visit(browser, page) as visit:
        visit.open_everything()
        count = visit.page.evaluate
        assert count("[...document.images].filter(image => !image.alt || !image.naturalWidth).length") == 0
        assert count("document.images.length") >= 12
        labels = count("[...document.querySelectorAll('figure')].map(figure => figure.getAttribute('aria-label'))")
        assert len(labels) > 20 and all(len(label) > 20 for label in labels)
        assert count("[...document.querySelectorAll('button')].filter(b => !b.textContent.trim()).length") == 0
        assert count("document.documentElement.lang") == "en"
        levels = count("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => Number(h.tagName[1]))")
        assert levels[0] == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


def _tables(visit: Visit) -> list[str]:
    names: list[str] = visit.page.evaluate("[...document.querySelectorAll('table')].map(t => t.dataset.name)")
    assert len(names) == len(set(names)) > 20
    return names if SOAK else [n for n in names if n in ("verdict", "gqa-contributions", "gqa-controls", "data")]


def test_clicking_a_heading_sorts(browser: Browser, page: Path) -> None:
    with Visit(browser, page) as visit:
        visit.open_everything()
        for name in _tables(visit):
            table = visit.page.locator(f"table[data-name='{name}']")
            for column in range(table.locator("thead th").count()):
                before = _keys(visit, name, column)
                numbers = [key for key in before if isinstance(key, float)]
                rest = [key for key in before if not isinstance(key, float)]
                for _ in range(2):
                    table.locator("thead th button").nth(column).click()
                    found = _keys(visit, name, column)
                    order = table.locator("thead th").nth(column).get_attribute("aria-sort")
                    assert order in ("ascending", "descending")
                    assert found[: len(numbers)] == sorted(numbers, reverse=order == "descending")
                    assert sorted(map(str, found[len(numbers) :])) == sorted(map(str, rest))
                    assert table.locator("th[aria-sort]").count() == 1
        assert visit.complaints == []


def _keys(visit: Visit, name: str, column: int) -> list[float | str]:
    found: list[float | str] = visit.page.evaluate(
        """([name, column]) => [...document.querySelector(`table[data-name='${name}']`).tBodies[0].rows].map(row => {
            const cell = row.cells[column], key = cell.getAttribute('data-sort');
            return key === null ? cell.textContent : Number(key);
        })""",
        [name, column],
    )
    return [float(key) if isinstance(key, int) else key for key in found]


def test_a_saved_table_is_the_table(browser: Browser, page: Path, tmp_path: Path) -> None:
    with Visit(browser, page) as visit:
        names = _tables(visit)
    for start in range(0, len(names), DOWNLOADS):
        with Visit(browser, page) as visit:
            visit.open_everything()
            for name in names[start : start + DOWNLOADS]:
                saved = _saved(visit, name, tmp_path / "saved.csv")
                shown = visit.page.evaluate(
                    """name => [...document.querySelector(`table[data-name='${name}']`).rows]
                        .map(row => [...row.cells].map(cell => cell.textContent))""",
                    name,
                )
                assert list(csv.reader(io.StringIO(saved, newline=""))) == shown
            assert visit.complaints == [] and visit.asked_for_elsewhere() == []


def _saved(visit: Visit, name: str, path: Path) -> str:
    """What the button under a table saves."""
    with visit.page.expect_download() as waiting:
        visit.page.locator(f"details:has(> .scroll > table[data-name='{name}']) > button.csv").click()
    assert waiting.value.suggested_filename == f"{name}.csv"
    waiting.value.save_as(path)
    return path.read_text(encoding="utf-8-sig")


def test_the_keyboard_reaches_and_sorts(browser: Browser, page: Path) -> None:
    with Visit(browser, page) as visit:
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement.className") == "skip"
        for _ in range(60):
            visit.page.keyboard.press("Tab")
            if visit.page.evaluate("document.activeElement.matches('th button')"):
                break
        head = visit.page.locator("th:has(button:focus)")
        assert head.count() == 1
        outline = visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        visit.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        visit.page.keyboard.press("Space")
        assert head.get_attribute("aria-sort") == "descending"


def test_it_prints_within_the_paper_and_in_black_on_white(browser: Browser, page: Path, tmp_path: Path) -> None:
    with Visit(browser, page, width=680, scheme="dark") as visit:
        visit.page.emulate_media(media="print")
        visit.open_everything()
        assert visit.sticking_out() == []
        background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(255, 255, 255)"
        visit.page.pdf(path=tmp_path / "page.pdf", format="A4")
        assert (tmp_path / "page.pdf").stat().st_size > 50_000


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_strings_do_no_harm(browser: Browser, tmp_path: Path, kind: str) -> None:
    text = HOSTILE[kind]
    folder = illustrated_run(tmp_path / "run", tasks=("gqa",), num_rows=100, strings=text, text=text)
    report = write_report(folder, num_resamples=50)
    for width in WIDTHS:
        with Visit(browser, report.html, width=width) as visit:
            visit.open_everything()
            assert visit.sticking_out() == []
            assert visit.page.locator("script").count() == 1
            assert visit.complaints == [] and visit.asked_for_elsewhere() == []
            _look(visit, f"hostile-{kind.replace(' ', '-')}-{width}")

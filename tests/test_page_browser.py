"""The page in a real browser: what clicks, keys and the search do, and that nothing lies over anything else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from qcompiler.frontier import Frontier, Point
from qcompiler.page import PageData, html
from qcompiler.page.texts import texts_data
from qcompiler.pipeline import Step
from qcompiler.report import Report
from tests.test_report import make_layer, make_report

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := Path("/usr/bin", name)).exists()),
    None,
)
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LARGE = 5_000
STEPS = 12
OVERLAPS = """() => {
  scrollTo(0, 0);
  const every = [...document.querySelectorAll("header.bar, .cards, section, footer")];
  const boxes = every.filter(box => box.offsetParent || box.tagName === "HEADER");
  const found = [];
  boxes.slice(1).forEach((box, index) => {
    const above = boxes[index].getBoundingClientRect(), below = box.getBoundingClientRect();
    if (below.top < above.bottom - 1) found.push(`${boxes[index].id} ${box.id}`);
  });
  const [table, panel] = ["layers", "panel"].map(id => document.getElementById(id).getBoundingClientRect());
  if (panel.left < table.right - 1 && panel.top < table.bottom - 1) found.push("panel");
  const last = [...document.querySelectorAll("#layers .body > .row")].pop().getBoundingClientRect();
  if (matchMedia("print").matches && panel.top < last.bottom) found.push("rows under the panel");
  const rows = [...document.querySelectorAll("#layers .row")].map(row => row.getBoundingClientRect());
  rows.slice(1).forEach((row, index) => { if (row.top < rows[index].bottom - 1) found.push(`row ${index}`); });
  for (const row of document.querySelectorAll("#layers .row")) {
    const cells = [...row.children].map(cell => cell.getBoundingClientRect()).filter(cell => cell.width);
    cells.slice(1).forEach((cell, index) => { if (cell.left < cells[index].right - 1) found.push(`cell ${index}`); });
  }
  return found;
}"""
BARS: Mapping[str, object] = {
    "spec": "int4 sym block=(1,-1) scale=f32",
    "unit": "codes",
    "low": -8.5,
    "width": 1.0,
    "before": [1_000 * (8 - abs(index - 8)) for index in range(16)],
    "after": [1_000 * (8 - abs(index - 8)) for index in range(16)],
    "limits": [-8, 7],
    "grid": [float(level) for level in range(-8, 8)],
    "scale": [0.01, 0.02],
    "zero": 0.0,
    "beyond": 0.01,
    "channels": [300, 310, 120, 305],
}


def chain(count: int) -> dict[str, object]:
    """The layers of `make_report` one after the other, with an activation behind each."""
    words = ["aten.linear", "aten.relu", "", "f32[1,8]", *(f"blocks.{index // 4}" for index in range(count))]
    nodes: list[list[object]] = []
    for index in range(count):
        module = words.index(f"blocks.{index // 4}", 4 + index)
        nodes.append([f"linear_{index}", 0, module, 2, 3, [len(nodes) - 1] if nodes else []])
        nodes.append([f"relu_{index}", 1, module, 2, 3, [len(nodes) - 1]])
    return {"words": words, "nodes": nodes, "cut": 0}


def text_of(count: int, step: int) -> str:
    lines = [f"  %linear_{index} = aten.linear %x_{index} : f32[1,8]" for index in range(count)]
    lines[step * 3 % count] += " = changed"
    return "\n".join([f"program @m stage={step} {{", *lines, f"  %new_{step} = qc.quantize", "}"])


def make_page(layers: int) -> str:
    frontier = Frontier("size", "loss", (Point("", 1e6, 0.5), Point("", 2e6, 0.1)), chosen=Point("chosen", 1e6, 0.5))
    steps = tuple(Step(number, f"pass_{number}{{a=1}}", number, 0.1 * number, 10**8) for number in range(1, STEPS))
    data = PageData(
        graph=chain(layers),
        details={f"linear_{index}": {"weight": BARS, "channels": [200, 210]} for index in range(min(layers, 800))},
        texts=texts_data({number: text_of(layers, number) for number in range(STEPS)}),
        refusals=[(2, "linear_1", "its input is shared", "give it its own")],
        seconds={f"linear_{index}": 1e-6 * (1 + index % 7) for index in range(layers)},
        seconds_from="modelled",
    )
    return html(replace(make_report(layers), steps=steps, frontiers=(frontier,)), data)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium in /usr/bin")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        except Error as error:
            pytest.skip(f"Chromium does not start: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


def opened(browser: Browser, path: Path, text: str) -> tuple[Page, list[str]]:
    """The page, and a list that takes whatever the console says or anybody asks for."""
    path.write_text(text, encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(10_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(path.as_uri())
    return page, said


@pytest.fixture(scope="module")
def whole(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    page, said = opened(browser, tmp_path_factory.mktemp("page") / "page.html", make_page(60))
    yield page
    assert said == []
    page.close()


@pytest.fixture
def page(whole: Page) -> Page:
    """The page of 60 layers as it opens."""
    whole.emulate_media(color_scheme="light", media="screen")
    whole.set_viewport_size({"width": 1280, "height": 900})
    whole.reload()
    return whole


def names(page: Page) -> list[str]:
    return page.locator("#layers .row").evaluate_all("rows => rows.map(row => row.dataset.name)")


def title(page: Page) -> str:
    return page.locator("#panel h2").inner_text()


def test_it_opens_at_the_layer_with_most_error(page: Page) -> None:
    worst = max(make_report(60).layers, key=lambda layer: layer.error_share or 0.0)
    assert title(page).startswith("blocks.")
    assert page.locator("#panel").inner_text().count(f"{100 * (worst.error_share or 0):.1f} %") >= 1


def test_modules_open_and_close(page: Page) -> None:
    assert "linear_0" in names(page)
    page.locator('#layers .row[data-name="blocks.0.attention"]').click()
    assert "linear_0" not in names(page)
    page.locator('#layers .row[data-name="blocks.0.attention"]').click()
    assert "linear_0" in names(page)


def test_a_click_shows_the_layer(page: Page) -> None:
    page.locator('#layers .row[data-name="linear_1"]').click()
    panel = page.locator("#panel")
    assert title(page) == make_layer(1).module
    assert panel.locator("svg.chart").count() == 1
    assert panel.locator("svg.chart .level").count() == 16
    assert panel.locator("svg.bars").count() == 2
    assert panel.locator("svg.bars rect.low").count() == 1
    assert "int8 x uint8" in panel.inner_text()
    assert "its input is shared" in panel.inner_text()


def test_neighbours_are_links(page: Page) -> None:
    page.locator('#layers .row[data-name="linear_1"]').click()
    page.locator("#panel .links button", has_text="relu_1").click()
    assert title(page) == "blocks.0"
    assert "relu_1" in names(page)


def test_search_finds_and_escape_forgets(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("projection_3")
    assert page.locator("#count").inner_text() == "15 found"
    page.keyboard.press("Enter")
    assert title(page) == "blocks.0.attention.projection_3"
    page.keyboard.press("Escape")
    assert page.locator("#search").input_value() == ""
    page.keyboard.press("Escape")
    assert page.locator("#panel h2").count() == 0


def test_search_without_result_says_so(page: Page) -> None:
    page.locator("#search").fill("no such thing")
    assert page.locator("#layers .empty").inner_text() == "nothing is called so"


def test_keys_move_and_fold(page: Page) -> None:
    page.locator('#layers .row[data-name="linear_0"]').click()
    page.keyboard.press("j")
    assert title(page) == make_layer(1).module
    page.keyboard.press("ArrowUp")
    assert title(page) == make_layer(0).module
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert "linear_0" not in names(page)
    page.keyboard.press("ArrowRight")
    assert "linear_0" in names(page)


def test_help_opens_by_key(page: Page) -> None:
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


def test_colours_follow_the_choice(page: Page) -> None:
    fills = "rects => rects.map(rect => rect.style.fill)"
    by_bits = page.locator("#strip rect").evaluate_all(fills)
    assert set(by_bits[:4]) == {"var(--b2)", "var(--b4)", "var(--b8)", "var(--b32)"}
    page.get_by_role("radio", name="latency").click()
    by_time = page.locator("#strip rect").evaluate_all(fills)
    assert "100%" in by_time[6]
    assert by_time[0] == by_time[7] != by_time[6]
    page.locator("#strip rect").nth(9).click()
    assert title(page) == make_layer(9).module


def test_headings_sort_and_give_back_the_tree(page: Page) -> None:
    heading = page.get_by_role("button", name="SQNR", exact=True)
    heading.click()
    by_name = {layer.name: layer for layer in make_report(60).layers}
    values = [by_name[name].sqnr_db or 0.0 for name in names(page)]
    assert values == sorted(values)
    heading.click()
    values = [by_name[name].sqnr_db or 0.0 for name in names(page)]
    assert values == sorted(values, reverse=True)
    heading.click()
    assert names(page)[0] == "blocks"


def test_all_operators_come_on_demand(page: Page) -> None:
    assert "relu_0" not in names(page)
    page.keyboard.press("a")
    assert "relu_0" in names(page)


def test_data_flow_skips_what_is_not_shown(page: Page) -> None:
    page.locator('#layers .row[data-name="linear_1"]').click()
    assert page.locator(".arcs path.in").count() == 1
    assert page.locator(".arcs path.out").count() == 1


def test_two_passes_stand_side_by_side(page: Page) -> None:
    page.locator("#timeline .step", has_text="pass_2").click()
    assert page.locator("#from").input_value() == "1"
    assert page.locator("#changes").inner_text() == "1 added, 1 removed, 3 changed"
    edits = page.locator('#diff .row[data-kind="edit"]').all_inner_texts()
    assert any("linear_6" in text and text.count("changed") == 1 for text in edits)
    page.locator("#context").uncheck()
    page.locator("#diff").evaluate("box => { box.scrollTop = 1e6; }")
    expect(page.locator("#diff")).to_contain_text("linear_59")


def test_a_layer_tells_which_passes_changed_it(page: Page) -> None:
    page.locator('#layers .row[data-name="linear_6"]').click()
    page.locator("#panel .links button", has_text="3 pass_3").click()
    assert (page.locator("#from").input_value(), page.locator("#to").input_value()) == ("2", "3")


def test_the_frontier_is_drawn(page: Page) -> None:
    assert page.locator("svg.frontier circle.chosen").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1600, 1280, 800, 390])
def test_nothing_overlaps_or_is_wider_than_the_screen(page: Page, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#panel").evaluate("box => box.scrollWidth - box.clientWidth") <= 0
    assert page.evaluate(OVERLAPS) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", background)[:3]) / 3
    assert (brightness < 80) == (scheme == "dark")


def test_the_theme_can_be_changed(page: Page) -> None:
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_paper_gets_every_row(page: Page) -> None:
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert len(names(page)) >= 60
    assert page.locator("#layers").evaluate("box => getComputedStyle(box).overflowY") == "visible"
    assert page.evaluate(OVERLAPS) == []


def test_a_program_alone_is_shown(browser: Browser, tmp_path: Path) -> None:
    page, said = opened(browser, tmp_path / "page.html", html(Report("m", "", "canonical"), PageData(graph=chain(3))))
    assert len([name for name in names(page) if name.startswith(("linear", "relu"))]) == 6
    assert said == []
    page.close()


def test_of_five_thousand_layers_only_those_in_view_are_drawn(browser: Browser, tmp_path: Path) -> None:
    text = make_page(LARGE)
    assert len(text.encode()) < 5e6
    page, said = opened(browser, tmp_path / "page.html", text)
    assert page.locator("#layers .row").count() < 200
    page.locator("#search").fill("projection_3")
    assert page.locator("#count").inner_text() == "1250 found"
    page.locator("#layers").evaluate("box => { box.scrollTop = 1e9; }")
    expect(page.locator("#layers")).to_contain_text("1249")
    assert said == []
    page.close()

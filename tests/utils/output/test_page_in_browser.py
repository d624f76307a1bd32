"""The page of all results in a browser: opened as a file, without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium, console, overflow, set_screen
from tests.utils.output.saved import HOSTILE, save_result
from utils.experiments.results import Curve, Table
from utils.output import page

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
support = pytest.importorskip("selenium.webdriver.support.ui", reason="needs selenium")

pytestmark = pytest.mark.browser
DARKEST, LIGHTEST = 60, 200  # of 255, averages of a background's red, green and blue


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of three results, with two figures each, and a failure."""
    folder = tmp_path_factory.mktemp("results")
    wide = Table([f"column {k}" for k in range(20)], [[f"{k} images" for k in range(20)]])
    for place in ("section1/xor", "section1/regression", "section2/gradient_flow"):
        save_result(folder / place, figures=("first.png", "second.png"), tables={"wide": wide})
    settings = {"mode": "full", "seed": 0}
    failure = {"error": "it broke", "traceback": ["line " * 99], "settings": settings}
    (folder / "section2" / "lr_schedules").mkdir()
    (folder / "section2" / "lr_schedules" / "failure.json").write_text(json.dumps(failure))
    return page.write(folder).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture
def opened(browser: Any, url: str) -> Any:
    """The page, opened anew on a light screen; afterwards its console must be empty."""
    set_screen(browser, 1280, 1000)
    browser.get(url)
    browser.execute_script("localStorage.clear()")
    browser.get(url)
    yield browser
    assert console(browser) == []


def one(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def shown(driver: Any, selector: str) -> list[str]:
    """The ids of what can be seen."""
    found = driver.find_elements("css selector", selector)
    return [element.get_attribute("id") or "" for element in found if element.is_displayed()]


def brightness(driver: Any) -> float:
    colour = one(driver, "body").value_of_css_property("background-color")
    parts = colour[colour.index("(") + 1 : -1].split(",")[:3]
    return sum(map(float, parts)) / 3


def wait_for(driver: Any, selector: str) -> Any:
    return support.WebDriverWait(driver, 10, 0.05).until(lambda _: one(driver, selector))


def test_opens_from_a_file_and_asks_for_nothing_else(opened: Any) -> None:
    assert opened.current_url.startswith("file://")
    names = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert [name for name in opened.execute_script(names) if not name.startswith("data:")] == []
    assert one(opened, "#count").text == "4 of 4 shown"
    assert opened.execute_script(
        "return [...document.querySelectorAll('.figure img')].every(i => i.complete"
        " && i.naturalWidth === 300)"
    )


def test_filters_by_section(opened: Any) -> None:
    one(opened, "input[name=section][value='2']").find_element("xpath", "..").click()
    assert shown(opened, ".card") == ["lr_schedules", "gradient_flow"]
    assert shown(opened, "h2") == ["section-2"]
    assert one(opened, "#count").text == "2 of 4 shown"
    entries = opened.find_elements("css selector", "nav li")
    assert [entry.is_displayed() for entry in entries] == [False, False, True, True]
    one(opened, "input[name=section][value='2']").send_keys(webdriver.Keys.ARROW_LEFT)
    assert shown(opened, ".card") == ["xor", "regression"]


def test_searches_everything_that_is_written(opened: Any) -> None:
    search = one(opened, "#search")
    for words, found in (
        ("ANSWER of gradient_flow", ["gradient_flow"]),
        ("it broke", ["lr_schedules"]),
        ("11 images", ["xor", "regression", "gradient_flow"]),
        ("nowhere", []),
    ):
        search.clear()
        search.send_keys(words, webdriver.Keys.ENTER)
        assert shown(opened, ".card") == found
    search.send_keys(webdriver.Keys.ESCAPE)  # empties it
    assert len(shown(opened, ".card")) == 4


def test_figures_enlarge_and_the_keyboard_moves_on(opened: Any) -> None:
    viewer, figure = one(opened, "dialog"), one(opened, "#regression .figure")
    assert not viewer.is_displayed()
    figure.send_keys(webdriver.Keys.ENTER)
    assert viewer.is_displayed()
    caption = one(opened, "dialog figcaption")
    assert caption.text == "What is regression? first (3 of 6)"
    assert one(opened, "dialog img").size["width"] > 600
    opened.switch_to.active_element.send_keys(webdriver.Keys.ARROW_RIGHT)
    assert caption.text == "What is regression? second (4 of 6)"
    for _ in range(4):
        opened.switch_to.active_element.send_keys(webdriver.Keys.ARROW_LEFT)
    assert caption.text == "What is gradient_flow? second (6 of 6)"
    opened.switch_to.active_element.send_keys(webdriver.Keys.ESCAPE)
    assert not viewer.is_displayed()
    last = one(opened, "#gradient_flow figure:nth-child(2) .figure")
    support.WebDriverWait(opened, 10, 0.05).until(lambda _: opened.switch_to.active_element == last)
    one(opened, "#xor .figure").click()
    one(opened, "dialog .close").click()
    assert not viewer.is_displayed()


def test_curves_show_their_values(opened: Any) -> None:
    one(opened, "#xor .curves summary").click()
    chart = wait_for(opened, "#xor .plot > svg")

    def legend() -> list[str]:
        return [item.text for item in opened.find_elements("css selector", "#xor .plot li")]

    assert legend() == ["training (± std, n = 3)", "validation"]
    webdriver.ActionChains(opened).move_to_element(chart).perform()
    assert one(opened, "#xor .plot p").text == "epoch: 2"
    assert legend() == ["training (± std, n = 3)\n0.5 ± 0.05", "validation\n0.75"]
    chart.send_keys(webdriver.Keys.ARROW_RIGHT)
    assert one(opened, "#xor .plot p").text == "epoch: 3"
    assert legend() == ["training (± std, n = 3)\n0.25 ± 0.02", "validation\n0.75 at 2"]


def test_dark_and_light(opened: Any) -> None:
    switch = one(opened, "#theme")
    assert brightness(opened) > LIGHTEST and switch.get_attribute("aria-pressed") == "false"
    switch.click()
    assert brightness(opened) < DARKEST and switch.get_attribute("aria-pressed") == "true"
    opened.refresh()
    assert brightness(opened) < DARKEST, "the choice is forgotten"
    one(opened, "#theme").click()
    assert brightness(opened) > LIGHTEST


def test_the_system_decides_until_somebody_chooses(opened: Any) -> None:
    set_screen(opened, 1280, 1000, dark=True)
    assert brightness(opened) < DARKEST
    wait_for(opened, "#theme[aria-pressed=true]").click()
    assert brightness(opened) > LIGHTEST


def test_hostile_text_is_shown_and_does_nothing(browser: Any, tmp_path: Path) -> None:
    curve = Curve([1, 2], [3, 4], x_label=HOSTILE, y_label=HOSTILE)
    folder = tmp_path / "section1" / "xor"
    save_result(folder, answer=HOSTILE, curves={HOSTILE: curve}, figures=("a.png",))
    browser.get(page.write(tmp_path).as_uri())
    one(browser, ".curves summary").click()
    wait_for(browser, ".plot > svg")
    one(browser, ".figure").click()
    assert browser.title == "Deep learning, from scratch and in order: results"
    assert len(browser.find_elements("css selector", "script, img")) == 3
    assert one(browser, ".answer").text == HOSTILE
    assert console(browser) == []


def test_fits_a_phone(opened: Any) -> None:
    set_screen(opened, 360, 740)
    opened.refresh()
    opened.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    wait_for(opened, "#xor .plot > svg")
    assert overflow(opened) <= 0
    one(opened, "#xor .figure").click()
    assert overflow(opened) <= 0


def test_landmarks_names_and_focus(opened: Any) -> None:
    """What a screen reader and a keyboard need."""
    for landmark in ("header", "form[role=search]", "nav[aria-label]", "main"):
        assert one(opened, landmark).is_displayed()
    nodes = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    names: dict[str, list[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            role, name = node["role"]["value"], node.get("name", {}).get("value", "")
            names.setdefault(role, []).append(name)
    for role in ("button", "link", "searchbox", "radio", "image", "article", "region"):
        assert names[role] and all(names[role]), f"a {role} without a name"
    assert "What is xor?" in names["article"] and "first: What was found" in names["button"]
    opened.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    for expected in ("Skip to the results", ""):
        webdriver.ActionChains(opened).send_keys(webdriver.Keys.TAB).perform()
        focused = opened.switch_to.active_element
        assert focused.text == expected
        assert focused.value_of_css_property("outline-style") == "solid"


def test_prints_light_and_without_tools(opened: Any) -> None:
    one(opened, "#theme").click()
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert brightness(opened) > LIGHTEST
        assert not one(opened, ".tools").is_displayed()
        assert one(opened, "#xor .answer").is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert base64.b64decode(opened.print_page()).startswith(b"%PDF")


def test_can_be_read_without_javascript(browser: Any, url: str) -> None:
    set_screen(browser, 1280, 1000)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(url)
        assert len(shown(browser, ".card")) == 4
        assert "The answer of xor is 42." in one(browser, "#xor .answer").text
        assert one(browser, "#xor img").size["width"] >= 280
        assert not one(browser, ".tools").is_displayed()
        one(browser, "#xor .curves summary").click()
        assert "the numbers are in result.json" in one(browser, "#xor .plot").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

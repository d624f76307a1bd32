"""The page of `python main.py draw` in a browser: one draws, and an answer appears."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser import chromium, console, overflow, set_screen
from tests.test_commands_draw import serving, train

pytestmark = pytest.mark.browser

SHOWN = """return [document.getElementById("answer").innerText,
                   Array.from(document.querySelectorAll("#bars li"), (bar) => bar.innerText)]"""
SIZES = """return Array.from(document.querySelectorAll("figure canvas"),
                             (canvas) => [canvas.width, canvas.height])"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium() as browser:
        network, _ = train(tmp_path_factory.mktemp("results"))
        with serving(network) as server:
            browser.get(f"http://127.0.0.1:{server.port}/")
            yield browser


def wait_for(page: Any, words: str) -> str:
    """The answer, as soon as it has `words` in it."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 10, 0.05).until(lambda _: words in page.find_element("id", "answer").text)
    return page.find_element("id", "answer").text


def draw_one(page: Any) -> None:
    """A stroke down the middle, by the mouse."""
    from selenium.webdriver import ActionChains

    paper = page.find_element("id", "drawing")
    half = paper.size["height"] // 2
    pen = ActionChains(page, duration=30)
    pen.move_to_element_with_offset(paper, 0, -half * 2 // 3).click_and_hold()
    for part in (-1, 0, 1, 2):
        pen.move_to_element_with_offset(paper, 0, half * part // 3)
    pen.release().perform()


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (360, True)])
def test_a_drawn_one_is_answered(page: Any, width: int, dark: bool) -> None:
    set_screen(page, width, 900, dark=dark)
    page.refresh()
    wait_for(page, "Nothing drawn")
    assert overflow(page) <= 0
    draw_one(page)
    wait_for(page, "The network says 1")
    said, bars = page.execute_script(SHOWN)
    assert [bar.split()[0] for bar in bars] == [str(digit) for digit in range(10)]
    shares = [float(bar.split()[1].rstrip("%")) for bar in bars]
    assert sum(shares) == pytest.approx(100, abs=0.5) and f"{max(shares)}%" in said
    assert "CNN" in page.find_element("id", "about").text
    ink = "return document.getElementById(arguments[0]).getContext('2d').getImageData(14, 14, 1, 1)"
    assert page.execute_script(f"{ink}.data[0]", "picture") > 200
    sizes = page.execute_script(SIZES)
    assert sizes == [[28, 28], [28, 28], [4 * 15 - 1, 2 * 15 - 1], [4 * 8 - 1, 4 * 8 - 1]]
    assert overflow(page) <= 0
    page.find_element("id", "clear").click()
    wait_for(page, "Nothing drawn")
    assert not page.find_element("id", "layers").is_displayed()
    assert console(page) == []


def test_one_can_draw_by_keys_alone(page: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    set_screen(page, 1000, 900)
    page.refresh()
    wait_for(page, "Nothing drawn")
    keys = ActionChains(page).send_keys(Keys.TAB, " ").send_keys(Keys.ARROW_DOWN * 20)
    keys.send_keys(" ", Keys.ARROW_RIGHT * 5).perform()
    wait_for(page, "The network says 1")
    assert page.find_element("id", "pen").is_displayed()
    ActionChains(page).send_keys(Keys.DELETE).perform()
    wait_for(page, "Nothing drawn")
    assert console(page) == []


def test_it_says_so_when_the_server_has_gone(page: Any) -> None:
    page.refresh()
    wait_for(page, "Nothing drawn")
    page.execute_script("window.fetch = () => Promise.reject(new Error('gone'))")
    draw_one(page)
    assert "main.py draw" in wait_for(page, "No answer (gone)")

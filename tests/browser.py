"""Pages in a headless Chromium, for tests: what they show, and what goes wrong in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """A Selenium driver of Chromium; the test is skipped where one of the three is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs Chromium and its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


def set_screen(browser: Any, width: int, height: int, *, dark: bool = False) -> None:
    """A screen of so many CSS pixels, for this page and all that follow."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def console(browser: Any) -> list[str]:
    """What has come into the console since this was asked last: nothing, if all is well."""
    return [entry["message"] for entry in browser.get_log("browser")]


def overflow(browser: Any) -> int:
    """By how many pixels the page is wider than the screen."""
    return browser.execute_script("return document.documentElement.scrollWidth - innerWidth")

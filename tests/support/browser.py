"""Chromium without a window, as a user sees pages with it: by labels, links, buttons and text."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import (
    NoSuchElementException,
    StaleElementReferenceException,
    WebDriverException,
)
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from support.waiting import wait_until

T = TypeVar("T")

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
AXE = Path(__file__).parents[2] / ".clients/node_modules/axe-core/axe.min.js"
PASSWORD = "correct horse"  # of each user of the tests
NARROW, WIDE = 360, 1280  # pixels
_ARGUMENTS = (
    *("--headless=new", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Browser:
    """One Chromium; `url` is the server whose paths are opened."""

    def __init__(self, profile: Path) -> None:
        """Start it; profile -- a new directory for what it keeps."""
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # which Chromium refuses to root
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(service=Service(str(DRIVER)), options=options)
        self.url = ""
        self.set_width(WIDE)

    def close(self) -> None:
        self.driver.quit()

    def forget(self) -> None:
        """Forget who is logged in, and what was logged; show everything, run scripts."""
        self.driver.get("about:blank")
        self._tell("Network.clearBrowserCookies")
        self._tell("Emulation.setScriptExecutionDisabled", value=False)
        self._tell("Emulation.setTimezoneOverride", timezoneId="")
        self.set_scheme("light")
        self.set_width(WIDE)
        self.console()
        self.requests()

    def set_width(self, pixels: int, height: int = 800) -> None:
        """Show pages as a screen of this width does."""
        metrics = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._tell("Emulation.setDeviceMetricsOverride", **metrics)

    def disable_scripts(self) -> None:
        """Run no script of the next pages."""
        self._tell("Emulation.setScriptExecutionDisabled", value=True)

    def set_scheme(self, name: str) -> None:
        """Prefer light or dark pages."""
        self._tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def set_zone(self, name: str) -> None:
        """Live in a time zone."""
        self._tell("Emulation.setTimezoneOverride", timezoneId=name)

    def _tell(self, command: str, **parameters: object) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)

    # --- what a user does ---

    def open(self, path: str) -> None:
        """Load a page of the server."""
        self.driver.get(self.url + path)

    def fill(self, label: str, text: str) -> None:
        """Replace the text of a field."""
        field = self.field(label)
        field.clear()
        field.send_keys(text)

    def field(self, label: str) -> WebElement:
        """Wait for the field with a label; return it."""
        named = f"//label[contains(normalize-space(), {_quoted(label)})]"
        inputs = "*[self::input or self::select or self::textarea]"
        return self._wait(
            f"{named}//{inputs} | //{inputs}[@id={named}/@for or @aria-label={_quoted(label)}]", label
        )

    def sign_in(self, name: str, password: str) -> None:
        """Fill in the form of the login, and send it."""
        self.fill("Name", name)
        self.fill("Password", password)
        self.click("Log in")

    def signed_in(self, name: str) -> None:
        """Sign in as a user of the tests."""
        self.open("/login")
        self.sign_in(name, PASSWORD)
        wait_until(lambda: not self.path.startswith("/login"), 20, lambda: self.text)

    def click(self, name: str) -> None:
        """Wait for a link, button or check box and click on it."""
        named = f"[normalize-space()={_quoted(name)} or @aria-label={_quoted(name)}]"
        elements = "*[self::a or self::button or self::summary or self::input[@type='checkbox']]"
        self._until(lambda: self._click(f"//{elements}{named}"), name)

    def _click(self, xpath: str) -> bool:
        self.driver.find_element(By.XPATH, xpath).click()
        return True

    def tab_to(self, name: str, *, backwards: bool = False) -> None:
        """Press the key Tab until the element of a name has the focus."""
        for _ in range(200):
            if self.focus == name:
                return
            self.press(*((Keys.SHIFT, Keys.TAB) if backwards else (Keys.TAB,)))
        raise AssertionError(f"no key leads to {name!r} at {self.path}")

    def press(self, *keys: str) -> None:
        """Press keys where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    # --- what a user sees ---

    @property
    def path(self) -> str:
        """The path and query of the page."""
        return str(self.driver.current_url).removeprefix(self.url)

    @property
    def text(self) -> str:
        """The visible text of the page."""
        return str(self._until(lambda: self.driver.find_element(By.TAG_NAME, "body").text or " ", "text"))

    def see(self, text: str, timeout: float = 20) -> None:
        """Wait until the page shows a text."""
        wait_until(lambda: text in self.text, timeout, lambda: f"{text!r} at {self.path} in:\n{self.text}")

    def see_later(self, text: str, timeout: float = 30) -> None:
        """Reload the page until it shows a text."""

        def shown() -> bool:
            if text not in self.text:
                self.driver.refresh()
            return text in self.text

        wait_until(shown, timeout, lambda: f"{text!r} at {self.path} in:\n{self.text}")

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements of a CSS selector."""
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def figure(self, name: str) -> int:
        """Return a figure of the overview; -1 if there is none."""
        found = re.search(rf"^{name}\n([0-9\s]+)$", self.text, re.MULTILINE)
        return int(re.sub(r"\s", "", found[1])) if found else -1

    @property
    def focus(self) -> str:
        """The name of the element that has the focus."""
        script = "const e = document.activeElement; return e.ariaLabel || e.innerText || e.name || e.tagName"
        return str(self.driver.execute_script(script)).strip()

    def is_wider_than_screen(self) -> bool:
        """Whether the page scrolls horizontally."""
        root = "document.documentElement"
        return bool(self.driver.execute_script(f"return {root}.scrollWidth > {root}.clientWidth"))

    # --- what a developer sees ---

    def console(self) -> list[str]:
        """Return the errors and warnings of pages since the last call."""
        return [f"{each['level']} {each['message']}" for each in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return the URLs that were requested since the last call."""
        messages = [json.loads(each["message"])["message"] for each in self.driver.get_log("performance")]
        return [
            each["params"]["request"]["url"]
            for each in messages
            if each["method"] == "Network.requestWillBeSent"
        ]

    def inaccessible(self) -> list[str]:
        """Return what axe-core finds serious or critical on the page, with the first element of each."""
        self.driver.execute_script(AXE.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script("axe.run().then(arguments[0])")
        return [
            f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]

    # --- waiting ---

    def _wait(self, xpath: str, what: str) -> WebElement:
        return self._until(lambda: self.driver.find_element(By.XPATH, xpath), what)

    def _until(self, look: Callable[[], T], what: str, timeout: float = 20) -> T:
        """Do what may fail while a page is loaded, until it works."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return look()
            except WebDriverException as error:
                if not _is_loading(error):
                    raise
                if time.monotonic() > deadline:
                    raise AssertionError(f"no {what!r} at {self.path}: {error.msg}") from None


def _is_loading(error: WebDriverException) -> bool:
    """Return whether an element is not there yet, or no more; Chromium has two words for the latter."""
    if isinstance(error, NoSuchElementException | StaleElementReferenceException):
        return True
    return "does not belong to the document" in (error.msg or "")


def _quoted(text: str) -> str:
    """Return a text as an expression of XPath 1.0, whose literals know no escapes."""
    if '"' not in text:
        return f'"{text}"'
    parts = ", '\"', ".join(f'"{part}"' for part in text.split('"'))
    return f"concat({parts})"


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Run Chromium; skip the test where it is not installed, but fail it where CI is set."""
    missing = [path for path in (CHROMIUM, DRIVER, AXE) if not path.exists()]
    if missing:
        fail = pytest.fail if os.environ.get("CI") else pytest.skip
        fail(f"{missing[0]} is missing; `scripts/setup.sh clients` installs it")
    browser = Browser(profile)
    yield browser
    browser.close()

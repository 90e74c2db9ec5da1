"""Every page of the monitor in Chromium: login, widths, accessibility, and nothing but this site."""

import re

import pytest
from selenium.webdriver.common.keys import Keys
from support.browser import NARROW, PASSWORD, WIDE
from support.waiting import wait_until

from taskqueue.config import AmqpSettings
from taskqueue.flow import client
from taskqueue.monitor.web.pages.screens import SCREENS

#: The id of a workflow with a map and a step that fails.
WORKFLOW = "0123456789abcdef" * 2
PAGES = (
    *("/login", "/nothing", *(screen.path for screen in SCREENS)),
    *(
        "/workitems/shown",
        "/workitems/shown/edit",
        "/workitems/shown/message",
        "/workitems?state=failed",
        "/charts?type=mail&with=invoice",
        "/schedules/yearly",
        f"/workflows/{WORKFLOW}",
    ),
)


@pytest.fixture(scope="module", autouse=True)
def shown(shop_of_all):
    """A failed workitem with output, for its page, and a workflow."""
    failed = shop_of_all.count("mail", "failed")  # other files have left some
    shop_of_all.submit("mail", "shown", order="a long word " + "x" * 300, fails="no address " + "y" * 300)
    steps = [
        {"step": "list", "type": "mail", "body": {"order": "a"}},
        {"step": "each", "type": "mail", "map": {"$result": "list"}},
        {"step": "last", "type": "mail", "body": {}, "after": ["each"]},
    ]
    amqp = AmqpSettings.from_url(shop_of_all.ground.url)
    client.start(amqp, {"workflow": "shown", "id": WORKFLOW, "steps": steps})
    shop_of_all.wait_for("mail", "failed", failed + 1)


def test_a_user_signs_in_and_out(browser):
    browser.open("/hosts")
    browser.see("Name")
    browser.sign_in("ada", PASSWORD)
    browser.see("workers are busy")
    assert browser.path == "/hosts", "the page that was asked for"
    browser.click("Log out")
    browser.see("Password")
    browser.open("/hosts")
    browser.see("Password")


def test_a_wrong_password_is_told_and_the_right_one_is_taken_afterwards(browser):
    browser.open("/")
    browser.sign_in("ada", "wrong horse")
    browser.see("name or password is wrong")
    browser.sign_in("ada", PASSWORD)
    browser.see("Overview")


def test_the_address_that_up_prints_needs_no_password(browser, shop):
    browser.open(f"/login?token={shop.token}")
    browser.see("Overview")
    assert browser.path == "/", "the token is not in the address any more"


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("nora", {"Hosts", "Pools", "Broker", "Audit"}),
        ("vera", {"Audit"}),
        ("otto", {"Audit"}),
        ("ada", set()),
    ],
)
def test_each_role_sees_its_screens(browser, name, hidden):
    browser.signed_in(name)
    shown = {each.text for each in browser.all("nav a")}
    assert shown == {screen.title for screen in SCREENS} - hidden
    for screen in SCREENS:
        browser.open(screen.path)
        browser.see("Forbidden" if screen.title in hidden else screen.title)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_no_error_asks_no_other_site_fits_each_screen_and_is_accessible(browser, path):
    browser.signed_in("ada")
    for width, scheme in ((NARROW, "light"), (WIDE, "dark")):
        browser.set_width(width)
        browser.set_scheme(scheme)
        browser.requests()
        browser.open(path)
        browser.see("taskqueue")
        expected = "status of 404" if path == "/nothing" else "no error"
        assert [each for each in browser.console() if expected not in each] == []
        asked = {re.split("/(?:static|live|suggest)/", url)[0] for url in browser.requests()}
        assert asked <= {browser.url + path, browser.url}
        assert not browser.is_wider_than_screen(), width
        assert browser.inaccessible() == [], width


def test_the_keyboard_alone_signs_in_and_opens_a_screen(browser):
    browser.open("/")
    browser.see("Password")
    browser.press("ada", Keys.TAB, PASSWORD, Keys.ENTER)
    browser.see("Overview")
    for _ in range(30):
        browser.press(Keys.TAB)
        if browser.focus == "Hosts":
            break
    browser.press(Keys.ENTER)
    browser.see("workers are busy")


def test_the_skip_link_is_first_and_leads_to_the_content(browser):
    browser.signed_in("ada")
    browser.open("/hosts")
    browser.press(Keys.TAB)
    assert browser.focus == "Skip to the content"
    browser.press(Keys.ENTER)
    wait_until(lambda: browser.path == "/hosts#main")


def test_pages_work_without_scripts(browser):
    browser.disable_scripts()
    browser.open("/broker")
    browser.sign_in("ada", PASSWORD)
    browser.see("No event was missed.")
    browser.click("Hosts")
    browser.see("workers are busy")


def test_times_are_in_the_browsers_zone(browser):
    browser.set_zone("Asia/Tokyo")
    browser.signed_in("ada")
    browser.open("/hosts")
    assert "GMT+9" in browser.all("time")[0].get_attribute("title")

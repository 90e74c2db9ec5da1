"""Searches and actions of users on the monitor's pages in Chromium, while workitems run."""

import time

import pytest
from selenium.webdriver.common.keys import Keys
from support.browser import PASSWORD
from support.recorded import CONSUMER, batch
from support.waiting import wait_until
from support.web import serving

from taskqueue.messages.events import Ended
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web import users
from taskqueue.monitor.web.rights import VIEWER, Rights
from taskqueue.monitor.web.users import UserFile

ODD_ID = '<b>"odd"</b>&amp;'
MANY, AT_ONCE = 100_000, 5000
HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"


def test_live_figures_change_while_workitems_run(browser, shop):
    browser.signed_in("vera")
    browser.open("/")
    shop.submit("mail", "first", order=1)
    wait_until(lambda: browser.figure("Succeeded") >= 1, 30, lambda: browser.text)
    before = browser.figure("Succeeded")
    browser.driver.execute_script("window.isTheSamePage = true")
    shop.submit_many("mail", ({"order": number} for number in range(20)))
    wait_until(lambda: browser.figure("Succeeded") == before + 20, 30, lambda: browser.text)
    assert browser.driver.execute_script("return window.isTheSamePage")
    assert browser.console() == []


def test_500_failed_workitems_are_found_as_one_group_and_retried(browser, shop):
    repair = shop.file("repair")
    failing = {"fails": "no address for customer", "repair": str(repair)}
    shop.submit_many("invoice", ({**failing, "order": number} for number in range(500)))
    shop.wait_for("invoice", "failed", 500)
    repair.touch()
    browser.signed_in("otto")
    browser.open("/dead-letters?type=invoice")
    browser.see("ValueError: no address for customer")
    browser.see("500 dead letters in 1 group of one type and error.")
    browser.click("Retry…")
    browser.see("Retry 500 workitems?")
    assert shop.count("invoice", "failed") == 500, "a question does nothing"
    browser.click("Retry 500")
    browser.see("500 workitems sent back to their queues")
    shop.wait_for("invoice", "succeeded", 500)
    browser.click("Go back")
    browser.see_later("No dead letter matches.")


def test_a_running_workitem_is_watched_and_cancelled(browser, shop):
    gate = shop.file("never")
    shop.submit("report", "report-1", gate=str(gate), pages=3)
    browser.signed_in("otto")
    browser.open("/running")
    browser.see_later("report-1")
    browser.click("report-1")
    browser.see("page 3 of 3")
    browser.see("50 %")
    browser.open("/running")
    browser.click("Select report-1")
    browser.click("Cancel the selected…")
    browser.see("Cancel 1 workitem?")
    browser.click("Cancel 1")
    browser.see("1 workitem cancelled")
    shop.wait_for("report", "cancelled", 1)
    browser.open("/workitems/report-1")
    browser.see_later("cancelled")


def test_a_type_is_paused_and_resumed_on_the_page_of_the_pools(browser, shop):
    browser.signed_in("otto")
    browser.open("/pools")
    browser.see("There is none: no type is paused")
    browser.fill("Type", "invoice")
    browser.fill("For a time, as 30m, 2h or 7d; empty: until it is resumed", "2h")
    browser.click("Pause")
    browser.see("invoice is paused")
    browser.see("obeys")
    browser.click("Go back")
    browser.see("Resume invoice")
    assert browser.inaccessible() == []
    browser.click("Resume invoice")
    browser.see("invoice is resumed")
    browser.click("Go back")
    browser.see("There is none: no type is paused")


def test_output_comes_live_until_the_workitem_is_over(browser, shop):
    gate = shop.file("end")
    shop.submit("report", "report-2", gate=str(gate), pages=2)
    browser.signed_in("vera")
    browser.open("/running")
    browser.see_later("report-2")
    browser.click("report-2")
    browser.see("page 2 of 2")
    assert "printed" not in browser.text
    gate.touch()
    browser.see("printed")
    browser.see("succeeded")


def test_what_workitems_say_stays_text(browser, shop):
    before = shop.count("mail", "failed")
    shop.submit("mail", ODD_ID, order=HOSTILE, fails=HOSTILE)
    shop.wait_for("mail", "failed", before + 1)
    browser.signed_in("ada")
    browser.requests()
    for path in ("/workitems?state=failed&type=mail", "/dead-letters?type=mail", "/"):
        browser.open(path)
        browser.see("mail")
    browser.open("/workitems?state=failed&type=mail")
    browser.click(ODD_ID)
    browser.see("Traceback")
    assert f"ValueError: {HOSTILE}" in browser.text
    assert f"order {HOSTILE}" in browser.text, "the output"
    assert browser.driver.title != "owned"
    assert browser.console() == []
    assert not [url for url in browser.requests() if not url.startswith(f"{browser.url}/")]


def test_the_palette_suggests_and_leads_by_keyboard(browser, shop):
    shop.submit("mail", "palette-1", order=1)
    wait_until(lambda: shop.count("mail", "succeeded") >= 1, 60)
    browser.signed_in("vera")
    browser.press(Keys.CONTROL, "k")
    browser.press("palette")
    browser.see("palette-1 workitem")
    assert browser.inaccessible() == []
    browser.press(Keys.ARROW_DOWN, Keys.ENTER)
    browser.see("Time line")
    assert browser.path == "/workitems/palette-1"
    browser.press("/")
    browser.press("dead")
    browser.see("Dead letters screen")
    browser.press(Keys.ESCAPE)
    wait_until(lambda: "Dead letters screen" not in browser.text)
    browser.press(Keys.BACKSPACE)
    browser.see("Dead letters screen")
    browser.press(Keys.ARROW_UP, Keys.ARROW_DOWN, Keys.ENTER)
    wait_until(lambda: browser.path == "/dead-letters")
    assert browser.console() == []


def test_the_keyboard_alone_finds_and_purges_a_workitem(browser, shop):
    before = shop.count("mail", "failed")
    shop.submit("mail", "to-purge", fails="for good")
    shop.wait_for("mail", "failed", before + 1)
    browser.signed_in("otto")
    browser.press("/")
    browser.press("to-purge", Keys.ENTER)
    browser.see("for good")
    browser.tab_to("Purge…")
    browser.press(Keys.ENTER)
    browser.see("Purge 1 workitem?")
    browser.tab_to("Purge 1")
    browser.press(Keys.ENTER)
    browser.see("1 workitem removed for good")


def test_without_scripts_a_workitem_is_filtered_selected_and_retried(browser, shop):
    repair = shop.file("repair-thumbnail")
    shop.submit("thumbnail", "crashed", crashes=True, repair=str(repair))
    shop.wait_for("thumbnail", "failed", 1)
    repair.touch()
    browser.disable_scripts()
    browser.open("/workitems")
    browser.sign_in("otto", PASSWORD)
    browser.fill("Type", "thumbnail")
    browser.click("Filter")
    browser.see("killed by SIGSEGV")
    browser.click("Select crashed")
    browser.click("Retry…")
    browser.click("Retry 1")
    browser.see("1 workitem sent back")
    shop.wait_for("thumbnail", "succeeded", 1)


def test_a_viewer_has_no_buttons_that_act(browser, shop):
    browser.signed_in("vera")
    for path in ("/workitems", "/running", "/dead-letters"):
        browser.open(path)
        browser.see("Log out")
        assert not browser.all("main [name=action]"), path


# --- a large record ---


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A web process over a record of many workitems, of which one is sought."""
    directory, now = tmp_path_factory.mktemp("large") / "record", time.time()
    plain = Ended("", "digest", 1, "succeeded", "succeeded", now - 10, now - 11, worker="digest/1")
    odd = Ended(
        "needle", "digest", 1, "failed", "failed", now - 3000, now - 3001, error="IOError: lost needle"
    )
    with Store(directory) as store:
        for first in range(0, MANY, AT_ONCE):
            events = [
                moved(plain, f"w{number}", now - number / 100) for number in range(first, first + AT_ONCE)
            ]
            events[0] = odd if first == MANY // 2 else events[0]
            store.write([(first + 1, batch(CONSUMER, first, events))])
    UserFile(directory / "users.json").add(users.user(Rights("vera", VIEWER), PASSWORD))
    with serving(directory, tmp_path_factory.mktemp("web")) as web:
        yield web


def moved(event, id_, ended):
    return event._replace(id=id_, ended=ended, started=ended - 1)


@pytest.mark.parametrize(("field", "text"), [("Id", "needle"), ("Error", "lost needle")])
def test_a_search_finds_one_of_100000(browser, large, field, text):
    browser.url = large.url
    browser.signed_in("vera")
    browser.open("/workitems")
    browser.fill(field, text)
    browser.click("Filter")
    browser.see("IOError: lost needle")
    assert [each.text for each in browser.all("td.id")] == ["needle"]


def test_the_palette_leads_to_one_of_100000(browser, large):
    browser.url = large.url
    browser.signed_in("vera")
    browser.press(Keys.CONTROL, "k")
    browser.press("w77777", Keys.ENTER)
    browser.see("w77777")
    assert browser.path == "/workitems/w77777"

"""The first use of the pages: find the workitem that hangs, and why others failed; retry these."""

from support.waiting import wait_until

NUMBER, FAILING = 1000, 40


def test_what_hangs_and_why_others_failed_is_found_by_links_alone_and_they_are_retried(browser, shop):
    repair = shop.file("address-book")
    failing = {"fails": "no such address", "repair": str(repair)}
    before = {state: shop.count("mail", state) for state in ("succeeded", "failed")}
    shop.submit("report", "hanging", gate=str(shop.file("never-there")), pages=3)
    shop.submit_many(
        "mail",
        (
            {"order": number, **(failing if number % (NUMBER // FAILING) == 7 else {})}
            for number in range(NUMBER)
        ),
    )
    shop.wait_for("mail", "succeeded", before["succeeded"] + NUMBER - FAILING)
    shop.wait_for("mail", "failed", before["failed"] + FAILING)
    browser.open(f"/login?token={shop.token}")  # the address that `taskqueue up` prints

    wait_until(lambda: browser.figure("Running") >= 1, 30, lambda: browser.text)
    browser.click("Running")
    browser.see("hanging")
    browser.click("hanging")
    browser.see("page 3 of 3")

    browser.click("Dead letters")
    browser.see("ValueError: no such address")
    row = next(each for each in browser.all("tbody tr") if "no such address" in each.text)
    assert str(FAILING) in row.text.split()
    row.find_element("css selector", "td a").click()
    browser.see("failed")
    browser.all("td.id a")[0].click()
    browser.see("Traceback")
    browser.see("raise ValueError(body")

    repair.touch()
    browser.click("Dead letters")
    browser.see("ValueError: no such address")
    row = next(each for each in browser.all("tbody tr") if "no such address" in each.text)
    row.find_element("css selector", "button[value=retry]").click()
    browser.see(f"Retry {FAILING} workitems?")
    browser.click(f"Retry {FAILING}")
    browser.see(f"{FAILING} workitems sent back to their queues")
    shop.wait_for("mail", "succeeded", before["succeeded"] + NUMBER)

    browser.click("Running")
    browser.click("Select hanging")
    browser.click("Cancel the selected…")
    browser.click("Cancel 1")
    browser.see("1 workitem cancelled")
    assert browser.console() == []

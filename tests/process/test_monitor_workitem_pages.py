"""The pages of workitems, without a script: filters, counts, rights, hostile text, sizes."""

import re
from urllib.parse import quote

import pytest
from support.pages import Tags, add_users, logged_in
from support.recorded import CONSUMER, DISPATCHER, ENDED, NOW, ROUTED, SECRET, batch, write_record
from support.web import serving

from taskqueue.messages.events import Begun, Ended, LogLine, Routed
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web.pages import static

HOSTILE = "</pre></textarea><script>alert(1)</script>\"'><img src=x onerror=alert(1)> \x1b[31m \u202e"
WORKFLOW = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    record = tmp_path_factory.mktemp("monitor") / "record"
    write_record(record)
    with Store(record) as store:
        store.write(
            [(3, batch(DISPATCHER, len(ROUTED) + 1, routed())), (4, batch(CONSUMER, len(ENDED), runs()))]
        )
    add_users(record)
    with serving(record, tmp_path_factory.mktemp("web")) as web:
        yield web


def routed():
    hostile = Routed(HOSTILE, "digest", NOW - 30, 40, tenant=HOSTILE[:60], labels="<b>", head=HOSTILE)
    large = Routed("large", "digest", NOW - 30, 40, head='"' * 60_000)
    many = [Routed(f"many-{number:03}", "bulk", NOW - 20, 2, head="{}") for number in range(120)]
    bodies = {"whole": (7, "größe"), "part": (17, '{"key": "a'), "redacted": (18, '{"pin":     "***"}')}
    told = [Routed(name, "bulk", NOW - 19, size, head=head) for name, (size, head) in bodies.items()]
    steps = [Routed(f"{WORKFLOW}.{name}", "steps", NOW - 3000, 2) for name in ("sum", "each[0].2", "2")]
    return [hostile, large, *many, *told, *steps]


def runs():
    name = {"tenant": HOSTILE[:60]}
    failure = {"error": HOSTILE, "traceback": f"Traceback:\n  {HOSTILE}", "worker": HOSTILE, **name}
    large = {"error": '"' * 16_000, "traceback": '"\n' * 8000}
    again = ("failed", "retrying", NOW - 20, NOW - 21)
    return [
        Begun(HOSTILE, "digest", 1, NOW - 29, HOSTILE, **name),
        LogLine(HOSTILE, NOW - 28, HOSTILE, "stdout", HOSTILE, **name),
        Ended(HOSTILE, "digest", 1, "failed", "failed", NOW - 27, NOW - 29, **failure),
        Ended("part", "bulk", 1, "failed", "failed", NOW - 8, NOW - 9, omitted="result traceback"),
        *[LogLine("large", NOW - 20, "w", "stdout", "&" * 8000) for _ in range(1200)],
        *[Ended("large", "digest", each, *again, **large) for each in range(1, 30)],
        Ended("large", "digest", 30, "crashed", "failed", NOW - 19, NOW - 20, peak_memory=3 * 10**9, **large),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def root(web):
    return logged_in(web)


def shown_ids(answer):
    assert answer.status == 200, answer
    return re.findall(r'<td class="id"><a href="/workitems/([^"?]+)', answer.text)


def counts(answer):
    return dict(
        re.findall(r'<span class="state \w+">(\w+)</span> <span class="count">([^<]*)</span>', answer.text)
    )


# --- steps ---


@pytest.mark.parametrize(
    ("id_", "is_step"),
    [
        (f"{WORKFLOW}.sum", True),
        (f"{WORKFLOW}.each[0].2", True),
        (f"{WORKFLOW}.2", False),  # the second request of a chain
        ("large", False),
    ],
)
def test_the_page_of_a_step_leads_to_its_workflow(root, id_, is_step):
    page = root.get(f"/workitems/{quote(id_)}")
    assert (f'<dd class="id"><a href="/workflows/{WORKFLOW}">{WORKFLOW}</a>' in page.text) == is_step


# --- the list ---


def test_the_list_shows_what_the_filter_selects_and_how_much_each_state_has(root):
    assert shown_ids(root.get("/workitems?type=mail")) == ["south-2", "south-1"]
    answer = root.get("/workitems?type=mail&state=failed&tenant=&id=")
    assert shown_ids(answer) == ["south-1"]
    assert {name: number for name, number in counts(answer).items() if number != "0"} == {
        "failed": "1",
        "running": "1",
    }, "the other states are one link away"
    assert 'value="mail"' in answer.text, "the form shows the filter"
    assert 'href="/workitems?type=mail&amp;state=running"' in answer.text
    assert "disk full" in answer.text


def test_each_page_leads_to_the_older_ones(root):
    seen, path = [], "/workitems?type=bulk"
    while path:
        answer = root.get(path)
        seen += shown_ids(answer)
        following = re.search(r'href="([^"]+)" rel="next"', answer.text)
        path = following and following[1].replace("&amp;", "&")
    assert len(seen) == len(set(seen)) == 123


def test_a_filter_may_be_relative_to_now(root):
    assert "north-1" in shown_ids(root.get("/workitems?type=digest&since=2h"))
    assert shown_ids(root.get("/workitems?type=digest&since=1s")) == []


def test_a_bad_filter_is_told_in_a_page(root):
    answer = root.get("/workitems?state=done")
    assert (answer.status, answer.headers["content-type"]) == (400, "text/html; charset=UTF-8")
    assert "parameter state: expected one of queued" in answer.text


def test_an_empty_list_says_what_to_do_next(root):
    assert "No workitem matches this filter" in root.get("/workitems?type=nothing").text


# --- one workitem ---


def test_a_body_that_is_recorded_as_a_whole_is_downloaded(root):
    assert (
        '<a class="button plain" href="/workitems/whole/body">Download</a>'
        in root.get("/workitems/whole").text
    )
    answer = root.get("/workitems/whole/body")
    assert (answer.body, answer.headers["content-type"]) == ("größe".encode(), "application/octet-stream")
    for name, size in (("part", 17), ("redacted", 18)):
        page = root.get(f"/workitems/{name}").text
        assert f"This is what is recorded of its {size} B: the beginning" in page
    assert ">Download<" not in page
    assert root.get("/workitems/redacted/body").status == 400


def test_what_is_missing_of_an_end_is_told(root):
    assert "missing" not in root.get("/workitems/whole").text
    assert "result and traceback are missing" in root.get("/workitems/part").text


def test_a_workitem_shows_its_runs_output_body_and_result(root):
    text = root.get("/workitems/north-1").text
    for part in (
        "queued",
        "started",
        "succeeded",
        "digest/1",
        "first line",
        SECRET,
        "&quot;sum&quot;: 3",
        "nightly",
    ):
        assert part in text, part
    assert root.get("/workitems/north-1/log").text.splitlines()[0].endswith("stdout first line")
    result = root.get("/workitems/north-1/result")
    assert (result.body, result.headers["content-type"]) == (b'{"sum": 3}', "application/octet-stream")
    assert result.headers["content-disposition"].startswith("attachment")
    failed = root.get("/workitems/south-1").text
    assert "Traceback: line 1\nline 2" in failed
    assert "taskqueue submit mail - --tenant south &lt;BODY" in failed, "the record has the body in part"


def test_the_command_to_submit_again_is_whole_if_the_body_is(root):
    assert '<code class="copied">taskqueue submit bulk &#x27;{}&#x27;</code>'.replace("&#x27;", "&#39;") in (
        root.get("/workitems/many-000").text.replace("&#x27;", "&#39;")
    )


def test_a_workitem_that_was_never_seen_is_told(root):
    for path in (
        "/workitems/none",
        "/workitems/none/log",
        "/workitems/none/result",
        "/workitems/north-1?tenant=x",
    ):
        answer = root.get(path)
        assert answer.status == 404, path
        assert "never seen" in answer.text


@pytest.mark.parametrize(
    ("word", "path"),
    [("north-1", "/workitems/north-1"), ("digest", "/workitems?type=digest"), ("workitems", "/workitems"),
     ("nor", "/workitems?id=nor"), ("", "/workitems"), ("//x.example", "/workitems?id=%2F%2Fx.example")],
)  # fmt: skip
def test_the_field_of_the_layout_finds_ids_types_and_screens(root, word, path):
    answer = root.get(f"/find?q={quote(word)}")
    assert (answer.status, answer.headers["location"]) == (303, path)


def test_a_word_has_suggestions_of_screens_types_and_ids(root, web):
    def suggested(word, name="root"):
        answer = root if name == "root" else logged_in(web, name)
        found = answer.get(f"/suggest?q={quote(word)}").json["suggestions"]
        return [(each["kind"], each["text"], each["address"]) for each in found]

    assert ("screen", "Metrics", "/charts") in suggested("metr")
    assert ("type", "mail", "/workitems?type=mail") in suggested("MAI")
    assert ("workitem", "south-1", "/workitems/south-1?tenant=south") in suggested("sou")
    assert {text for _, text, _ in suggested("north")} == {"north-1", "north-2"}
    assert suggested("s", "ann") != []
    assert not [text for _, text, _ in suggested("sou", "ann")]
    assert suggested("") == []
    assert suggested("100%") == []


# --- hostile text ---


@pytest.mark.parametrize(
    "path", ["/workitems?type=digest", f"/workitems/{quote(HOSTILE, safe='')}", "/workitems?error=script"]
)
def test_text_of_others_stays_text(root, path):
    answer = root.get(path)
    assert answer.status == 200
    tags = Tags(answer)
    assert [each.get("src") for each in tags.named("script")] == [static.FILES["script.js"].address]
    assert not tags.named("img")
    assert "alert(1)" in tags.text
    assert "\x1b" not in tags.text
    assert "\u202e" not in tags.text
    found = [attributes for _, attributes in tags.found for name in attributes if name.startswith("on")]
    assert found == []


def test_output_is_plain_text(root):
    answer = root.get(f"/workitems/{quote(HOSTILE, safe='')}/log")
    assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
    assert "\x1b" not in answer.text


def test_no_page_is_larger_than_it_may_be(root):
    answer = root.get("/workitems/large")
    assert len(answer.body) < 100_000
    assert "15 earlier runs are left out" in answer.text
    assert "earlier ones are" in answer.text
    assert "peak memory 3 GB" in answer.text
    assert len(root.get("/workitems").body) < 100_000


# --- rights ---


def test_a_viewer_sees_no_other_tenants_bodies_or_buttons(web):
    ann = logged_in(web, "ann")
    assert shown_ids(ann.get("/workitems?type=digest")) == ["north-2", "north-1"]
    assert ann.get("/workitems/south-1").status == 404
    page = ann.get("/workitems/north-1").text
    assert SECRET not in page
    assert "Retry" not in page
    assert ann.get("/workitems/north-1/result").status == 404
    assert ann.get("/workitems?body=invoice").status == 403
    assert 'name="action"' not in ann.get("/workitems").text
    assert ann.post("/actions", {"action": "retry", "id": "north-1"}, on="/").status == 403


def test_an_action_of_another_site_is_refused(root):
    assert root.send("/actions", {"action": "purge", "which": "all", "confirmed": "yes"}).status == 403
    assert root.get("/actions").status == 405


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"action": "drop", "id": "a"}, "action: expected one of retry, cancel, purge"),
        ({"action": "retry"}, "nothing is selected"),
        ({"action": "retry", "which": "all", "filter": "state=done"}, "parameter state: expected one of"),
        ({"action": "retry", "id": "x" * 256}, "expected texts of 1 to 255 characters"),
    ],
)
def test_a_bad_action_is_told_in_a_page(root, fields, said):
    answer = root.post("/actions", fields, on="/")
    assert answer.status == 400
    assert said in answer.text


def test_without_a_recorder_an_action_fails_in_a_line(root):
    answer = root.post("/actions", {"action": "retry", "id": "south-1"}, on="/")
    assert answer.status == 502
    assert "the recorder cannot be asked" in answer.text

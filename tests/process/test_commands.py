"""Commands in a pool: their sections, logs, results and crashes."""

import json

from support.documentation import example

STREAM = """#!/usr/bin/python3 -S
import json, os
answers = open(4, "w", buffering=1)
for line in open(3):
    item = json.loads(line)
    print("printed for", item["id"], flush=True)
    if item["body"] == "crash":
        os._exit(7)
    if item["body"] == "notify":
        print(json.dumps({"id": item["id"], "progress": 0.5, "text": "half"}), file=answers)
    answer = {"id": item["id"], "status": "succeeded", "result": os.getpid()}
    print(json.dumps(answer), file=answers)
"""


def count_of(site, script, section):
    """Start a pool with a page's script /usr/local/bin/count and section [count]."""
    file = site.open / "count"
    file.write_text(script)
    file.chmod(0o755)
    return site.pool(section.replace("/usr/local/bin/count", str(file)) + "workers: 1\n")


def test_a_worker_in_shell_works_as_the_page_says(site, work):
    script = example("docs/commands.md", "words=$(wc -w)")
    pool = count_of(site, script, example("docs/commands.md", "result_type: application/json"))
    workitem = work.submit("count", "to be or not to be")
    result = work.result()
    assert (result.workitem, result.value) == (workitem, {"words": 6})
    pool.wait_for(f"| attempt 1 of {workitem} [group=count worker=count/1 workitem={workitem}]")
    work.foreign.publish("", "worker_count", message_id="empty", content_type="text/plain")
    result = work.result()
    assert (result.status, result.error) == ("rejected", "Reject: attempt 1 of empty\nno words")


def test_a_worker_in_shell_has_four_lines_in_the_readme(site, work):
    script = example("README.md", "text=$(cat)")
    assert len(script.splitlines()) == 4
    count_of(site, script, example("README.md", "command: /usr/local/bin/count"))
    assert work.ask("count", "to be or not to be") == {"words": 6}


def test_a_program_that_performs_many_workitems_reports_its_progress_and_its_crashes(site, work):
    section = example("docs/commands.md", "mode: stream").replace("workers: 2", "workers: 1\nmax_crashes: 2")
    file = site.open / "count"
    file.write_text(STREAM)
    file.chmod(0o755)
    pool = site.pool(section.replace("/usr/local/bin/count", str(file)))
    pid = work.ask("count", "one")
    assert work.ask("count", "two") == pid
    workitem = work.submit("count", "crash")
    assert work.result().error == "WorkerCrashed: exit status 7; 2 crashes in all"
    about = f"[group=count worker=count/1 workitem={workitem}]"
    pool.wait_for(f"| printed for {workitem} {about}", times=2)
    pool.wait_for(f"ERROR consumer: | {file} ended with a workitem in hand: exit status 7 {about}", times=2)
    work.foreign.declare("callers")
    asked = {"reply_to": "callers", "application_headers": {"x-taskqueue-notify": True}}
    workitem = work.submit("count", "notify", **asked)
    notices = [json.loads(each.body) for each in work.foreign.collect("callers", 3)[:-1]]
    assert notices[-1]["params"] == {"id": workitem, "fraction": 0.5, "text": "half"}


def test_a_crash_among_many_quick_workitems_is_charged_to_one(site, work):
    file = site.open / "count"
    file.write_text(STREAM)
    file.chmod(0o755)
    site.pool(f"[count]\nworkers: 1\nmax_crashes: 2\nmode: stream\ncommand: {file}\n")
    work.foreign.declare("worker_count")
    crash = 150
    for number in range(300):
        body = "crash" if number == crash else "quick"
        work.foreign.publish(body, "worker_count", message_id=str(number), content_type="text/plain")
    results = {each.properties["correlation_id"]: each for each in work.foreign.collect("results", 300)}
    assert len(results) == 300
    failed = json.loads(results.pop(str(crash)).body)
    assert failed["error"]["message"] == "exit status 7; 2 crashes in all"
    assert {each.headers["x-taskqueue-status"] for each in results.values()} == {"succeeded"}
    assert {each.headers["x-taskqueue-attempt"] for each in results.values()} == {1}


def test_a_command_that_crashes_is_charged_to_its_workitem_and_one_that_is_missing_stops_nobody(site, work):
    resize = example("docs/commands.md", "command: /usr/bin/convert")
    resize = resize.replace("convert - -resize", "printf %s")
    pool = site.pool(
        "[crash]\nworkers: 1\nmax_crashes: 2\ncommand: /bin/sh -c 'kill -SEGV $$'\n"
        f"{resize}workers: 1\n[gone]\nworkers: 1\ncommand: /no/such\n"
    )
    work.submit("crash")
    assert work.result().error == "WorkerCrashed: killed by SIGSEGV; 2 crashes in all"
    (message,) = work.foreign.collect("taskqueue_failed", 1)
    assert [entry["what"] for entry in message.headers["x-taskqueue-history"]] == ["crashed", "crashed"]
    pool.wait_for("/bin/sh was killed by SIGSEGV", times=2)
    pool.wait_for("cannot start: the command's program /no/such does not exist")
    pool.wait_for("section [gone]: the program /no/such does not exist")
    png = {"content_type": "image/png", "message_id": "picture"}
    work.foreign.publish(b"\x89PNG", "worker_resize", application_headers={"width": 120}, **png)
    result = work.foreign.get("results")
    assert (result.properties["content_type"], result.body) == ("image/png", b"120-")

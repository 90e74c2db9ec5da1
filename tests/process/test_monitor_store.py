"""The store of the monitor in a process that is killed, or that finds no room."""

import signal
import subprocess
import sys
from pathlib import Path
from random import Random

from support.record import History

from taskqueue.monitor.store.reading import Record

TESTS = Path(__file__).parents[1]
SEED, COUNT, KILLS = 17, 1250, 10

#: Writes what the record does not have yet, and tells each write.
WRITER = f"""
import sys
from pathlib import Path
from random import Random
sys.path.insert(0, {str(TESTS)!r})
from support.record import History
from taskqueue.monitor.store.store import Store

batches = History(Random({SEED}), {COUNT}).batches()
with Store(Path(sys.argv[1])) as store:
    while True:
        position = -1 if store.position() is None else store.position()
        left = [batch for batch in batches[position + 1 :][:3]]
        if not left:
            break
        print(position, flush=True)
        store.write(left)
print("done", flush=True)
"""


def start(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def kill_after(process, writes, delay):
    """Kill a writer after some writes and a part of one more; fail if it ends before."""
    for _ in range(writes):
        assert process.stdout.readline() not in {"done\n", ""}
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    process.stdout.close()


def test_a_writer_that_is_killed_misses_and_doubles_nothing(tmp_path):
    random = Random()
    for _ in range(KILLS):
        kill_after(start(WRITER, str(tmp_path)), random.randint(1, 30), random.random() / 100)
    with start(WRITER, str(tmp_path)) as process:
        assert process.communicate(timeout=100)[0].endswith("done\n")
    with Record(tmp_path) as record:
        History(Random(SEED), COUNT).check(record)


#: Writes while its files may not grow beyond a size, and then without that limit.
FULL = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from random import Random
from support.record import History
from taskqueue.errors import RecordUnavailable
from taskqueue.monitor.store.store import Store

batches = History(Random({SEED}), 500).batches()
errors = 0
with Store(Path(sys.argv[1])) as store:
    for number in range(0, len(batches), 10):
        if number == 100:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
        while True:
            try:
                store.write(batches[number : number + 10])
                break
            except RecordUnavailable as error:
                errors += 1
                print(error)
                if errors == 3:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
"""


def test_what_finds_no_room_is_written_when_there_is_room(tmp_path):
    for size in (150_000, 300_000, 450_000, 600_000):
        directory = tmp_path / str(size)
        with start(FULL, str(directory), str(size)) as process:
            errors = process.communicate(timeout=60)[0].splitlines()
        assert process.returncode == 0
        assert len(errors) == 3
        assert all(line.startswith(f"record {directory}/") for line in errors)
        with Record(directory) as record:
            History(Random(SEED), 500).check(record)

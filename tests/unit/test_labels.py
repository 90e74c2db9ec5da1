"""A worker's output says which task each piece of it belongs to."""

import subprocess
import sys
from itertools import groupby

import pytest

from taskqueue.worker.channels import LabelReader

SPEAKER = """
import os, sys
from taskqueue.worker import channels
channels.label_output()
print("before")
channels.label_as(7)
print("seven")
os.write(1, b"a subprocess\\n")
print("warning", file=sys.stderr)
channels.label_as(123456789012)
print("many" * 2000)
sys.stdout.buffer.write(b"\\0" + b"8 5" + b"\\0 forged\\n")
sys.stdout.flush()
"""
LABELLED = b"\0001 4\0one\n\0002 9\0two\n\0003 9\0none\n"


def read(chunks):
    """Return the output of each task, by its number."""
    reader = LabelReader()
    pieces = [each for chunk in chunks for each in reader.feed(chunk)]
    joined = groupby(pieces, key=lambda piece: piece[0])
    return [(number, b"".join(piece for _, piece in group)) for number, group in joined]


def test_what_is_printed_is_labelled_with_the_task_and_what_others_write_is_not():
    done = subprocess.run(
        [sys.executable, "-c", SPEAKER], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    )
    assert read([done.stdout]) == [
        (0, b"before\n"),
        (7, b"seven\n"),
        (None, b"a subprocess\n"),
        (7, b"warning\n"),
        (123456789012, b"many" * 2000 + b"\n" + b"\0008 5\0 forged\n"),
    ]


def test_what_a_plugin_has_led_elsewhere_has_no_labels(tmp_path):
    file = tmp_path / "file"
    redirect = f"os.dup2(os.open({str(file)!r}, os.O_WRONLY | os.O_CREAT), 1)"
    labelled = "from taskqueue.worker.channels import label_output; label_output()"
    speaker = f"import os; {labelled}; {redirect}; print('there')"
    subprocess.run([sys.executable, "-c", speaker], stdout=subprocess.PIPE, check=True)
    assert file.read_text() == "there\n"


def test_labels_are_found_wherever_the_output_is_cut():
    for size in range(1, len(LABELLED)):
        chunks = [LABELLED[start : start + size] for start in range(0, len(LABELLED), size)]
        assert read(chunks) == [(1, b"one\n"), (2, b"two\n\0003 9\0"), (None, b"none\n")], chunks


@pytest.mark.parametrize("text", [b"\0" * 1000, b"\0x 1\0", b"\0" + b"1" * 40 + b" 1\0", b"\0001 99999\0"])
def test_zero_bytes_that_are_no_label_pass(text):
    assert read([text, b"end"]) == [(None, text + b"end")]

"""The consumer's end of the line to one worker, without a consumer."""

import json
import os
import socket
import struct
from contextlib import contextmanager

from taskqueue.amqp.properties import Properties
from taskqueue.worker import process
from taskqueue.worker.frames import FrameReader, Kind, Outcome, TaskFrame, Verdict


class Line:
    """Gives workitems to a worker and reads what it says; the socket has a timeout."""

    def __init__(self, connection, credit, child):
        self.connection, self.credits, self.child = connection, credit, child
        self.reader, self.seen, self.count = FrameReader(), [], 0
        self.worker_type = "good"

    def receive(self):
        while not self.seen:
            data = self.connection.recv(65536)
            assert data, f"hung up:\n{self.child.output()}"
            self.seen += self.reader.feed(data)
        return self.seen.pop(0)

    def send(self, body, **properties):
        frame = self.frame(body, **properties)
        self.credit(self.count)
        self.connection.sendall(frame)

    def send_together(self, *bodies):
        """Send workitems, with ids of their own, so that a worker that gets the first one has all of them."""
        before = self.count
        frames = [self.frame(body, message_id=str(number)) for number, body in enumerate(bodies)]
        self.connection.sendall(b"".join(frames))
        self.credit(*range(before + 1, self.count + 1))

    def frame(self, body, **properties):
        self.count += 1
        raw = Properties(**{"message_id": "id", "content_type": "text/plain"} | properties).encode()
        data = body if isinstance(body, bytes) else body.encode()
        return TaskFrame(self.count, 1, self.worker_type, raw, data).encode()

    def credit(self, *numbers):
        self.credits.sendall(b"".join(struct.pack(">Q", number) for number in numbers))

    def outcome(self):
        kind, payload = self.receive()
        assert kind is Kind.OUTCOME
        return Outcome.decode(payload)

    def perform(self, body, **properties):
        """Have a workitem performed; return the outcome."""
        self.send(body, **properties)
        outcome = self.outcome()
        assert outcome.number == self.count
        assert 0 <= outcome.ended - outcome.started < 10
        return outcome

    def value(self, body, **properties):
        """Have a workitem performed; return the value of its result, which is JSON."""
        outcome = self.perform(body, **properties)
        assert (outcome.verdict, outcome.content_type) == (Verdict.SUCCEEDED, "application/json")
        assert outcome.error == ""
        return json.loads(outcome.body)

    def failure(self, body, verdict=Verdict.FAILED, **properties):
        """Have a workitem performed; return what its failure says."""
        outcome = self.perform(body, **properties)
        assert (outcome.verdict, outcome.content_type) == (verdict, "application/json")
        failure = json.loads(outcome.body)
        assert outcome.error.startswith(failure["error"]["type"])
        return failure

    def hang_up(self):
        """Tell the worker that nothing more comes; return its exit status."""
        self.connection.shutdown(socket.SHUT_WR)
        self.credits.shutdown(socket.SHUT_WR)
        return self.child.wait()


@contextmanager
def lines(forked):
    """Yield a function that runs a worker in a process of its own: open_line(spec) returns the line to it."""
    ends = []

    def open_line(spec):
        ours, theirs = socket.socketpair()
        credit, their_credit = socket.socketpair()
        ours.settimeout(10)
        parent = os.getpid()

        def run():
            ours.close()
            credit.close()
            return process.run(spec, theirs, their_credit, parent)

        line = Line(ours, credit, forked(run))
        theirs.close()
        their_credit.close()
        ends.extend((ours, credit))
        return line

    yield open_line
    for end in ends:
        end.close()

#!/usr/bin/env python3
"""A client of Skep in one file, with nothing but `zmq` and `msgpack`.

It starts an agent on a host, prints all that the agent writes, and tells how it
ended. PROTOCOL.md is the contract; this is how to keep to it:

    skep serve --allow-native
    python3 raw.py examples/prebuilt/hello.wasm you
    python3 raw.py --native -- /bin/sh -c 'echo hello from a process'
"""

import argparse
import hashlib
import itertools
import pathlib
import re
import sys
import time
import uuid

import msgpack
import zmq

VERSION = 1
CHUNK = 1024 * 1024  # the most that component.put takes at a time
READ = 1024 * 1024  # the most that agent.output gives at a time
SILENCE_MS = 200  # after so long without an event, the history is asked


class Refused(Exception):
    """The host said no. `code` is for programs, `details` say more."""

    def __init__(self, error):
        super().__init__(f"{error['message']} ({error['code']})")
        self.code = error["code"]
        self.details = error.get("details", {})


class Client:
    """One connection for requests. REQ would do; with DEALER, a request that
    was not answered can be sent again under its id, and is done only once."""

    def __init__(self, control="tcp://127.0.0.1:5555", context=None):
        self.context = context or zmq.Context.instance()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(control)

    def close(self):
        self.socket.close()

    def ask(self, op, timeout=10.0, attempts=3, **body):
        """Makes a request and gives the body of its reply."""
        request = {"v": VERSION, "id": str(uuid.uuid4()), "op": op, "body": body}
        payload = msgpack.packb(request)
        for _ in range(attempts):
            self.socket.send(payload)
            deadline = time.monotonic() + timeout
            while self.socket.poll(max(0, int((deadline - time.monotonic()) * 1000))):
                reply = msgpack.unpackb(self.socket.recv())
                if reply["id"] != request["id"]:
                    continue  # of an earlier request that was given up
                if reply["ok"]:
                    return reply.get("body", {})
                raise Refused(reply["error"])
        raise TimeoutError(f"{op}: no answer; is a host there?")

    def hello(self):
        return self.ask("host.hello")

    def put(self, component):
        """Brings a component to the host, in chunks, from where an earlier
        attempt broke off; gives its digest."""
        digest = "sha256:" + hashlib.sha256(component).hexdigest()
        size = len(component)
        # Without data it only asks how much is there.
        reply = self.ask("component.put", digest=digest, size=size, offset=0, data=b"")
        while not reply["complete"]:
            offset = reply["received"]
            data = component[offset : offset + CHUNK]
            reply = self.ask("component.put", digest=digest, size=size, offset=offset, data=data)
        return digest

    def spawn(self, spec):
        return self.ask("agent.spawn", spec=spec)["agent"]

    def output(self, agent, from_seq):
        """A piece of the agent's history."""
        return self.ask("agent.output", agent=agent, from_seq=from_seq, max_bytes=READ)

    def wait(self, agent):
        """Gives the agent once it has ended."""
        while True:
            reply = self.ask("agent.wait", timeout=40.0, agent=agent, timeout_ms=30_000)
            if not reply["timed_out"]:
                return reply["agent"]


class Subscriber:
    """Yields every record of an agent once and in order.

    Events are fast, and may be lost: what is published before the subscription
    reaches the host, or under load. The history has them all, since a record is
    in it before it is published. So: subscribe first, then read the history;
    then take events, and where one is missing, read the history again.
    """

    def __init__(self, client, agent):
        self.client = client
        self.agent = agent
        self.next_seq = 0
        self.waiting = {}  # records that came before those in front of them
        self.live = 0  # how many records came as events
        self.gaps = []  # ranges that the history did not hold any more
        place = client.ask("agent.subscribe", agent=agent)
        self.socket = None
        if "events" in place:  # a host may publish none: then the history does
            self.socket = client.context.socket(zmq.SUB)
            self.socket.linger = 0
            self.socket.rcvhwm = 0
            for topic in place["topics"]:
                self.socket.subscribe(topic)
            self.socket.connect(place["events"])

    def close(self):
        if self.socket:
            self.socket.close()

    def __iter__(self):
        ended = False
        while not ended:
            ended = yield from self._history()
            while not ended and (event := self._event()):
                topic, payload = event
                if topic.startswith("log."):
                    self.live += 1
                    self.waiting.setdefault(payload["seq"], payload)
                    yield from self._ready()
                    if self.waiting:
                        break  # one is missing before it: read the history
                elif topic.startswith("status.") and payload["state"] == "exited":
                    break  # read what is left, and learn that it is all
        self.close()

    def _event(self):
        """The next event; none where all is silent."""
        if not self.socket:
            time.sleep(SILENCE_MS / 1000)
            return None
        if not self.socket.poll(SILENCE_MS):
            return None
        topic, payload = self.socket.recv_multipart()
        return topic.decode(), msgpack.unpackb(payload)

    def _history(self):
        """Yields what the history has from here on; true at the end of all."""
        while True:
            page = self.client.output(self.agent, self.next_seq)
            if "expired" in page:
                self.gaps.append((page["expired"]["from_seq"], page["expired"]["to_seq"]))
                self.next_seq = page["expired"]["to_seq"] + 1
            for record in page["records"]:
                self.waiting.setdefault(record["seq"], record)
            yield from self._ready()
            if page["end"] or not page["records"]:
                return page["end"]

    def _ready(self):
        for seq in [seq for seq in self.waiting if seq < self.next_seq]:
            del self.waiting[seq]
        while self.next_seq in self.waiting:
            self.next_seq += 1
            yield self.waiting.pop(self.next_seq - 1)


def name_of(program):
    """A name for an agent: only some characters are allowed in one."""
    name = re.sub(r"[^a-zA-Z0-9._-]", "-", pathlib.Path(program).stem).lstrip("._-")
    return name[:63] or "agent"


def spec_of(client, program, args, native):
    """What is asked of the host: the least that says what to run."""
    if native:
        return {"name": name_of(program), "runner": "native", "command": [program, *args]}
    digest = client.put(pathlib.Path(program).read_bytes())
    return {"name": name_of(program), "component": {"digest": digest}, "args": args}


def show(record):
    """Writes a record to the stream that the agent wrote it to. It is a line
    without its newline, or a piece of one."""
    stream = sys.stdout if record["stream"] == "stdout" else sys.stderr
    stream.buffer.write(record["data"] + (b"" if record["partial"] else b"\n"))
    stream.buffer.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--control", default="tcp://127.0.0.1:5555", help="the host's endpoint")
    parser.add_argument("--native", action="store_true", help="run a program, not a component")
    parser.add_argument("agent", metavar="AGENT.wasm", help="the component, or the program")
    parser.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER)
    options = parser.parse_args()

    client = Client(options.control)
    hello = client.hello()
    print(f"host {hello['server_id']}, Skep {hello['version']}", file=sys.stderr)
    spec = spec_of(client, options.agent, options.args, options.native)
    agent = client.spawn(spec)
    subscriber = Subscriber(client, agent["id"])
    for record in subscriber:
        show(record)
    for from_seq, to_seq in subscriber.gaps:
        print(f"records {from_seq} to {to_seq} are lost", file=sys.stderr)
    outcome = client.wait(agent["id"])["outcome"]
    rest = {key: value for key, value in outcome.items() if key != "kind"}
    print("outcome:", outcome["kind"], *itertools.starmap("{}={}".format, rest.items()), file=sys.stderr)
    return 0 if outcome == {"kind": "exited", "code": 0} else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Refused, TimeoutError, OSError) as error:
        sys.exit(f"raw.py: {error}")

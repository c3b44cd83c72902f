#!/usr/bin/env python3
"""Checks a host from outside, with nothing but `zmq` and `msgpack`.

    SKEP=target/debug/skep python3 check.py

starts that binary's host on free ports of loopback and ends it again.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

import msgpack
import zmq

from raw import Client, Refused, Subscriber, spec_of

ROOT = pathlib.Path(__file__).resolve().parents[3]
PREBUILT = ROOT / "examples" / "prebuilt"
GOLDEN = ROOT / "protocol" / "tests" / "golden"
LINES = 30_000
DEADLINE = 60.0
MAX_PAYLOAD = 10 * 1024 * 1024


class Host:
    """`skep serve` as a child process."""

    def __init__(self, skep):
        self.dir = tempfile.TemporaryDirectory()
        self.control, events = (f"tcp://127.0.0.1:{port}" for port in free_ports(2))
        self.process = subprocess.Popen(
            [skep, "serve", "--allow-native", "--control", self.control, "--events", events]
            + ["--state-dir", self.dir.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def end(self):
        """Asks it to end, and gives its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None
        finally:
            self.dir.cleanup()


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for bound in sockets:
        bound.bind(("127.0.0.1", 0))
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


def equal(found, expected, what=""):
    assert found == expected, f"{what}: {str(found)[:500]} instead of {str(expected)[:500]}"


def check_hello(host):
    client = Client(host.control)
    hello = client.hello()
    equal(hello["protocol"], 1)
    equal(hello["control"], host.control)
    equal(hello["runners"], ["wasm", "native"])
    spec = spec_of(client, PREBUILT / "hello.wasm", ["raw"], native=False)
    agent = client.spawn(spec)["id"]
    equal([record["data"] for record in Subscriber(client, agent)], [b"Hello, raw!"])
    equal(client.wait(agent)["outcome"], {"kind": "exited", "code": 0})
    client.close()


class Reader(threading.Thread):
    """Reads all output of an agent, on a connection of its own."""

    def __init__(self, host, agent):
        super().__init__(daemon=True)
        self.host = host
        self.agent = agent
        self.records = []
        self.subscriber = None
        self.error = None
        self.start()

    def run(self):
        try:
            client = Client(self.host.control)
            self.subscriber = Subscriber(client, self.agent)
            for record in self.subscriber:
                self.records.append(record)
            client.close()
        except Exception as error:  # told by whoever waits for it
            self.error = error

    def check(self, prefix, who):
        self.join(DEADLINE)
        assert not self.is_alive(), f"{who}: late, with {len(self.records)} records"
        if self.error:
            raise self.error
        equal(self.subscriber.gaps, [], who)
        equal({record["agent"] for record in self.records}, {self.agent}, who)
        equal([record["seq"] for record in self.records], list(range(len(self.records))), who)
        # A line may come in pieces.
        ends = {True: b"", False: b"\n"}
        written = b"".join(record["data"] + ends[record["partial"]] for record in self.records)
        equal(written, b"".join(b"%s %d\n" % (prefix.encode(), n + 1) for n in range(LINES)), who)


def check_subscribers(host, spec):
    """Two read thirty thousand lines of one agent, the second from the middle on;
    another agent prints as many at the same time, and they see none of it."""
    client = Client(host.control)
    mine = spec("mine")
    # So slowly, and so much more than pipes and buffers hold, that there is a middle to
    # come into.
    mine["limits"] = {"output_bytes_per_s": 64 * 1024}
    agent = client.spawn(mine)["id"]
    early = Reader(host, agent)
    other = client.spawn(spec("other"))["id"]
    others = Reader(host, other)
    start = time.monotonic()
    while client.ask("agent.get", agent=agent)["agent"]["next_seq"] < LINES // 10:
        assert time.monotonic() - start < DEADLINE, "the agent prints nothing"
    late = Reader(host, agent)
    early.check("mine", "the early subscriber")
    assert early.subscriber.live > 0, "the early subscriber has read only the history"
    late.check("mine", "the late subscriber")
    others.check("other", "the other agent's subscriber")
    for ended in (agent, other):
        equal(client.wait(ended)["outcome"], {"kind": "exited", "code": 0})
    client.close()


def check_subscribers_wasm(host):
    client = Client(host.control)
    check_subscribers(
        host, lambda prefix: spec_of(client, PREBUILT / "probe.wasm", ["lines", str(LINES), prefix], native=False)
    )
    client.close()


def check_subscribers_native(host):
    script = 'i=1; while [ "$i" -le "$2" ]; do echo "$1 $i"; i=$((i+1)); done'
    check_subscribers(
        host, lambda prefix: spec_of(None, "/bin/sh", ["-c", script, "sh", prefix, str(LINES)], native=True)
    )


def check_codes(host):
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(host.control)

    def ask(*frames):
        socket.send_multipart(frames)
        assert socket.poll(int(DEADLINE * 1000)), "no answer"
        reply = msgpack.unpackb(socket.recv_multipart()[-1])
        equal(reply["ok"], False)
        return reply["error"]["code"], reply["id"]

    ident = str(uuid.uuid4())

    def envelope(**change):
        whole = {"v": 1, "id": ident, "op": "agent.get", "body": {"agent": ident}} | change
        return msgpack.packb({key: value for key, value in whole.items() if value is not None})

    for payload, code in [
        (b"\xc1", "malformed"),
        (b"nonsense", "malformed"),
        (bytes(range(256)), "malformed"),
        (b"\xdf\xff\xff\xff\xff", "malformed"),
        (b"\x91" * 100_000, "malformed"),
        (bytes(MAX_PAYLOAD), "malformed"),
        (bytes(MAX_PAYLOAD + 1), "too_large"),
        (envelope(id=None), "malformed"),
    ]:
        equal(ask(payload), (code, ""), payload[:40])
    # The id comes back where it could be read.
    whole = envelope()
    for payload in [whole + b"\xc0"] + [whole[:length] for length in range(1, len(whole))]:
        code, answered = ask(payload)
        equal(code, "malformed", payload)
        equal(answered, ident if ident.encode() in payload else "", payload)
    equal(ask(envelope(), envelope()), ("malformed", ""))
    for change, code in [
        ({"v": 2}, "unsupported_version"),
        ({"v": None}, "unsupported_version"),
        ({"op": "agent.explode"}, "unknown_op"),
        ({"colour": 1}, "invalid_argument"),
        ({"body": {"agent": "x"}}, "invalid_argument"),
        ({"body": {"agent": ident, "colour": 1}}, "invalid_argument"),
        ({}, "not_found"),
    ]:
        equal(ask(envelope(**change)), (code, ident), change)
    socket.close()
    client = Client(host.control)
    equal(client.ask("host.health")["healthy"], True)
    try:
        client.spawn({"name": "x", "component": {"data": b"no component"}})
        raise AssertionError("what is no component was taken")
    except Refused as refused:
        equal(refused.code, "invalid_component")
    client.close()


def check_repetition(host):
    """The same request, over two connections, starts one agent."""
    spec = {"name": "once", "runner": "native", "command": ["/bin/true"]}
    request = {"v": 1, "id": str(uuid.uuid4()), "op": "agent.spawn", "body": {"spec": spec}}
    replies = []
    for _ in range(2):
        client = Client(host.control)
        for _ in range(2):
            client.socket.send(msgpack.packb(request))
            assert client.socket.poll(int(DEADLINE * 1000)), "no answer"
            replies.append(client.socket.recv())
        client.close()
    equal(msgpack.unpackb(replies[0])["ok"], True)
    equal(set(replies), {replies[0]})


def plain(value):
    """A value as JSON can tell it: bytes as `{"$bin": hex}`."""
    if isinstance(value, bytes):
        return {"$bin": value.hex()}
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value


def check_golden(_host):
    """The bytes of every message, as msgpack of Python reads them."""
    files = sorted(GOLDEN.glob("*.bin"))
    for file in files:
        expected = json.loads(file.with_suffix(".json").read_text())
        equal(plain(msgpack.unpackb(file.read_bytes())), expected, file.name)
    assert files or not GOLDEN.exists(), f"nothing in {GOLDEN}"


def main():
    skep = os.environ.get("SKEP")
    if not skep:
        sys.exit("check.py: set SKEP to the binary, such as target/debug/skep")
    host = Host(skep)
    passed = failed = 0
    try:
        for check in (
            check_hello,
            check_subscribers_wasm,
            check_subscribers_native,
            check_codes,
            check_repetition,
            check_golden,
        ):
            try:
                check(host)
                passed += 1
                print(f"ok      {check.__name__}", flush=True)
            except Exception:
                failed += 1
                traceback.print_exc()
                print(f"FAILED  {check.__name__}", flush=True)
    finally:
        code = host.end()
    if code != 0:
        failed += 1
        print(f"FAILED  the host ended with {code}")
    else:
        passed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Count a log's lines by format and its errors by kind: python3 count.py service.log"""
import collections
import json
import re
import sys

ACCESS = re.compile(r'127\.0\.0\.1 - - \[[^]]+\] "[^"]*" (\d{3}) ')
NGINX = re.compile(r"\d{4}/\d\d/\d\d [\d:]{8} \[(\w+)\] \d+#\d+: (?:\*\d+ )?(.*)")
PYTHON = re.compile(r"\d{4}-\d\d-\d\d [\d:]{8},\d{3} ([A-Z]+) ([\w.]+): (.*)")
EXCEPTION = re.compile(r"([A-Za-z_][\w.]*(?:Error|Exception|Unavailable))(?:: (.*))?$")

lines = collections.Counter()
status = collections.Counter()
levels = collections.Counter()
kinds = collections.Counter()


def shorten(text):
    """The message without what differs between two errors of one kind."""
    text = re.split(r", client: | while (?=connecting|reading|sending)", text)[0]
    text = re.sub(r'"\./[^"]*"', '"<path>"', text)
    text = re.sub(r"(base 10): '.*'", r"\1: '<text>'", text)
    return re.sub(r"(?<!base )(?<![(\d])\d+", "<n>", text)


def exception(match):
    name, message = match.groups()
    if name.endswith("JSONDecodeError") or not message:
        return name
    return name + ": " + shorten(message)


def read(path):
    pending = None        # (level, message, last exception line) of a Python record
    with open(path, encoding="utf-8") as f:
        text = f.read().splitlines()
    for line in text + [None]:
        if line is not None and not (line.startswith("{") or ACCESS.match(line)
                                     or NGINX.match(line) or PYTHON.match(line)):
            lines["python traceback"] += 1
            if pending and EXCEPTION.match(line):
                pending[2] = exception(EXCEPTION.match(line))
            continue
        # Each record is one write, so no other line falls inside a traceback.
        if pending:
            if pending[0] in ("ERROR", "CRITICAL"):
                kinds["python  " + (pending[2] or shorten(pending[1]))] += 1
            pending = None
        if line is None:
            break
        if line.startswith("{"):
            entry = json.loads(line)
            lines["json"] += 1
            levels["json " + entry["level"]] += 1
            if entry["level"] in ("error", "critical"):
                kinds["json    " + shorten(entry["msg"].splitlines()[0])] += 1
        elif ACCESS.match(line):
            lines["nginx access"] += 1
            status[ACCESS.match(line).group(1)] += 1
        elif NGINX.match(line):
            level, message = NGINX.match(line).groups()
            lines["nginx error"] += 1
            levels["nginx " + level] += 1
            if level not in ("warn", "notice", "info"):
                kinds["nginx   " + shorten(message)] += 1
        else:
            level, _, message = PYTHON.match(line).groups()
            lines["python record"] += 1
            levels["python " + level] += 1
            pending = [level, message, None]
    return len(text)


print("%d lines" % read(sys.argv[1]))
for title, counter in (("by format", lines), ("access status", status), ("levels", levels),
                       ("errors", kinds)):
    print("\n%s (%d)" % (title, len(counter)))
    for name, count in counter.most_common():
        print("%6d  %s" % (count, name))

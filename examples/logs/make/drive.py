"""A bounded client: one fixed plan of requests spread over about a minute."""
import http.client
import json
import os
import queue
import random
import threading
import time
import urllib.error
import urllib.request

BASE = "http://127.0.0.1:%s" % os.environ["FRONT_PORT"]
SECONDS = 60
THREADS = 12
rng = random.Random(20)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
opener.addheaders = [("User-Agent", "shop-client/1.4")]


def sku():
    return "sku-%d" % rng.randint(100, 180)


def order(number, **more):
    lines = [{"sku": sku(), "quantity": rng.randint(1, 6)} for _ in range(rng.randint(1, 3))]
    return {"id": number, "lines": lines, **more}


def plan():
    """(seconds after the start, path, body or None), in order of time."""
    todo = []

    def add(count, make, first=1, last=SECONDS - 2):
        for _ in range(count):
            path, body = make()
            todo.append((rng.uniform(first, last), path, body))

    numbers = iter(range(10001, 99999))

    # Inventory, through nginx.
    add(520, lambda: ("/inventory/" + sku(), None))
    add(40, lambda: ("/inventory/slow-%d" % rng.randint(1, 99), None))
    add(48, lambda: ("/inventory/reset-%d" % rng.randint(1, 99), None))
    add(30, lambda: ("/inventory/hangup-%d" % rng.randint(1, 99), None))

    # Orders.
    def post(**more):
        return "/orders", json.dumps(order(next(numbers), **more))

    def broken(change):
        value = order(next(numbers))
        change(value["lines"][-1])
        return "/orders", json.dumps(value)

    def cut():
        text = post()[1]
        return "/orders", text[:rng.randint(20, len(text) - 3)]

    def bulk(lines):
        value = order(next(numbers))
        value["lines"] = [{"sku": sku(), "quantity": 1} for _ in range(lines)]
        return "/orders", json.dumps(value)

    add(190, post)
    add(40, lambda: post(check_stock=True))
    add(34, lambda: broken(lambda line: line.pop("sku")))
    add(28, lambda: broken(lambda line: line.update(quantity=rng.choice(["two", "", "1,5", "n/a"]))))
    add(22, cut)
    add(14, lambda: ("/orders", json.dumps(order(10001 + rng.randint(0, 20)))), first=50)
    add(3, lambda: ("/orders", json.dumps({"id": next(numbers), "lines": [], "coupon": 500})))
    add(2, lambda: ("/orders", json.dumps({"id": next(numbers),
                                           "lines": [{"sku": "bundle-7", "quantity": 1}]})))
    add(5, lambda: bulk(500))
    add(3, lambda: bulk(3000))
    add(60, lambda: ("/orders/%d" % (10001 + rng.randint(0, 400)), None))
    for at in (12, 30, 52):
        todo.append((at, "/orders/export", None))

    # Payments.
    def pay(card="ok", **more):
        return "/payments", json.dumps({"order": 10001 + rng.randint(0, 400), "card": card,
                                        "amount": rng.randint(200, 99000), **more})

    add(130, pay)
    add(40, lambda: pay(notify=True))
    add(160, lambda: pay("declined"))
    add(26, lambda: pay("stall"))
    add(2, lambda: pay(skip_credit=True))

    # Files.
    add(60, lambda: ("/index.html", None))
    add(200, lambda: ("/img/%s.png" % sku(), None))
    add(2, lambda: ("/reports/", None))
    return sorted(todo, key=lambda request: request[0])


def send(path, body):
    data = None if body is None else body.encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    try:
        with opener.open(urllib.request.Request(BASE + path, data, headers), timeout=5) as reply:
            reply.read()
            return str(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return str(error.code)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


def worker(todo, began, counts, lock):
    while True:
        try:
            at, path, body = todo.get_nowait()
        except queue.Empty:
            return
        time.sleep(max(0, began + at - time.monotonic()))
        status = send(path, body)
        with lock:
            counts[status] = counts.get(status, 0) + 1


requests = plan()
todo = queue.SimpleQueue()
for request in requests:
    todo.put(request)
counts, lock, began = {}, threading.Lock(), time.monotonic()
threads = [threading.Thread(target=worker, args=(todo, began, counts, lock), daemon=True)
           for _ in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("%d requests in %d s, replies: %s" % (
    len(requests), time.monotonic() - began,
    ", ".join("%s x %d" % pair for pair in sorted(counts.items()))))

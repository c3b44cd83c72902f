"""The orders service: plain-text logging, tracebacks for what it did not expect."""
import http.server
import json
import logging
import os
import socketserver
import time

import shared_log
import stock
import store

log = logging.getLogger("app.orders")

BUNDLES = {"bundle-3": ["sku-101", "sku-102"], "bundle-7": ["sku-103", "bundle-7"]}


def price(sku):
    if sku in BUNDLES:
        amount = 0
        for part in BUNDLES[sku]:
            amount += price(part)
        return amount
    return 100 + sum(map(ord, sku)) % 900


def total(lines, coupon):
    amount = 0
    for line in lines:
        amount += price(line["sku"]) * int(line["quantity"])
    if coupon:
        amount -= coupon // len(lines) * len(lines)
    return amount


def create(body):
    order = json.loads(body)
    amount = total(order["lines"], order.get("coupon", 0))
    if order.get("check_stock"):
        for line in order["lines"]:
            left = stock.level(line["sku"])
            if left < 5:
                log.warning("stock low for %s: %d left", line["sku"], left)
    store.insert(order["id"], amount)
    log.info("order %d created, %d lines, total %d", order["id"], len(order["lines"]), amount)
    return {"id": order["id"], "total": amount}


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        start = time.monotonic()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            self.reply(201, create(body))
        except Exception:
            log.exception("POST %s failed after %d ms", self.path,
                          (time.monotonic() - start) * 1000)
            self.reply(500, {"error": "internal error"})

    def do_GET(self):
        start = time.monotonic()
        try:
            name = self.path.rsplit("/", 1)[1]
            if name == "export":
                log.info("export started")
                rows = store.export(0.9)
                log.warning("slow request: export of %d orders took %.3f s", rows,
                            time.monotonic() - start)
                return self.reply(200, {"rows": rows})
            found = store.find(int(name))
            if found is None:
                log.warning("order %s not found", name)
                return self.reply(404, {"error": "no such order"})
            log.info("order %d read", found[0])
            self.reply(200, {"id": found[0], "total": found[1]})
        except Exception:
            log.exception("GET %s failed after %d ms", self.path,
                          (time.monotonic() - start) * 1000)
            self.reply(500, {"error": "internal error"})


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


shared_log.setup()
store.create_tables()
port = int(os.environ["ORDERS_PORT"])
with Server(("127.0.0.1", port), Handler) as server:
    log.info("orders service ready on port %d", port)
    server.serve_forever()

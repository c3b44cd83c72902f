"""The payments service: asyncio, one JSON object per log line."""
import asyncio
import json
import logging
import os

import shared_log

log = logging.getLogger("payments")
INVENTORY_PORT = int(os.environ["INVENTORY_PORT"])
balance = {"debit": 0, "credit": 0}


class CardDeclined(Exception):
    pass


async def gateway(card, amount):
    """Stands in for the card network: some cards are declined, one never answers."""
    await asyncio.sleep(0.005)
    if card == "stall":
        await asyncio.sleep(5)
    if card == "declined":
        raise CardDeclined("insufficient funds")
    return amount


async def notify(order):
    """Tell inventory that an order is paid. Nobody waits for the outcome."""
    reader, writer = await asyncio.open_connection("127.0.0.1", INVENTORY_PORT)
    writer.write(b"GET /inventory/paid-%d HTTP/1.0\r\n\r\n" % order)
    await writer.drain()
    await reader.read()
    writer.close()


async def charge(payment):
    order, amount = payment["order"], payment["amount"]
    fields = {"order": order, "amount": amount}
    try:
        taken = await asyncio.wait_for(gateway(payment["card"], amount), 0.3)
    except CardDeclined as error:
        log.error("charge failed: card declined", extra={"fields": {**fields, "reason": str(error)}})
        return 402
    except asyncio.TimeoutError:
        log.error("charge failed: no answer from gateway after 300 ms",
                  extra={"fields": fields}, exc_info=True)
        return 504
    if amount > 90000:
        log.warning("large payment held for review", extra={"fields": fields})
    balance["debit"] += taken
    balance["credit"] += round(taken * 1.0) if not payment.get("skip_credit") else 0
    if balance["debit"] != balance["credit"]:
        log.critical("ledger out of balance by %d", balance["debit"] - balance["credit"],
                     extra={"fields": fields})
        balance["credit"] = balance["debit"]
        return 500
    log.info("payment taken", extra={"fields": fields})
    if payment.get("notify"):
        asyncio.ensure_future(notify(order))
    return 200


async def serve(reader, writer):
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:")[1].split()[0])
        status = await charge(json.loads(await reader.readexactly(length)))
        writer.write(b"HTTP/1.0 %d Status\r\nContent-Length: 3\r\n\r\n{}\n" % status)
        await writer.drain()
    except asyncio.IncompleteReadError:
        pass          # a connection without a request, as make.sh makes to see if we are up
    finally:
        writer.close()


async def main():
    port = int(os.environ["PAYMENTS_PORT"])
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    log.info("payments service ready", extra={"fields": {"port": port}})
    async with server:
        await server.serve_forever()


shared_log.setup(as_json=True)
asyncio.run(main())

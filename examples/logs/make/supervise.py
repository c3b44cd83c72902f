"""Keeps the inventory service running; a thread kills it at fixed times."""
import logging
import signal
import subprocess
import sys
import threading
import time

import shared_log

log = logging.getLogger("app.supervisor")
KILL_AT = (8, 24, 44)      # seconds after the start
DOWN_FOR = (6, 9, 7)       # seconds before each restart
child = None


def start():
    global child
    child = subprocess.Popen([sys.executable, "app/inventory.py"])
    log.info("inventory started (pid %d)", child.pid)


def killer(began):
    for at in KILL_AT:
        time.sleep(max(0, began + at - time.monotonic()))
        child.kill()


def stop(*_):
    sys.exit(0)


shared_log.setup()
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
try:
    start()
    threading.Thread(target=killer, args=(time.monotonic(),), daemon=True).start()
    for pause in DOWN_FOR:
        status = child.wait()
        log.error("inventory (pid %d) ended with status %d, restarting in %d s",
                  child.pid, status, pause)
        time.sleep(pause)
        start()
    child.wait()
finally:
    child.kill()
    child.wait()

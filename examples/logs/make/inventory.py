"""The inventory service: answers, stalls, resets or hangs up, and gets killed."""
import http.server
import json
import os
import socket
import socketserver
import struct
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        name = self.path.rsplit("/", 1)[1]
        if name.startswith("slow"):
            time.sleep(1.5)
        if name.startswith("reset"):
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.request.close()
            raise SystemExit
        if name.startswith("hangup"):
            self.request.shutdown(socket.SHUT_RDWR)
            raise SystemExit
        data = json.dumps({"sku": name, "left": sum(map(ord, name)) % 40}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass


# Never outlive the run, whatever happens to the supervisor.
limit = threading.Timer(120, os._exit, (0,))
limit.daemon = True
limit.start()
with Server(("127.0.0.1", int(os.environ["INVENTORY_PORT"])), Handler) as server:
    server.serve_forever()

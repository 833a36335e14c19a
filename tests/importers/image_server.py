"""A web server on the loopback interface that fails as told."""

import io
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


def picture(seed, form="JPEG", size=(6, 8)):
    levels = np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format=form)
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        with server.lock:
            count = server.asked[self.path]
            server.asked[self.path] += 1
            server.moments.append(time.monotonic())
        answers = server.answers.get(self.path, [404])
        answer = answers[min(count, len(answers) - 1)]
        if callable(answer):
            answer(self)
        elif isinstance(answer, bytes):
            self.send(200, answer)
        else:
            self.send(answer, b"nothing")

    def send(self, status, body=b"", length=None, **headers):
        self.send_response(status)
        defaults = {"Content-Type": "image/jpeg", "Content-Length": str(len(body) if length is None else length)}
        for name, value in (defaults | {name.replace("_", "-"): value for name, value in headers.items()}).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *arguments):
        pass


class ImageServer(ThreadingHTTPServer):
    """Answers each path with the first of its answers, then the second, and so on, and with the last ever after.

    An answer is a body, a status, or a function of the handler. What is not known is answered with 404.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = {}
        self.asked = Counter()
        self.moments = []
        self.lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request, client_address):
        pass  # a client that has had enough


def cut(handler):
    body = picture(0, size=(60, 80))
    handler.send(200, body[: len(body) // 2], length=len(body))
    handler.close_connection = True


def cut_and_not_said(handler):
    body = picture(0, size=(60, 80))
    handler.send(200, body[: len(body) // 2])


def endless(handler):
    handler.send(200, length=1 << 40)
    try:
        while True:
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        handler.close_connection = True


def trickle(handler):
    handler.send(200, length=1000)
    try:
        for _ in range(1000):
            handler.wfile.write(b"\xff")
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        pass
    handler.close_connection = True


def silence(handler):
    time.sleep(1)
    handler.close_connection = True


def page(handler):
    handler.send(200, b"<html>Who are you?</html>", Content_Type="text/html; charset=utf-8")


def disguised_page(handler):
    handler.send(200, b"<html>Who are you?</html>")


def unlabelled(handler):
    handler.send(200, picture(7, "PNG"), Content_Type=None)


def busy(handler):
    handler.send(429, b"slowly", Retry_After="0")


def redirect(target):
    return lambda handler: handler.send(302, Location=target)

"""Fetching images from a server on the loopback interface that fails as told."""

import socket
import time
from types import SimpleNamespace

import image_server
import pytest
from image_server import ImageServer, picture, redirect

from catwalk.errors import CatwalkError
from catwalk.importers import download
from catwalk.importers.download import fetch_images, file_stem, is_public


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "is_public", lambda address: True)
    monkeypatch.setattr(download, "FIRST_WAIT", 0.005)
    with ImageServer() as server:
        yield server


def fetch(server, folder, *paths):
    """Return what became of the paths of the server: the file's bytes, "gone", or why not."""
    urls = {path: path if ":" in path else server.url(path) for path in paths}
    fetched = fetch_images(urls.values(), folder, 1e6)
    assert set(fetched.files) | fetched.gone | set(fetched.failed) == set(urls.values())
    assert not [path for path in folder.iterdir() if path.suffix == ".part"]
    found = {url: path.read_bytes() for url, path in fetched.files.items()} | dict.fromkeys(fetched.gone, "gone")
    return [(found | fetched.failed)[url] for url in urls.values()]


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([500, picture(0)], 2),
        ([503, 502, 408, 429, picture(0)], 5),
        ([image_server.busy, picture(0)], 2),
        ([image_server.cut, picture(0)], 2),
        ([image_server.cut_and_not_said, picture(0)], 2),
        ([image_server.silence, picture(0)], 2),
        ([image_server.trickle, picture(0)], 2),
        ([redirect("/elsewhere")], 1),
    ],
)
def test_what_fails_for_a_while_is_asked_for_again(server, tmp_path, monkeypatch, answers, asked):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    monkeypatch.setattr(download, "LONGEST_ANSWER", 0.1)
    server.answers = {"/a": answers, "/elsewhere": [picture(0)]}
    assert fetch(server, tmp_path, "/a") == [picture(0)]
    assert server.asked["/a"] == asked


@pytest.mark.parametrize(
    ("answer", "cause", "asked"),
    [
        (404, "gone", 1),
        (410, "gone", 1),
        (picture(0, "GIF", (1, 1)), "gone", 1),
        (403, "status 403", 1),
        (301, "status 301", 1),
        (500, "status 500", 5),
        (image_server.page, "no image but text/html", 1),
        (image_server.disguised_page, "no image that can be decoded", 1),
        (picture(0, "TIFF"), "no image that can be decoded", 1),
        (b"", "no image that can be decoded", 1),
        (image_server.cut_and_not_said, "no image that can be decoded", 5),
        (image_server.cut, "connection refused, cut or not trusted", 5),
        (image_server.endless, "larger than 200,000 bytes", 1),
        (redirect("/a"), "redirected more than 5 times", 6),
        (redirect("file:///etc/passwd"), "no web address (http or https)", 1),
        (redirect("ftp://127.0.0.1/a.jpg"), "no web address (http or https)", 1),
        (redirect("http://[::1/a.jpg"), "no web address (http or https)", 1),
    ],
)
def test_what_fails_for_good_is_told_with_its_cause(server, tmp_path, monkeypatch, answer, cause, asked):
    monkeypatch.setattr(download, "LARGEST_FILE", 200_000)
    server.answers = {"/a": [answer]}
    assert fetch(server, tmp_path, "/a") == [cause]
    assert server.asked["/a"] == asked
    assert [path.suffix for path in tmp_path.iterdir()] == ([".gone"] if cause == "gone" else [])


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "images/1.jpg:80", "http://", "http://[x]/a", f"http://{'a' * 70}.b/"]
)
def test_only_web_addresses_are_followed(server, tmp_path, url):
    assert fetch(server, tmp_path, url) == ["no web address (http or https)"]


def test_names_that_nobody_knows_are_told(server, tmp_path):
    assert fetch(server, tmp_path, "http://nowhere.invalid/a.jpg") == ["host unknown"]


def test_nothing_is_sent_to_a_private_address(tmp_path, monkeypatch):
    with ImageServer() as server:
        server.answers = {"/a": [picture(0)]}
        port = server.server_port
        urls = [server.url("/a"), f"http://localhost:{port}/a", f"http://[::ffff:127.0.0.1]:{port}/a"]
        fetched = fetch_images(urls, tmp_path, 1e6)
        assert fetched.failed == dict.fromkeys(urls, "a private address")
        # Nor by way of a public one.
        monkeypatch.setattr(download, "is_public", lambda address: not server.moments)
        server.answers["/b"] = [lambda handler: handler.send(302, Location="/a", Connection="close")]
        assert fetch_images([server.url("/b")], tmp_path, 1e6).failed == {server.url("/b"): "a private address"}
        assert server.asked == {"/b": 1}


def test_no_handshake_is_begun_with_a_private_address(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        url = f"https://localhost:{listener.getsockname()[1]}/a"
        assert fetch_images([url], tmp_path, 1e6).failed == {url: "a private address"}
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20)
            assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2600:9000:2000::1", True),
        ("::ffff:8.8.8.8", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:a9fe:a9fe::1", False),
        ("::127.0.0.1", False),
        ("224.0.0.1", False),
    ],
)
def test_private_addresses_are_known(address, public):
    assert is_public(address) == public


def test_each_address_is_fetched_once_and_never_again(server, tmp_path):
    server.answers = {f"/{number}": [picture(number)] for number in range(20)} | {"/png": [image_server.unlabelled]}
    paths = [*server.answers, "/0", "/missing"]
    expected = [picture(number) for number in range(20)] + [picture(7, "PNG"), "gone"]
    assert fetch(server, tmp_path, *paths) == expected
    assert fetch(server, tmp_path, *paths) == expected
    assert set(server.asked.values()) == {1}
    assert (tmp_path / f"{file_stem(server.url('/png'))}.png").is_file()


def test_a_request_says_who_asks_for_what(server, tmp_path):
    headers = {}

    def answer(handler):
        headers.update(handler.headers)
        handler.send(200, picture(0))

    server.answers = {"/a": [answer]}
    fetch(server, tmp_path, "/a")
    assert headers["User-Agent"].startswith("catwalk/")
    assert (headers["Accept"], headers["Accept-Encoding"]) == ("image/*", "identity")


def test_requests_of_all_threads_keep_to_the_rate(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(download._Fetcher, "_sleep", lambda self, seconds: waits.append(seconds))
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: 0.0, time=time.time))
    server.answers = {f"/{number}": [redirect(f"/image{number}")] for number in range(5)}
    server.answers |= {f"/image{number}": [picture(number)] for number in range(5)}
    fetch_images([server.url(f"/{number}") for number in range(5)], tmp_path, 100)
    assert sorted(waits) == pytest.approx([number / 100 for number in range(10)])


def test_a_server_can_ask_for_a_longer_wait(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(download._Fetcher, "_sleep", lambda self, seconds: waits.append(seconds))
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 50))
    for wait, retry_after in ((17, "17"), (120, "9999"), (50, later), (0.005, "soon")):
        path = f"/{wait}"
        server.answers[path] = [lambda handler, asked=retry_after: handler.send(503, Retry_After=asked), picture(0)]
        fetch(server, tmp_path, path)
        assert [pause for pause in waits if pause > 1e-4][-1] == pytest.approx(wait, abs=3 if wait == 50 else 1e-9)


def test_waits_double(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(download._Fetcher, "_sleep", lambda self, seconds: waits.append(seconds))
    server.answers = {"/a": [500]}
    fetch(server, tmp_path, "/a")
    assert [pause for pause in waits if pause > 1e-4] == [0.005, 0.01, 0.02, 0.04]


def test_many_failures_in_a_row_end_it_and_what_is_there_stays(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "GIVE_UP", 5)
    server.answers = {"/0": [picture(0)]} | {f"/{number}": [403] for number in range(1, 300)}
    with pytest.raises(
        CatwalkError, match=r"^5 images in a row could not be fetched.* status 403; .*goes on from there$"
    ):
        fetch(server, tmp_path, *server.answers)
    assert len(server.asked) < 100
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [picture(0)]


def test_an_interruption_ends_it_soon_and_what_is_there_stays(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "FIRST_WAIT", 60)
    server.answers = {"/0": [picture(0)], "/1": [500]} | {f"/{number}": [picture(number)] for number in range(2, 99)}

    def interrupt(bar, task):
        raise KeyboardInterrupt

    monkeypatch.setattr(download.Progress, "advance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, *server.answers)
    assert (tmp_path / f"{file_stem(server.url('/0'))}.jpg").read_bytes() == picture(0)

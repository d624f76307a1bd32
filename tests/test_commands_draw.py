"""`python main.py draw`: the picture, the network, and the server over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import main
from commands.drawing.mnist import centre_of_mass, like_mnist
from commands.drawing.network import Network
from commands.drawing.server import FILES, FOLDER, MOST_BYTES, Handler, Server
from section1.losses import SoftmaxCrossEntropy
from section1.training import evaluate, predict
from section3.experiments._cnns import Images, load_images
from section3.experiments.mnist_cnn import load_trained
from tests.runs import small_run
from utils.data import load
from utils.data.digits import resize_matrix
from utils.experiments import results, runner
from utils.experiments.registry import ROOT

SMALL: dict[str, Any] = {"filters": [8, 16], "hidden": 32, "epochs": 6}
DIGIT = [[0] * 60 for _ in range(10)] + [[0] * 28 + [255] * 6 + [0] * 26 for _ in range(40)]


def train(folder: Path, **changes: Any) -> tuple[Network, Images]:
    """A network in `folder`, as `main.py mnist_cnn` would leave it, and the data it knows."""
    run = small_run("mnist_cnn", folder, SMALL | changes)
    place = run.settings.folder(run.experiment)
    results.save(runner.compute(run), place)
    result = results.load(place)
    return Network(load_trained(place, result), result), load_images(run, "mnist")


@contextlib.contextmanager
def serving(network: Network) -> Iterator[Server]:
    with Server(0, network.about(), network.answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[Network, Images]:
    return train(folder)


@pytest.fixture(scope="module")
def server(trained: tuple[Network, Images]) -> Iterator[Server]:
    with serving(trained[0]) as server:
        yield server


Reply = tuple[int, dict[str, str], bytes]


def ask(
    server: Server,
    method: str = "GET",
    path: str = "/",
    body: bytes | None = None,
    **headers: str,
) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()


def question(drawing: Any) -> bytes:
    return json.dumps({"drawing": drawing}).encode()


# --- the picture ----------------------------------------------------------------------------


def test_a_drawing_gets_the_size_and_place_of_a_digit_of_mnist() -> None:
    """Whatever its size, place and proportions."""
    rng = np.random.default_rng(0)
    for h, w in ((1, 1), (3, 200), (200, 3), (150, 90), (11, 17), (280, 280)):
        drawing = np.zeros((300, 400), int)
        top, left = rng.integers(0, 300 - h + 1), rng.integers(0, 400 - w + 1)
        drawing[top : top + h, left : left + w] = rng.integers(1, 256, (h, w))
        image = like_mnist(drawing)
        rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
        scale = 20 / max(h, w)
        assert len(rows) == max(1, round(h * scale)) and len(columns) == max(1, round(w * scale))
        assert all(14 <= round(centre, 6) < 15 for centre in centre_of_mass(image))
        assert drawing[drawing > 0].mean() == pytest.approx(image[image > 0].mean())
        np.testing.assert_allclose(like_mnist(image), image)


def test_ink_at_one_end_does_not_push_a_drawing_out_of_the_picture() -> None:
    drawing = np.ones((100, 100), int)
    drawing[:5, :5] = 10**6
    assert like_mnist(drawing)[8:, 8:].all()


def test_an_empty_drawing_is_no_picture() -> None:
    with pytest.raises(ValueError, match="empty"):
        like_mnist(np.zeros((5, 5)))


@pytest.mark.realdata
def test_digits_of_mnist_drawn_large_come_back_as_they_were(
    real_data: Path,
) -> None:
    """So a network's answers are the same, too: with sharp pixels the picture is the very same."""
    digits = load("mnist", policy="real", download=False, root=real_data).test_x[:1000, ..., 0]
    smooth = resize_matrix(280, 28)
    similar = []
    for digit in digits.astype(float):
        large = digit.repeat(10, axis=0).repeat(10, axis=1)
        np.testing.assert_allclose(like_mnist(large), digit, atol=1e-12)
        again = like_mnist(smooth @ digit @ smooth.T)
        similar.append(np.corrcoef(again.ravel(), digit.ravel())[0, 1])
    assert np.mean(similar) > 0.9


# --- the network ----------------------------------------------------------------------------

DEEP = {"convolutions": 2, "batchnorm": True, "dropout": 0.3, "samples": 400, "epochs": 4}


@pytest.mark.parametrize("changes", [{}, DEEP, {"seeds": 2}])
def test_the_network_is_loaded_as_it_was_trained(tmp_path: Path, changes: dict) -> None:
    network, data = train(tmp_path, **({"epochs": 3} | changes))
    _, accuracy = evaluate(network.model, SoftmaxCrossEntropy(), data.test, threads=1)
    counts = network.result.arrays["confusion"]
    assert accuracy == pytest.approx(counts.trace() / counts.sum()) and accuracy > 0.3
    assert f"{counts.trace()} of 360 test images right ({accuracy:.2%})" in network.about()
    assert "QUICK mode on handwritten digits" in network.about()
    assert "errors" in network.about()  # it is warned of, for digits that are not MNIST's
    answer = network.answer(np.array(DIGIT))
    assert len(answer["layers"]) == 2
    assert len(answer["probabilities"]) == 10


def test_an_answer_is_that_of_the_network(trained: tuple[Network, Images]) -> None:
    network, data = trained
    drawing = np.array(DIGIT)
    answer = network.answer(drawing)
    picture = like_mnist(drawing)
    np.testing.assert_array_equal(answer["picture"], picture.round())
    scores = predict(network.model, data.standardised(picture[None, ..., None] / 255))[0]
    p = np.exp(scores - scores.max())
    np.testing.assert_allclose(answer["probabilities"], p / p.sum(), atol=1e-5)
    assert np.shape(answer["saliency"]) == (28, 28) and np.max(answer["saliency"]) == 255
    for layer, filters, side in zip(answer["layers"], (8, 16), (14, 7)):
        assert layer["filters"] == filters and layer["size"] == [side, side]
        shown = [value for row in layer["tiles"] for value in row if value is not None]
        assert len(shown) == filters * side * side and max(shown) == 255


def test_a_one_is_taken_for_a_one(trained: tuple[Network, Images]) -> None:
    assert np.argmax(trained[0].answer(np.array(DIGIT))["probabilities"]) == 1


# --- the server -----------------------------------------------------------------------------


def test_it_listens_to_this_computer_alone(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("path", FILES)
def test_files_are_whole_and_need_nothing_from_elsewhere(server: Server, path: str) -> None:
    status, headers, content = ask(server, path=f"{path}?again")
    name, kind = FILES[path]
    assert status == 200 and content == (FOLDER / name).read_bytes()
    assert headers["Content-Type"] == f"{kind}; charset=utf-8"
    assert headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert not re.search(rb"https?:|//[a-z]|@import|url\(", content)


def test_the_page_is_told_about_the_network(server: Server) -> None:
    status, _, content = ask(server, path="/network")
    assert status == 200 and json.loads(content) == {"about": server.about}


def test_a_drawing_is_answered(server: Server) -> None:
    origin = f"http://localhost:{server.port}"
    headers = {"Host": f"localhost:{server.port}", "Origin": origin}
    for allowed in ({}, headers):
        status, head, content = ask(server, "POST", "/answer", question(DIGIT), **allowed)
        assert status == 200 and head["Content-Type"].startswith("application/json")
        assert json.loads(content) == server.answer(np.array(DIGIT))


WRONG = {
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "no object": b"[1, 2]",
    "no drawing": b"{}",
    "nested too deep": b'{"drawing": ' + b"[" * 100_000,
    "a number": question(3),
    "a row": question([1, 2]),
    "a cube": question([[[1]]]),
    "no rows": question([]),
    "empty rows": question([[], []]),
    "ragged": question([[1, 2], [3]]),
    "words": question([["a", "b"]]),
    "fractions": question([[0.5, 1]]),
    "no numbers": b'{"drawing": [[NaN, 1]]}',
    "yes and no": question([[True, False]]),
    "nothing": question([[None]]),
    "too small": question([[-1, 5]]),
    "too large": question([[256, 5]]),
    "far too large": question([[2**63, 5]]),
    "beyond all bounds": question([[10**400, 5]]),
    "too wide": question([[1] * 513]),
    "no ink": question([[0, 0], [0, 0]]),
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
def test_a_body_that_is_no_drawing_is_refused(server: Server, body: bytes) -> None:
    status, headers, content = ask(server, "POST", "/answer", body)
    assert status == 400
    assert headers["Content-Type"].startswith("text/plain") and len(content.splitlines()) == 1


ELSEWHERE = [
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example:{port}"},
    {"Host": "localhost:{port}:{port}"},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "https://127.0.0.1:{port}"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://localhost:{port}"},  # another origin than that of the Host
    {"Origin": "null"},
]


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_others_are_refused(server: Server, headers: dict[str, str]) -> None:
    sent = {name: value.format(port=server.port) for name, value in headers.items()}
    for method, path in (("GET", "/"), ("GET", "/network"), ("POST", "/answer")):
        status, given, content = ask(server, method, path, question(DIGIT), **sent)
        assert status == 403 and b"evil" not in content
        assert "Access-Control-Allow-Origin" not in given


def test_unknown_paths_and_other_methods_are_refused(server: Server) -> None:
    for path in ("/x", "/../config.py", "/page.css/", "/server.py", "/%2e%2e/main.py"):
        assert ask(server, path=path)[0] == 404
    for method in ("HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW", "POST"):
        status, headers, _ = ask(server, method, "/")
        assert status == 405 and headers["Allow"] == "GET"
    status, headers, _ = ask(server, path="/answer")
    assert status == 405 and headers["Allow"] == "POST"


def test_a_long_body_is_refused_whether_it_comes_or_not(server: Server) -> None:
    assert ask(server, "POST", "/answer", b" " * (MOST_BYTES + 1))[0] == 413
    for length in (str(MOST_BYTES + 1), "9" * 5000):
        assert ask(server, "POST", "/answer", b"", **{"Content-Length": length})[0] == 413
    assert ask(server, "POST", "/answer", b" " * MOST_BYTES)[0] == 400


def talk(server: Server, words: bytes) -> bytes:
    """All that the server says to these words, after which nothing more comes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(words)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_what_is_no_request_gets_an_answer_in_words(server: Server) -> None:
    host = f"Host: 127.0.0.1:{server.port}\r\n".encode()
    post = b"POST /answer HTTP/1.1\r\n" + host
    for words, status in (
        (b"\x16\x03\x01\x02\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET /" + b"x" * 70_000, 414),
        (b"GET / HTTP/1.1\r\n" + 200 * b"a: b\r\n" + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n\r\n", 403),
        (post + b"\r\n", 411),
        (post + b"Content-Length: -5\r\n\r\n", 411),
        (post + b"Content-Length: x\r\n\r\n", 411),
        (post + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 411),
        (post + b"Content-Length: 9\r\n\r\n{", 400),  # cut short
    ):
        head, _, sentence = talk(server, words).partition(b"\r\n\r\n")
        assert head.split()[1] == str(status).encode(), words[:40]
        assert b"default-src 'none'" in head and len(sentence.splitlines()) == 1
    assert talk(server, b"") == b""
    assert ask(server)[0] == 200


def test_fifty_clients_at_once_are_answered(server: Server) -> None:
    drawings = [np.roll(DIGIT, 2 * k, axis=1).tolist() for k in range(5)]
    expected = [server.answer(np.array(drawing)) for drawing in drawings]
    together = threading.Barrier(50)

    def client(number: int) -> bool:
        together.wait(20)
        status, _, content = ask(server, "POST", "/answer", question(drawings[number % 5]))
        return status == 200 and json.loads(content) == expected[number % 5]

    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(client, range(50)))


@contextlib.contextmanager
def slow_clients(server: Server) -> Iterator[list[socket.socket]]:
    """Thirty that have said nothing, a part of a request, or a part of its body."""
    starts = (
        b"",
        b"GET / HT",
        f"POST /answer HTTP/1.1\r\nHost: localhost:{server.port}\r\n"
        "Content-Length: 900\r\n\r\n{".encode(),
    )
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            for _ in range(30)
        ]
        for client, words in zip(clients, 10 * starts):
            client.sendall(words)
        yield clients


def test_slow_clients_block_nobody(server: Server) -> None:
    with slow_clients(server) as clients:
        assert ask(server, "POST", "/answer", question(DIGIT))[0] == 200
        assert not select.select(clients, [], [], 0)[0]  # none has been sent away meanwhile


def test_slow_clients_are_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "timeout", 0.1)
    with slow_clients(server) as clients:
        assert all(client.recv(1) == b"" for client in clients)


def test_a_client_that_goes_away_leaves_no_trace(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    linger = (1).to_bytes(4, sys.byteorder) + bytes(4)  # closing resets the connection
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.sendall(b"GET / HTTP/1.1\r\n")
    assert ask(server)[0] == 200
    time.sleep(0.1)
    assert capfd.readouterr() == ("", "")


# --- the command ----------------------------------------------------------------------------


def call(capsys: pytest.CaptureFixture[str], monkeypatch: Any, *words: str) -> str:
    """What `main.py draw` complains of before it ends with code 2."""
    monkeypatch.setattr(sys, "argv", ["main.py", "draw", *words])
    assert main.main() == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    return err


def test_without_a_network_it_says_how_to_train_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = call(capsys, monkeypatch, "--results", str(tmp_path))
    trains = f"python main.py mnist_cnn --results {tmp_path} trains one"
    assert f"no trained CNN yet: {trains}" in said


def test_a_damaged_network_is_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train(tmp_path, samples=50, epochs=1)
    place = tmp_path / "section3" / "mnist_cnn"
    checkpoints = place / "checkpoints" / "quick"
    last = checkpoints / "seed0" / "last.npz"
    whole = last.read_bytes()
    again = f"python main.py mnist_cnn --mode quick --results {tmp_path} trains it anew"

    def said() -> str:
        return call(capsys, monkeypatch, "--results", str(tmp_path))

    for damaged in (whole[:-100], whole[:1000], b"", b"\0" * 5000):
        last.write_bytes(damaged)
        assert "last.npz" in (words := said()) and again in words
    last.unlink()
    assert "last.npz" in (words := said()) and again in words
    last.write_bytes(whole)

    (checkpoints / "unfinished.json").touch()
    assert "has not ended" in (words := said()) and again in words
    (checkpoints / "unfinished.json").unlink()

    record = (place / "result.json").read_text(encoding="utf-8")
    (place / "result.json").write_text(record.replace('"hidden": 32', '"hidden": 33'))
    assert "another model" in (words := said()) and again in words
    (place / "result.json").write_text(record[:-20])
    assert "run the experiment again" in said()

    (place / "result.json").write_text(record)
    result = results.load(place)
    del result.arrays["pixel_mean"]
    results.save(result, place)
    assert "how pixels were standardised" in (words := said()) and again in words


def test_a_port_that_cannot_be_had(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    server: Server,
    folder: Path,
) -> None:
    for port in (str(server.port), "65536"):
        said = call(capsys, monkeypatch, "--port", port, "--results", str(folder))
        assert f"port {port} cannot be used" in said and "choose another" in said
    assert "--port" in call(capsys, monkeypatch, "--port", "x")


@pytest.mark.skipif(os.name == "nt", reason="needs a signal for Ctrl-C")
@pytest.mark.usefixtures("trained")
def test_ctrl_c_ends_it_without_a_word(folder: Path) -> None:
    """Even while a client has not finished what it wants to say."""
    code = "import signal, sys, main; signal.signal(2, signal.default_int_handler); "
    words = ["draw", "--port", "0", "--results", str(folder)]
    with subprocess.Popen(
        [sys.executable, "-c", code + "sys.exit(main.main())", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert "test images right" in process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
        assert found
        with socket.create_connection(("127.0.0.1", int(found[1]))) as slow:
            slow.sendall(b"GET ")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and out == err == ""

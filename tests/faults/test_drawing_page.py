"""The drawing page: whatever it is sent and whatever the network does, one sentence answers.

What a whole page, its network and well-meaning clients need is in tests/test_commands_draw.py.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from commands.drawing.server import Refusal, Server, drawing_of
from tests.faults import TIMES
from tests.test_commands_draw import DIGIT, ask, question, serving

Record = Callable[[str, object], None]


def stand_in(answer: Callable[[np.ndarray], Any]) -> Any:
    return SimpleNamespace(about=lambda: "a network", answer=answer)


FAULTS: dict[str, Any] = {
    "an error of many lines": ValueError("shapes (3, 4)\n and (5,)\tdiffer"),
    "an error without words": MemoryError(),
    "an error of the system": OSError(28, "No space left on device"),
    "a long error": RuntimeError("x" * 10_000),
    "no number": {"probabilities": [float("nan")]},
    "no JSON": {"probabilities": np.zeros(3)},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_network_that_fails_is_a_500_in_one_sentence(
    fault: Any, capfd: pytest.CaptureFixture[str], record_property: Record
) -> None:
    faults = [fault]

    def answer(drawing: np.ndarray) -> dict[str, Any]:
        if not faults:
            return {"probabilities": [1.0]}
        if isinstance(fault := faults.pop(), Exception):
            raise fault
        return fault

    record_property("faults injected", 1)
    with serving(stand_in(answer)) as server:
        status, headers, content = ask(server, "POST", "/answer", question(DIGIT))
        assert status == 500 and headers["Content-Type"].startswith("text/plain")
        assert content.startswith(b"the network could not answer (") and len(content) < 300
        assert len(content.splitlines()) == 1 and b"Traceback" not in content
        assert ask(server, "POST", "/answer", question(DIGIT))[0] == 200, "the next one is answered"
    assert capfd.readouterr() == ("", "")


OTHER_NAMES = (
    "0.0.0.0:{port}", "[::1]:{port}", "127.1:{port}", "2130706433:{port}", "127.0.0.1:1",
    "localhost.:{port}", "localhost@evil.example:{port}", "evil.example#localhost:{port}",
    "localhost:{port}.evil.example", ":{port}", "127.0.0.1 evil.example",
)  # fmt: skip


def test_other_names_for_this_computer_get_no_answer(record_property: Record) -> None:
    """A name that was made to point here (DNS rebinding) reads nothing, not even /network."""

    def never(drawing: np.ndarray) -> Any:
        raise AssertionError("the network was asked")

    record_property("inputs tried", len(OTHER_NAMES))
    with serving(stand_in(never)) as server:
        for name in OTHER_NAMES:
            host = name.format(port=server.port)
            for method, path in (("GET", "/network"), ("POST", "/answer")):
                status, _, content = ask(server, method, path, question(DIGIT), Host=host)
                assert status == 403 and b"a network" not in content, host


SIGNS = b'[]{}",:-+.eE0123456789 nulltrefas\\\x00\xff'


def mutated(text: bytes, rng: random.Random) -> bytes:
    """The text with some bytes cut, doubled or replaced by ones that mean something in JSON."""
    content = bytearray(text)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice((0, 1, 1, 5, 50)))
        piece = bytes(
            rng.choices(b'[]{}",:-+.eE0123456789 nulltrefas\\\x00\xff', k=rng.randint(0, 3))
        )
        content[start:end] = rng.choice((piece, bytes(content[start:end]) * 2))
    return bytes(content)


def test_a_damaged_body_is_a_drawing_or_refused(record_property: Record) -> None:
    seeds = [
        question([[0, 255, 3], [4, 5, 6]]),
        question([[0] * 28] * 27 + [[9] * 28]),
        b'{"drawing": [[1e3, 2]], "more": {"drawing": [[1]]}}',
        *(
            b'{"drawing": ' + b"[" * depth + b"1" + b"]" * depth + b"}"
            for depth in (3, 40, 70, 900)
        ),
    ]
    rng = random.Random(0)
    outcomes = {True: 0, False: 0}
    for number in range(2000 * TIMES):
        body = mutated(seeds[number % len(seeds)], rng)
        try:
            drawing = drawing_of(body)
        except Refusal as refusal:
            assert refusal.status == 400 and len(str(refusal).splitlines()) == 1
            outcomes[False] += 1
        else:
            assert drawing.ndim == 2 and drawing.any() and 0 <= drawing.min() <= drawing.max() < 256
            assert json.loads(body)["drawing"] == drawing.tolist()
            outcomes[True] += 1
    record_property("inputs tried", sum(outcomes.values()))
    assert min(outcomes.values()) > 20, "both happen"


def test_clients_that_leave_before_the_answer_leave_no_trace(
    capfd: pytest.CaptureFixture[str], record_property: Record
) -> None:
    """They ask, and are gone when the network has thought; or their network fails meanwhile."""
    import socket
    import threading

    asked, leave = threading.Semaphore(0), threading.Event()

    def answer(drawing: np.ndarray) -> dict[str, Any]:
        asked.release()
        leave.wait(60)
        if drawing[0, 0]:
            raise ValueError("it fails")
        return {"probabilities": [1.0] * 100_000}

    def start(server: Server, body: bytes) -> None:
        head = f"POST /answer HTTP/1.1\r\nHost: localhost:{server.port}\r\n"
        linger = (1).to_bytes(4, "little") + bytes(4)  # closing resets the connection
        with contextlib.closing(socket.create_connection(("127.0.0.1", server.port))) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert asked.acquire(timeout=60)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    record_property("faults injected", 10)
    with serving(stand_in(answer)) as server:
        for number in range(10):
            start(server, question([[number % 2, 1]]))
        leave.set()
        assert ask(server, "POST", "/answer", question([[0, 1]]))[0] == 200
        for thread in threading.enumerate():
            if "process_request_thread" in thread.name:
                thread.join(20)
    assert capfd.readouterr() == ("", "")

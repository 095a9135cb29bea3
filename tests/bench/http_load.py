"""Requests to an OpenAI-compatible server, many at once from one thread, with the moment at which each text came.

The machine's cores belong to the server: while requests run, this only notes bytes and times, and reads them as HTTP
and JSON afterwards.
"""

import bisect
import itertools
import json
import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


class RequestFailed(RuntimeError):
    """The server answered with an error, or not at all."""


@dataclass(frozen=True)
class Answer:
    """One completion. Moments are of `time.perf_counter`."""

    request: dict
    began: float
    ended: float
    # One for each text of a stream; the end of the answer where nothing was streamed.
    arrivals: list[float]
    text: str
    tokens: int
    prompt_tokens: int
    headers: dict[str, str]

    @property
    def first_token(self) -> float:
        """Seconds from the request to the first text."""
        return self.arrivals[0] - self.began

    @property
    def decoding(self) -> float:
        """Seconds from the first text to the last."""
        return self.arrivals[-1] - self.arrivals[0]

    @property
    def gaps(self) -> list[float]:
        """Seconds between texts."""
        return [after - before for before, after in itertools.pairwise(self.arrivals)]


@dataclass
class _Flight:
    """A request on its way."""

    socket: socket.socket
    request: dict
    began: float
    times: list[float] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    ended: float = 0.0
    failure: str = ""


class Client:
    """Asks one server."""

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._key = key

    def ask(self, bodies: list[dict], path: str = "/v1/completions") -> list[Answer]:
        """Sends all at once and waits for all."""
        return self.keep_asking(bodies, len(bodies), path)

    def keep_asking(self, bodies: Iterable[dict], at_once: int, path: str = "/v1/completions") -> list[Answer]:
        """Keeps `at_once` requests on their way until `bodies` end, and waits for the last."""
        source = iter(bodies)
        done: list[_Flight] = []
        with selectors.DefaultSelector() as selector:
            for body in itertools.islice(source, at_once):
                self._send(selector, body, path)
            while selector.get_map():
                ended = self._receive(selector, None)
                done += ended
                for body in itertools.islice(source, len(ended)):
                    self._send(selector, body, path)
        return [_read(flight) for flight in done]

    def ask_at_rate(self, bodies: Iterable[dict], rate: float, path: str) -> tuple[list[Answer], list[str]]:
        """Sends `rate` requests a second, however slow the answers are. What was answered, and why the others were not."""
        done: list[_Flight] = []
        answers: list[Answer] = []
        failures: list[str] = []
        due = time.perf_counter()
        with selectors.DefaultSelector() as selector:
            for body in bodies:
                while (rest := due - time.perf_counter()) > 0:
                    done += self._receive(selector, rest)
                try:
                    self._send(selector, body, path)
                except OSError as error:
                    failures.append(f"no connection: {error}")
                due += 1 / rate
            while selector.get_map():
                done += self._receive(selector, None)
        for flight in done:
            try:
                answers.append(_read(flight))
            except RequestFailed as error:
                failures.append(str(error))
        return answers, failures

    def call(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> bytes:
        """One request that is no completion; the body of its answer."""
        with socket.create_connection(self._address) as connection:
            connection.sendall(self._head(method, path, len(body), kind) + body)
            raw = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        status, headers, rest, _ = _split(raw)
        text = b"".join(data for _, data in _chunks(rest)) if _is_chunked(headers) else rest
        if not 200 <= status < 300:
            raise RequestFailed(f"{method} {path}: {status} {text.decode(errors='replace')[:500]}")
        return text

    def call_json(self, method: str, path: str, body: dict | None = None) -> dict:
        return json.loads(self.call(method, path, b"" if body is None else json.dumps(body).encode()))

    def _receive(self, selector: selectors.BaseSelector, patience: float | None) -> list[_Flight]:
        """Takes what has come, waiting for it if need be; the requests that ended with it."""
        ended = []
        for key, _ in selector.select(patience):
            flight: _Flight = key.data
            try:
                data = flight.socket.recv(1 << 16)
            except OSError as error:
                data, flight.failure = b"", str(error)
            now = time.perf_counter()
            if data:
                flight.times.append(now)
                flight.pieces.append(data)
                continue
            flight.ended = now
            selector.unregister(flight.socket)
            flight.socket.close()
            ended.append(flight)
        return ended

    def _send(self, selector: selectors.BaseSelector, body: dict, path: str) -> None:
        payload = json.dumps(body).encode()
        began = time.perf_counter()
        connection = socket.create_connection(self._address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(self._head("POST", path, len(payload), "application/json") + payload)
        flight = _Flight(connection, body, began)
        selector.register(connection, selectors.EVENT_READ, flight)

    def _head(self, method: str, path: str, length: int, kind: str) -> bytes:
        # Without keep-alive the end of an answer is the end of its connection.
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._address[0]}", "Connection: close"]
        lines += [f"Content-Length: {length}", f"Content-Type: {kind}"]
        if self._key:
            lines.append(f"Authorization: Bearer {self._key}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _read(flight: _Flight) -> Answer:
    if flight.failure:
        raise RequestFailed(f"the connection failed: {flight.failure}")
    raw = b"".join(flight.pieces)
    status, headers, rest, start = _split(raw)
    if status != 200:
        raise RequestFailed(f"status {status}: {rest.decode(errors='replace')[:500]}")
    if not flight.request.get("stream"):
        text = b"".join(data for _, data in _chunks(rest)) if _is_chunked(headers) else rest
        body = json.loads(text)
        said, usage = "".join(map(_said, body.get("choices", []))), body["usage"]
        arrivals = [flight.ended]
    else:
        arrivals, said, usage = _read_stream(flight, rest, start)
    return Answer(
        request=flight.request,
        began=flight.began,
        ended=flight.ended,
        arrivals=arrivals,
        text=said,
        tokens=usage["completion_tokens"],
        prompt_tokens=usage["prompt_tokens"],
        headers=headers,
    )


def _said(choice: dict) -> str:
    """The text of a completion, or of a chat's message."""
    return choice.get("text") or (choice.get("message") or {}).get("content") or ""


def _read_stream(flight: _Flight, rest: bytes, start: int) -> tuple[list[float], str, dict]:
    ends = list(itertools.accumulate(map(len, flight.pieces)))
    arrivals: list[float] = []
    texts: list[str] = []
    usage: dict = {}
    pending = b""
    for offset, data in _chunks(rest):
        # The piece that brought the last byte of this chunk.
        came = flight.times[bisect.bisect_left(ends, start + offset)]
        *events, pending = (pending + data).split(b"\n\n")
        for event in events:
            data = event.removeprefix(b"data:").strip()
            if not event.startswith(b"data:") or data == b"[DONE]":
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                raise RequestFailed(f"in a stream: {chunk['error']}")
            usage = chunk.get("usage") or usage
            if text := "".join(map(_said, chunk.get("choices", []))):
                arrivals.append(came)
                texts.append(text)
    if not arrivals or not usage:
        raise RequestFailed(f"a stream without text or usage: {rest[-300:]!r}")
    return arrivals, "".join(texts), usage


def _split(raw: bytes) -> tuple[int, dict[str, str], bytes, int]:
    """Status, headers, the rest, and where it begins."""
    head, end, rest = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not end or not lines[0].startswith("HTTP/1.1 "):
        raise RequestFailed(f"the connection ended without an answer: {raw[:200]!r}")
    pairs = (line.partition(":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return int(lines[0].split()[1]), headers, rest, len(raw) - len(rest)


def _is_chunked(headers: dict[str, str]) -> bool:
    return headers.get("transfer-encoding", "").lower() == "chunked"


def _chunks(rest: bytes) -> Iterator[tuple[int, bytes]]:
    """Where each chunk ends, and its data. Raises where the last one is missing: the stream broke off."""
    at = 0
    while True:
        line_end = rest.find(b"\r\n", at)
        if line_end < 0:
            raise RequestFailed("a stream broke off")
        size = int(rest[at:line_end].split(b";")[0], 16)
        if size == 0:
            return
        at = line_end + 2 + size + 2
        if at > len(rest):
            raise RequestFailed("a stream broke off")
        yield at - 2, rest[line_end + 2 : at - 2]

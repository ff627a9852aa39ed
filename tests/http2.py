"""Requests over HTTP/2, several at once on a connection, and exactly what their client saw.

    certificate, key = certificate_files(tmp_path)
    with gunicorn_prom(tmp_path, "mix:app", *server_options(tmp_path), ...) as server:
        exchanges = send(server.port, [Shot(), Shot("POST", "/echo", body=b"x")], connections=2)
        with Client(server.port) as client:
            first, second = client.exchange([Shot(), Shot(path="/stream")])
            assert first.headers["content-length"] == "6" and first.body == b"plain\n"

The requests are those of tests/traffic.py, of which version and raw are not looked at. One that
hangs up resets its stream: as soon as it has asked, or when the first of the answer has come.
"""

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError

from tests.traffic import TIMEOUT_S, Exchange, Shot

# As many as a connection has open at a time; Gunicorn allows 100.
STREAMS = 8
CERTIFICATE = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


@dataclass(frozen=True)
class StreamExchange(Exchange):
    """A request on a stream of its own, and what its client saw.

    Attributes:
        headers: of the answer, by their names in lower case, without `:status`.
        reset: the error code with which the server ended the stream, None when it did not.
    """

    headers: dict[str, str]
    reset: int | None

    @property
    def body(self) -> bytes:
        """What came of the answer's body."""
        return self.raw


@dataclass
class _Stream:
    shot: Shot
    unsent: bytes
    status: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    is_over: bool = False
    reset: int | None = None

    def outcome(self) -> StreamExchange:
        body = bytes(self.body)
        return StreamExchange(
            self.shot, self.status, self.is_whole, len(body), body, self.headers, self.reset
        )


class Client:
    """A connection that speaks HTTP/2.

    Args:
        is_encrypted: over TLS, where ALPN must choose h2; else with prior knowledge.
    """

    def __init__(self, port: int, *, is_encrypted: bool = True) -> None:
        self._port = port
        self._is_encrypted = is_encrypted
        self._streams: dict[int, _Stream] = {}
        self.is_closed = True

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        """Open the connection; `exchange` does it when there is none."""
        self._socket = socket.create_connection(("127.0.0.1", self._port), TIMEOUT_S)
        if self._is_encrypted:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            encrypted = context.wrap_socket(self._socket, server_hostname="localhost")
            assert encrypted.selected_alpn_protocol() == "h2"
            self._socket = encrypted
        self._protocol = H2Connection(H2Configuration(header_encoding="utf-8"))
        self._protocol.initiate_connection()
        self._flush()
        self.is_closed = False

    def close(self) -> None:
        """Go away without a word."""
        if not self.is_closed:
            self._socket.close()
            self.is_closed = True

    def ask(self, shots: Iterable[Shot]) -> None:
        """Send the requests, each on a new stream, and read nothing."""
        if self.is_closed:
            self.connect()
        for shot in shots:
            self._open_stream(shot)
        self._flush()

    def read(self) -> list[StreamExchange]:
        """Read until every stream is over, and return what came on them in their order."""
        while any(not stream.is_over for stream in self._streams.values()):
            if not self.receive():
                break
        outcomes = [stream.outcome() for stream in self._streams.values()]
        self._streams.clear()
        return outcomes

    def exchange(self, shots: Sequence[Shot]) -> list[StreamExchange]:
        """Send the requests at once and return what came for each."""
        self.ask(shots)
        return self.read()

    def _open_stream(self, shot: Shot) -> None:
        number = self._protocol.get_next_available_stream_id()
        pairs = (header.split(": ", 1) for header in shot.headers)
        lengths = [("content-length", str(len(shot.body)))] if shot.body else []
        headers = [
            (":method", shot.method),
            (":authority", "test"),
            (":scheme", "https" if self._is_encrypted else "http"),
            (":path", shot.path),
            *((name.lower(), value) for name, value in pairs),
            *lengths,
        ]
        self._protocol.send_headers(number, headers, end_stream=not shot.body)
        stream = self._streams[number] = _Stream(shot, shot.body)
        self._send_body(number)
        if shot.hangs_up == "asking":
            self._leave(number, stream)

    def _send_body(self, number: int) -> None:
        """Send what the windows of stream and connection let through."""
        stream = self._streams[number]
        while stream.unsent and not stream.is_over:
            window = self._protocol.local_flow_control_window(number)
            size = min(window, self._protocol.max_outbound_frame_size, len(stream.unsent))
            if not size:
                return
            part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            self._protocol.send_data(number, part, end_stream=not stream.unsent)

    def _leave(self, number: int, stream: _Stream) -> None:
        stream.is_over = True
        self._protocol.reset_stream(number, ErrorCodes.CANCEL)

    def receive(self) -> bool:
        """Take what comes next; tell whether the connection is still open."""
        try:
            data = self._socket.recv(65536)
            events = self._protocol.receive_data(data) if data else []
        except (ConnectionResetError, ssl.SSLEOFError, ProtocolError):
            data, events = b"", []
        for event in events:
            self._handle(event)
        for number, stream in self._streams.items():
            if stream.unsent and not stream.is_over:
                self._send_body(number)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self._flush()
        if not data:
            self.close()
        return bool(data)

    def _handle(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            # Streams up to the last that it names are still answered.
            for number, stream in self._streams.items():
                stream.is_over |= number > (event.last_stream_id or 0)
            return
        number = getattr(event, "stream_id", None)
        stream = self._streams.get(number) if number else None
        if isinstance(event, DataReceived):
            self._protocol.acknowledge_received_data(
                event.flow_controlled_length, event.stream_id
            ) if stream and not stream.is_over else self._acknowledge_lost(event)
        if stream is None or stream.is_over:
            return
        if isinstance(event, ResponseReceived):
            headers = dict(event.headers)
            stream.status = headers.pop(":status")
            stream.headers = headers
        elif isinstance(event, DataReceived):
            stream.body += event.data
        elif isinstance(event, StreamEnded):
            stream.is_over = stream.is_whole = True
        elif isinstance(event, StreamReset):
            stream.is_over, stream.reset = True, int(event.error_code)
        has_begun = isinstance(event, ResponseReceived | DataReceived)
        if stream.shot.hangs_up == "reading" and has_begun and not stream.is_over:
            self._leave(event.stream_id, stream)

    def _acknowledge_lost(self, event: DataReceived) -> None:
        """Give back the window of data for a stream that was reset."""
        self._protocol.increment_flow_control_window(event.flow_controlled_length)

    def _flush(self) -> None:
        self._socket.sendall(self._protocol.data_to_send())


def send(
    port: int,
    shots: Iterable[Shot],
    *,
    connections: int = 1,
    streams: int = STREAMS,
    is_encrypted: bool = True,
) -> list[StreamExchange]:
    """Send the requests over that many connections, each with so many streams at a time."""
    shots = list(shots)

    def send_share(number: int) -> list[StreamExchange]:
        share = iter(shots[number::connections])
        exchanges: list[StreamExchange] = []
        with Client(port, is_encrypted=is_encrypted) as client:
            while batch := list(islice(share, streams)):
                exchanges += client.exchange(batch)
        return exchanges

    with ThreadPoolExecutor(connections) as pool:
        return list(chain.from_iterable(pool.map(send_share, range(connections))))


def certificate_files(directory: Path) -> tuple[Path, Path]:
    """Return the files of a new certificate for localhost, signed by itself, and of its key."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-nodes", "-days", "2", "-keyout", key, "-out", certificate)
    subprocess.run(["openssl", *CERTIFICATE, *names, *files], check=True, capture_output=True)
    return certificate, key


def server_options(directory: Path) -> list[str]:
    """Return the options of a server that speaks HTTP/2 over TLS."""
    certificate, key = certificate_files(directory)
    return ["--http-protocols=h2,h1", f"--certfile={certificate}", f"--keyfile={key}"]

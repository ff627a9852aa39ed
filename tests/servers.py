"""What the workers with servers of their own are asked: gevent_pywsgi and tornado."""

from dataclasses import replace

from tests.exactness import ANNOUNCED, ANSWERED, BODY, FAILED, LEFT
from tests.traffic import Shot

# What gevent's server does otherwise: it lets an application answer a HEAD with a body and
# exceed its length, and leaves requests without an answer on a connection that stays open.
UNLIKE = {
    Shot("HEAD", "/stream"),
    Shot("HEAD", "/nowhere", headers=("Connection: close",)),
    Shot(path="/too-long"),
    Shot(path="/start/twice", raises="AssertionError"),
}
# What is answered otherwise than by Gunicorn does no harm: the answers tell what to expect.
SHARED = [
    shot
    for shot in [*ANSWERED, *FAILED]
    if shot not in UNLIKE and shot.raises != "InvalidChunkSize"
]
OWN = [
    Shot(path="/start/twice"),
    *(
        replace(shot, raises="_InvalidClientInput")
        for shot in FAILED
        if shot.raises == "InvalidChunkSize"
    ),
    *(
        Shot(raw=raw, parse_error=error)
        for raw, error in {
            b"GARBAGE\r\n\r\n": "_InvalidClientRequest",
            b"GET /plain HTTP/9.9\r\n\r\n": "_InvalidClientRequest",
            b"POST /echo HTTP/1.1\r\nContent-Length: x\r\n\r\n": "ValueError",
            b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n": "LimitRequestLine",
        }.items()
    ),
    *(shot for shot in LEFT if shot.path.startswith("/big")),
    Shot("POST", raw=ANNOUNCED + b"ab", hangs_up="asking"),
]
PYWSGI = [*SHARED, *OWN]

UPLOAD = b"PUT /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 3000\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"

TORNADO_NATIVE = [
    Shot(),
    Shot(version="1.0"),
    Shot("HEAD"),
    Shot("POST", body=BODY),
    Shot("PROPFIND"),
    Shot("DELETE"),
    Shot("FOO", headers=("Connection: close",)),
    Shot(path="/stream"),
    Shot(path="/stream", version="1.0"),
    Shot("POST", "/echo", body=BODY),
    Shot("POST", "/echo", raw=CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"),
    Shot("PUT", "/upload", body=BODY),
    Shot(path="/status/404"),
    Shot(path="/status/503"),
    Shot(path="/items/7?a=b"),
    Shot(path="/items/7/seven"),
    Shot(path="/nowhere"),
    Shot(path="/handled"),
    Shot(path="/start/again"),
    Shot(path="/socket"),
    Shot(path="/fail", raises="LookupError"),
    Shot(path="/fail/begin", raises="LookupError"),
    Shot(path="/fail/length", raises="LookupError"),
    Shot("POST", "/echo", raw=CHUNKED + b"no size\r\n", raises="HTTPInputError"),
    Shot(path="/big", hangs_up="reading"),
    Shot("PUT", "/upload", raw=UPLOAD + b"abc", hangs_up="asking"),
    *(
        Shot(raw=raw, parse_error="HTTPInputError")
        for raw in (
            b"GARBAGE\r\n\r\n",
            b"GET /plain HTTP/9.9\r\nHost: test\r\n\r\n",
            b"GET /plain HTTP/1.1\r\nHost: test\r\nno colon\r\n\r\n",
            b"GET /plain HTTP/1.1\r\n\r\n",
        )
    ),
]

# The container of tornado gives no file wrapper, and refuses a body that is too long.
UNLIKE_PATHS = ("/file", "/nothing", "/too-long")
TORNADO_WSGI = [
    *(
        shot
        for shot in ANSWERED
        if not shot.path.startswith(UNLIKE_PATHS)
        and (shot.method, shot.path) not in {("HEAD", "/stream"), ("HEAD", "/nowhere")}
    ),
    *(shot for shot in LEFT if shot.path == "/big"),
]

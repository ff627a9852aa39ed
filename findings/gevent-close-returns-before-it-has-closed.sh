#!/bin/sh
# gevent 26.9.0 (since 25.8.1): in a process that is patched and has a hub, os.close() of a pipe or
# socket returns while the descriptor is still open; it is closed when the event loop next turns.
#
# One would have guessed: when os.close() returns, the descriptor is closed, as POSIX has it and as
# the docstring of Python's says. Who closes its end of a pipe to tell another process or thread that
# it ends, and then waits for that one without running the hub, waits for ever: no end of file comes.
# A Gunicorn master that a configuration file has patched is such a process: its loop is not gevent's.
#
# Seen: "open: True, end of file: False" behind os.close(), "open: False, end of file: True" when the
# loop has turned. Exits with 1 if that changes.
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" install --quiet --disable-pip-version-check gevent==26.9.0
"$directory/venv/bin/python" - <<'PYTHON'
from gevent import monkey

monkey.patch_all()

import os
import sys

import gevent


def look(read_end, write_end):
    try:
        os.fstat(write_end)
        is_open = True
    except OSError:
        is_open = False
    try:
        is_over = os.read(read_end, 1) == b""
    except BlockingIOError:
        is_over = False
    return f"open: {is_open}, end of file: {is_over}"


gevent.sleep(0)  # from here on there is a hub
read_end, write_end = os.pipe()
os.set_blocking(read_end, False)
os.close(write_end)
seen = [look(read_end, write_end)]
gevent.sleep(0.1)
seen.append(look(read_end, write_end))
print(*seen, sep="\n")
sys.exit(seen != ["open: True, end of file: False", "open: False, end of file: True"])
PYTHON

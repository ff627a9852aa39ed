#!/bin/sh
# Gunicorn 27.0.1 on Python 3.11 to 3.13: gc.freeze() before the fork, which is recommended so that
# workers share memory, loses what the application has written to a file and not flushed.
#
# One would have guessed: gc.freeze() only keeps the collector from looking, so a file that is open
# when the process ends is flushed as without it. But a module whose functions refer to its variables
# is a cycle that only the collector's last run takes down, and that does not see what is frozen.
# gc.unfreeze() by atexit brings it back.
#
# Seen: "plain: kept kept" (worker and master each write their copy of the buffer), "frozen: nothing".
# Exits with 1 if that changes.
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" install --quiet --disable-pip-version-check gunicorn==27.0.1
cd "$directory"
export HOME="$directory"
cat >preloaded.py <<'PYTHON'
log = open("written", "w")
log.write("kept ")


def app(environ, start_response):
    log
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
PYTHON
echo "" >plain.py
cat >frozen.py <<'PYTHON'
import gc


def when_ready(server):
    gc.freeze()
PYTHON
for configuration in plain frozen; do
    rm -f written ready
    echo "def post_worker_init(worker): open('ready', 'w').close()" >>"$configuration.py"
    venv/bin/gunicorn --preload --no-control-socket -c "$configuration.py" -b "unix:$directory/socket" \
        preloaded:app 2>log &
    master=$!
    tries=0
    until [ -e ready ] || [ $tries -ge 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    kill "$master"
    wait "$master"
    text=$(cat written)
    echo "$configuration: ${text:-nothing}"
done | tee seen
printf 'plain: kept kept \nfrozen: nothing\n' | cmp - seen

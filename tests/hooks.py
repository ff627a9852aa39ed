"""That the user's hooks run as often as with Gunicorn alone, on whichever is installed."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support import (
    GUNICORN,
    OWN_OPTIONS,
    BareServer,
    Server,
    gunicorn_prom,
    is_running,
    plain_gunicorn,
    running,
    wait_for,
)

APP = "behave:app"

HOOKS = {
    "child_exit": "server, worker",
    "nworkers_changed": "server, new_value, old_value",
    "on_exit": "server",
    "on_reload": "server",
    "on_starting": "server",
    "post_fork": "server, worker",
    "post_request": "worker, req, environ, resp",
    "post_worker_init": "worker",
    "pre_exec": "server",
    "pre_fork": "server, worker",
    "pre_request": "worker, req",
    "when_ready": "server",
    "worker_abort": "worker",
    "worker_exit": "server, worker",
    "worker_int": "worker",
}


def write_hooks(path: Path, *, plugin: bool = False) -> None:
    """Write a configuration file that notes in `events`, beside it, every call of a hook."""
    lines = ["import gunicorn_prom.hooks\nfrom gunicorn_prom.hooks import *\n"] if plugin else []
    for name, parameters in HOOKS.items():
        lines.append(f"def {name}({parameters}):")
        lines.append(f"    with open({str(path.with_name('events'))!r}, 'a') as events:")
        lines.append(f"        events.write('{name}\\n')")
        if plugin and name == "on_starting":
            lines.append("    gunicorn_prom.hooks.on_starting(server)")
    path.write_text("\n".join(lines))


class Life:
    """Lead a server through everything that calls a hook, and count the calls."""

    def __init__(self, server: Server, pidfile: Path) -> None:
        self._server, self._pidfile = server, pidfile

    def events(self) -> Counter[str]:
        """Return how often each hook has been called so far."""
        return Counter((self._server.directory / "events").read_text().split())

    def expect(self, **counts: int) -> None:
        """Wait until hooks have been called that often."""
        wait_for(lambda: self.events() >= Counter(counts), f"{counts} of {self.events()}")

    def lead(self) -> Counter[str]:
        """Return how often each hook was called in a life with one of every event."""
        server = self._server
        self.expect(when_ready=1, post_worker_init=1)
        self.request("/")
        server.send_signal(signal.SIGHUP)
        self.expect(on_reload=1, post_worker_init=2, child_exit=1)
        self.request("/")
        server.send_signal(signal.SIGTTIN)
        self.expect(post_worker_init=3)
        server.send_signal(signal.SIGTTOU)
        self.expect(child_exit=2)
        self.signal_worker(signal.SIGINT)
        self.expect(worker_int=1, child_exit=3, post_worker_init=4)
        self.signal_worker(signal.SIGABRT)
        self.expect(worker_abort=1, child_exit=4, post_worker_init=5)
        self.live_twice()
        assert server.stop() == 0
        return self.events()

    def request(self, target: str) -> str:
        """Send a request and wait until Gunicorn is through with it."""
        done = self.events()["post_request"]
        answer = self._server.get(target)
        assert answer.status == 200
        self.expect(post_request=done + 1)
        return answer.text

    def signal_worker(self, number: int) -> None:
        """Send a signal to the one worker."""
        os.kill(int(self.request("/pid")), number)

    def live_twice(self) -> None:
        """Start a next generation by USR2 and end it."""
        self._server.send_signal(signal.SIGUSR2)
        self.expect(pre_exec=1, when_ready=2, post_worker_init=6)
        pid = int(self._pidfile.with_name(self._pidfile.name + ".2").read_text())
        os.kill(pid, signal.SIGTERM)
        self.expect(on_exit=1, child_exit=5)
        wait_for(lambda: not is_running(pid), "the end of the next generation")


class Hooks:
    """A test class takes these tests by inheriting them."""

    @pytest.fixture(scope="class")
    @classmethod
    def gunicorns_events(cls, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
        """How often Gunicorn alone calls each hook in a life with one of every event."""
        directory = tmp_path_factory.mktemp("bare")
        write_hooks(directory / "gunicorn.conf.py")
        pidfile = directory / "pid"
        command = [GUNICORN, OWN_OPTIONS[0], f"--pid={pidfile}", APP]
        with running(BareServer(directory, command, {}), start=True) as server:
            return Life(server, pidfile).lead()

    def test_hooks_run_as_often_as_with_gunicorn(
        self, tmp_path: Path, gunicorns_events: Counter[str]
    ) -> None:
        """Each of the user's hooks runs once for each event, whatever happens to the server."""
        write_hooks(tmp_path / "gunicorn.conf.py")
        pidfile = tmp_path / "pid"
        with gunicorn_prom(tmp_path, APP, f"--pid={pidfile}") as server:
            assert Life(server, pidfile).lead() == gunicorns_events
        assert set(gunicorns_events) == set(HOOKS)

    def test_hooks_run_as_often_under_plain_gunicorn(
        self, tmp_path: Path, gunicorns_events: Counter[str]
    ) -> None:
        """The plugin route leaves the user's hooks alone as well."""
        write_hooks(tmp_path / "gunicorn.conf.py", plugin=True)
        pidfile = tmp_path / "pid"
        arguments = ("-k", "gunicorn_prom.PrometheusWorker", f"--pid={pidfile}", APP)
        with plain_gunicorn(tmp_path, *arguments) as server:
            assert Life(server, pidfile).lead() == gunicorns_events

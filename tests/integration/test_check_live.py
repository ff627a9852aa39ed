"""What `gunicorn-prom check --live` finds in running servers, and what it leaves alone."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import bcrypt
import pytest

from gunicorn_prom.checks import live
from gunicorn_prom.checks.endpoint import Endpoint
from gunicorn_prom.checks.setup import Setup
from gunicorn_prom.configuration import Configuration
from gunicorn_prom.keys import HTTP
from tests.checked import Found, assert_finds, assert_passes, checked
from tests.integration.test_door import Authority
from tests.real_parts import find_program
from tests.support import (
    Metrics,
    QuietHandler,
    Server,
    backlog_of,
    free_port,
    gunicorn_prom,
    http_server,
    is_listening,
    run_to_end,
    wait_for,
)

APP = "behave:app"
PASSED = [Found("ok", "")]
# Nobody is aborted, and the check is told another timeout.
LONG_TIMEOUT = "--timeout=600"
SHORT_TIMEOUT_S = 4
SILENT_S = SHORT_TIMEOUT_S / 2 + live.LAG_S + 1
USER, PASSWORD = "prometheus", "p@ss/w:rd"

# Loads until the file `broken` appears, then ends its worker before that has booted.
FAILING = """
import os
from pathlib import Path

from behave import app

if Path("broken").exists():
    os._exit(1)
"""


def url_of(server: Server) -> str:
    """Return what `--live` takes for a server."""
    return f"--live=http://127.0.0.1:{server.metrics_port}"


def silence_s(metrics: Metrics) -> float:
    """Return how long ago the worker was heard of of which that is longest."""
    beats = metrics.all("gunicorn_worker_heartbeat_timestamp_seconds")
    return max((time.time() - beat for _, beat in beats), default=0.0)


@contextlib.contextmanager
def told(*texts: str) -> Iterator[str]:
    """Tell one text after the other, the last for ever; yield what `--live` takes for it."""
    left = list(texts)

    class Teller(QuietHandler):
        def do_GET(self) -> None:
            text = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

    with http_server(Teller) as port:
        yield f"--live=http://127.0.0.1:{port}"


def workers(*, target: int, idle: int, booting: int = 0, exits: int = 0, boots: int = 1) -> str:
    """Return the metrics of a server whose workers are these."""
    return f"""\
gunicorn_workers{{state="idle"}} {idle}
gunicorn_workers{{state="booting"}} {booting}
gunicorn_workers_target {target}
gunicorn_worker_exits_total{{reason="oom"}} {exits}
gunicorn_worker_boot_seconds_count {boots}
"""


def silent(worker_class: str, seconds: float, state: str = "running") -> str:
    """Return the metrics of a server whose only worker was heard of so long ago."""
    return f"""\
gunicorn_workers_target 1
gunicorn_info{{worker_class="{worker_class}"}} 1
gunicorn_worker_info{{worker_id="0",pid="52"}} 1
gunicorn_worker_state{{worker_id="0",state="{state}"}} 1
gunicorn_worker_heartbeat_timestamp_seconds{{worker_id="0"}} {time.time() - seconds}
"""


def test_a_healthy_server_passes(tmp_path: Path) -> None:
    """Nothing is found in a server that is well, and `--live` alone makes no other check."""
    with gunicorn_prom(tmp_path, APP, "--workers=2") as server:
        server.wait_for_workers(2)
        for url in (
            url_of(server),
            f"{url_of(server)}/metrics",
            url_of(server).replace("http://", ""),
        ):
            ended = run_to_end(tmp_path / "check", url, "--verbose", command=("check",))
            assert ended.returncode == 0
            assert ended.stdout.splitlines()[-1] == "4 ok, 1 skipped"


# GP034


def test_a_proxy_that_does_not_say_when(tmp_path: Path) -> None:
    """Requests without the header are found, and one request with it is enough to pass."""
    with gunicorn_prom(tmp_path, APP) as server:
        check = (tmp_path / "check", "GP034", url_of(server))
        assert checked(*check) == [Found("skipped", "there was no request yet")]
        server.get("/")
        server.wait_for_requests(1)
        none = "none of 1 requests had the header X-Request-Start"
        assert_finds(*check, expected=Found("warning", none, "${msec}"))
        server.get("/", **{"X-Request-Start": f"t={time.time()}"})
        server.wait_for_requests(2)
        assert_passes(*check)


@pytest.mark.parametrize(
    ("ahead_s", "detail"),
    [
        (3600, "1 requests came before the time in their header"),
        (-3600, "all of 1 requests seem to have waited longer than the longest bucket"),
    ],
)
def test_clocks_that_differ(tmp_path: Path, ahead_s: float, detail: str) -> None:
    """Times to come and waits of an hour tell of clocks, not of a queue."""
    with gunicorn_prom(tmp_path, APP) as server:
        check = (tmp_path / "check", "GP034", url_of(server))
        server.get("/", **{"X-Request-Start": f"t={time.time() + ahead_s}"})
        server.wait_for_requests(1)
        assert_finds(*check, expected=Found("warning", detail, "NTP"))
        for _ in range(2):
            server.get("/", **{"X-Request-Start": f"t={time.time()}"})
        server.wait_for_requests(3)
        assert_passes(*check)


# GP035


def test_a_stopped_worker(tmp_path: Path) -> None:
    """The one that is stopped is named by its pid, the others are not."""
    arguments = (APP, "--workers=2", "--worker-type=gthread", LONG_TIMEOUT)
    with gunicorn_prom(tmp_path, *arguments) as server:
        check = (tmp_path / "check", "GP035", url_of(server), f"--timeout={SHORT_TIMEOUT_S}")
        pid, _ = server.wait_for_workers(2)
        assert_passes(*check)
        os.kill(pid, signal.SIGSTOP)
        server.wait_for_metrics(lambda m: silence_s(m) > SILENT_S, "silence")
        detail = f"pid {pid} is stuck: silent for "
        assert_finds(*check, expected=Found("error", detail, f"py-spy dump --pid {pid}"))
        os.kill(pid, signal.SIGCONT)
        server.wait_for_metrics(lambda m: silence_s(m) < SHORT_TIMEOUT_S / 2, "a heartbeat")
        assert_passes(*check)


def test_a_long_request_of_a_sync_worker(tmp_path: Path) -> None:
    """A worker that is silent because it works is found as well, with how long it has worked."""
    with gunicorn_prom(tmp_path, APP, LONG_TIMEOUT) as server:
        check = (tmp_path / "check", "GP035", url_of(server), f"--timeout={SHORT_TIMEOUT_S}")
        client = threading.Thread(target=server.get, args=("/wait/gate",))
        client.start()
        server.wait_for_metrics(lambda m: silence_s(m) > SILENT_S, "silence")
        (found,) = checked(*check)
        server.open_gate("gate")
        client.join()
        assert found.status == "error"
        assert "busy with a request for " in found.detail
        assert "--worker-type gthread" in found.hint
        server.wait_for_metrics(lambda m: silence_s(m) < SHORT_TIMEOUT_S / 2, "a heartbeat")
        assert_passes(*check)


def test_a_timeout_that_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    """An idle sync worker is silent for half of a timeout, so 20 s may be nothing."""
    with told(silent("sync", 20)) as url:
        (found,) = checked(tmp_path, "GP035", url)
        assert found.status == "skipped"
        assert "give the server's --timeout" in found.detail
        assert_passes(tmp_path, "GP035", url, "--timeout=120")
        expected = Found("error", "pid 52 is stuck: silent for ")
        assert_finds(tmp_path, "GP035", url, "--timeout=30", expected=expected)
    # Of these something is heard each second, with any timeout.
    with told(silent("gevent", 20)) as url:
        assert_finds(tmp_path, "GP035", url, expected=expected)


@pytest.mark.parametrize("state", ["booting", "quitting"])
def test_who_boots_or_finishes_is_not_stuck(tmp_path: Path, state: str) -> None:
    """A worker that loads its application or finishes its requests is silent for good reasons."""
    with told(silent("gthread", 20, state)) as url:
        assert_passes(tmp_path, "GP035", url)


def test_without_a_timeout_nobody_is_late(tmp_path: Path) -> None:
    """With timeout 0 a worker may be silent as long as it likes."""
    with told(silent("gthread", 20)) as url:
        (found,) = checked(tmp_path, "GP035", url, "--timeout=0")
    assert found.status == "skipped"


# GP036


def test_a_metrics_server_that_does_not_answer(tmp_path: Path) -> None:
    """It is said once, and the other checks say that they could not look."""
    with gunicorn_prom(tmp_path, APP, "--metrics-server=process") as server:
        check = (tmp_path / "check", "GP036", url_of(server))
        exporter = server.exporter_pid()
        os.kill(exporter, signal.SIGSTOP)
        assert_finds(
            *check, expected=Found("error", "no answer from ", "metrics server still runs")
        )
        ended = run_to_end(tmp_path / "check", url_of(server), command=("check",))
        assert ended.stdout.splitlines()[-2] == "1 error, 4 skipped"
        os.kill(exporter, signal.SIGCONT)
        assert_passes(*check)


def test_a_scrape_that_takes_long(tmp_path: Path) -> None:
    """The largest families are named, largest first."""
    configuration = Configuration([APP], "check")
    with gunicorn_prom(tmp_path, APP, "--metrics-server=process") as server:
        setup = Setup(configuration, f"http://127.0.0.1:{server.metrics_port}")
        exporter = server.exporter_pid()
        os.kill(exporter, signal.SIGSTOP)
        # In this process, for the command gives up before a machine that is busy answers.
        scraping = threading.Thread(
            target=lambda: setup.__dict__.update(scrape=setup.endpoint.scrape(60.0))
        )
        scraping.start()
        wait_for(lambda: backlog_of(server.metrics_port), "a connection")
        connected = time.monotonic()
        wait_for(lambda: time.monotonic() > connected + live.SLOW_S, "2 seconds")
        os.kill(exporter, signal.SIGCONT)
        scraping.join()
        (problem,) = live.slow_scrape.function(setup)
        quick = Setup(configuration, f"http://127.0.0.1:{server.metrics_port}")
        assert list(live.slow_scrape.function(quick)) == []
    assert problem.detail.startswith("a scrape takes ")
    _, _, families = problem.detail.partition("largest families: ")
    assert families.startswith("gunicorn_worker_request_duration_seconds (")
    assert families.count(" series)") == live.SHOWN


def test_nothing_listens(tmp_path: Path) -> None:
    """A port that nobody has is told from a server that does not answer."""
    url = f"--live=http://127.0.0.1:{free_port()}"
    expected = Found("error", "nothing listens at http://127.0.0.1:", "--metrics-bind")
    assert_finds(tmp_path, "GP036", url, expected=expected)


def test_a_url_of_something_else(tmp_path: Path) -> None:
    """The application's port, another path and another scheme each have their own hint."""
    with gunicorn_prom(tmp_path, APP) as server:
        directory = tmp_path / "check"
        application = f"--live=http://127.0.0.1:{server.port}/pid"
        expected = Found("error", "is not the metrics of gunicorn-prom", "--metrics-bind")
        assert_finds(directory, "GP036", application, expected=expected)
        expected = Found("error", "/elsewhere answers 404 Not Found", "--metrics-path")
        assert_finds(directory, "GP036", f"{url_of(server)}/elsewhere", expected=expected)
        encrypted = url_of(server).replace("http:", "https:")
        assert_finds(
            directory, "GP036", encrypted, expected=Found("error", " fails: TLS", "http://")
        )


def test_another_path_by_the_settings(tmp_path: Path) -> None:
    """Where the URL has no path, it is the one of the configuration."""
    with gunicorn_prom(tmp_path, APP, "--metrics-path=/numbers") as server:
        assert_passes(tmp_path / "check", "GP036", url_of(server), "--metrics-path=/numbers")


def test_tls_and_a_password(tmp_path: Path) -> None:
    """With the authority and the password the metrics are had, and the password is never shown."""
    find_program("openssl", "openssl")
    authority = Authority(tmp_path, "ours")
    certificate, key = authority.sign("server", "IP:127.0.0.1")
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    config = tmp_path / "web.yml"
    config.write_text(
        f"tls_server_config:\n  cert_file: {certificate}\n  key_file: {key}\n"
        f"basic_auth_users:\n  {USER}: {hashed}\n"
    )
    trusting = {"SSL_CERT_FILE": str(authority.file)}
    arguments = (APP, f"--metrics-web-config={config}")
    with gunicorn_prom(tmp_path, *arguments, start=False) as server:
        server.launch()
        wait_for(lambda: is_listening(server.metrics_port), "the metrics server")
        address = f"127.0.0.1:{server.metrics_port}"
        known = f"--live=https://{USER}:{quote(PASSWORD, safe='')}@{address}"
        check = (tmp_path / "check", "GP036")
        wait_for(lambda: checked(*check, known, environ=trusting) == PASSED, "the server")
        expected = Found("error", f"no trust in https://{address}/metrics: ", "SSL_CERT_FILE")
        assert_finds(*check, known, expected=expected)
        named = {**trusting, "GUNICORN_PROM_PASSWORD": PASSWORD}
        assert checked(*check, f"--live=https://{USER}@{address}", environ=named) == PASSED
        expected = Found("error", "answers 401 Unauthorized", "set GUNICORN_PROM_PASSWORD")
        assert_finds(*check, f"--live=https://{address}", environ=trusting, expected=expected)
        wrong = f"--live=https://{USER}:not%20it@{address}"
        (found,) = checked(*check, wrong, environ=trusting)
    assert "not%20it" not in found.detail
    assert USER not in found.detail


@pytest.mark.parametrize(
    "url",
    ["ftp://u:secret@host", "http://u:secret@:9464", "http://u:sec/ret@host", "http://h:99999"],
)
def test_what_is_no_url(tmp_path: Path, url: str) -> None:
    """It is a mistake of usage, told without the password that may be in it."""
    ended = run_to_end(tmp_path, f"--live={url}", command=("check",))
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: invalid --live: ")
    assert "sec" not in ended.stderr


# GP037


def test_a_family_that_is_full(tmp_path: Path) -> None:
    """More statuses than there are series are found by the name of their family."""
    with gunicorn_prom(tmp_path, APP) as server:
        check = (tmp_path / "check", "GP037", url_of(server))
        server.get("/")
        assert_passes(*check)
        statuses = range(300, 300 + HTTP.cap)
        for status in statuses:
            assert server.get(f"/{status}").status == status
        server.wait_for_requests(1 + len(statuses))
        detail = "gunicorn_http_requests_total is full: 1 events went to _OTHER"
        assert_finds(*check, expected=Found("warning", detail, "find out who"))


# GP038


def test_a_boot_loop(tmp_path: Path) -> None:
    """A worker that never boots again is missed, with the reason of its exits."""
    (tmp_path / "failing.py").write_text(FAILING)
    with gunicorn_prom(tmp_path, "failing:app", "--workers=2") as server:
        check = (tmp_path / "check", "GP038", url_of(server))
        pid, _ = server.wait_for_workers(2)
        assert_passes(*check)
        (tmp_path / "broken").touch()
        os.kill(pid, signal.SIGKILL)
        server.wait_for_metrics(
            lambda m: m.total("gunicorn_worker_exits_total", reason="error") > 2, "a boot loop"
        )
        (found,) = checked(*check)
        assert found.status == "error"
        assert found.detail.startswith("1 workers run, ")
        assert "2 are wanted; exits by reason: error " in found.detail
        assert "boot loop" in found.hint
        (tmp_path / "broken").unlink()
        server.wait_for_workers(2)
        assert_passes(*check)


def test_a_worker_that_is_being_replaced(tmp_path: Path) -> None:
    """One look may miss a worker; the next one counts."""
    with told(workers(target=2, idle=1, exits=1), workers(target=2, idle=2, exits=1)) as url:
        assert_passes(tmp_path, "GP038", url)


def test_workers_that_boot_slowly(tmp_path: Path) -> None:
    """While workers boot and none exits, it is too early to say; a target of 0 is a target."""
    with told(workers(target=2, idle=0, booting=2, exits=4)) as url:
        (found,) = checked(tmp_path, "GP038", url)
        assert found == Found("skipped", "2 of 2 workers are still booting")
    with told(workers(target=0, idle=0)) as url:
        assert_passes(tmp_path, "GP038", url)


def test_a_boot_loop_that_takes_its_time(tmp_path: Path) -> None:
    """Workers that have exited before any has booted are found while the next one boots."""
    with told(workers(target=1, idle=0, booting=1, exits=4, boots=0)) as url:
        expected = Found("error", "0 workers run, 1 boot, 1 are wanted; exits by reason: oom 4")
        assert_finds(tmp_path, "GP038", url, expected=expected)


def test_each_of_several_servers(tmp_path: Path) -> None:
    """In the metrics of a sidecar one server too many does not hide one too few."""
    lines = [
        line.replace("{", f'{{server="{name}",') if "{" in line else line.replace(" ", mark, 1)
        for name, idle in (("web", 1), ("api", 3))
        for mark in (f'{{server="{name}"}} ',)
        for line in workers(target=2, idle=idle).splitlines()
    ]
    with told("\n".join([*sorted(lines), ""])) as url:
        found = checked(tmp_path, "GP038", url)
    assert sorted(one.detail.split(" workers")[0] for one in found) == ["api: 3", "web: 1"]


def test_the_address_is_shown_without_user_and_password() -> None:
    """What may be printed has neither, whatever stands in them; IPv6 keeps its brackets."""
    assert Endpoint("https://me:p%40ss@[::1]:9464/").url == "https://[::1]:9464/metrics"

"""Every option of the installed Gunicorn means with us what it means to `gunicorn`.

The tests of integration/ and compat/ are made of this module; `matrix` is a fixture of theirs.
Both sides gather their
configuration in a process of their own, see tests/configurations.py; ours may differ in our
own settings only.
"""

import inspect
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gunicorn import config

from gunicorn_prom.settings import OWN_SETTINGS, name_of
from tests.support import DEADLINE_S, GUNICORN, ROOT, run_to_end

OWN_NAMES = {name_of(setting) for setting in OWN_SETTINGS}
SETTINGS = {
    setting.name: setting for setting in config.KNOWN_SETTINGS if setting.name not in OWN_NAMES
}
WITH_OPTION = [name for name, setting in SETTINGS.items() if setting.cli]
ONLY_IN_FILES = [name for name, setting in SETTINGS.items() if not setting.cli]
FLAGS = ("store_true", "store_const")
# True whether it is given or not.
WITHOUT_EFFECT = {"suppress_ragged_eofs"}
APP = "package.module:app"

# What is taken where neither a number nor any text is.
SAMPLES = {
    "asgi_lifespan": "off",
    "asgi_loop": "asyncio",
    "bind": ":8001",
    "cert_reqs": "2",
    "chdir": "{directory}/elsewhere",
    "config": "{directory}/conf.py",
    "control_socket_mode": "0o640",
    "forwarded_allow_ips": "10.0.0.1,10.0.0.2",
    "group": "65534",
    "header_map": "refuse",
    "http2_cleartext": "upgrade",
    "http2_max_frame_size": "20000",
    "http2_max_header_list_size": "70000",
    "http_parser": "python",
    "http_protocols": "h1",
    "paste": "{directory}/paste.ini",
    "protocol": "uwsgi",
    "proxy_allow_ips": "10.0.0.1",
    "proxy_protocol": "v1",
    "raw_env": "NAME=value",
    "raw_paste_global_conf": "name=value",
    "reload_engine": "poll",
    "reload_extra_files": "{directory}/conf.py",
    "ssl_version": "TLSv1_2",
    "statsd_host": "localhost:8125",
    "umask": "0o27",
    "user": "65534",
    "uwsgi_allow_ips": "10.0.0.1",
    "worker_class": "gthread",
}
# Of these there is one for each that stands here.
IN_FILES = {
    "default_proc_name": "'name'",
    "logconfig_dict": "{'version': 1}",
    "secure_scheme_headers": "{'X-SCHEME': 'https'}",
    "tmp_upload_dir": "'/tmp'",
    "wsgi_app": "'other.module:app'",
}
SAME_AS_DEFAULT = WITHOUT_EFFECT | {"http_protocols"}

FORMS = [
    ["-w4", APP],
    ["-w", "4", APP],
    ["-w=4", APP],
    ["--workers=4", APP],
    ["--workers", "4", APP],
    [APP, "--workers", "4"],
    ["-Dw4", APP],
    ["-DRw", "4", "-kgthread", APP],
    ["-DRkgthread", APP],
    ["-b", ":8000", "-b", "unix:/x", APP],
    ["-b:8000", APP, "-bunix:/x", "--bind=[::1]:8001"],
    ["-e", "A=1", APP, "--env", "B=--workers", "--env=C=a b"],
    ["--threads", "2", APP, "-t", "20"],
    ["-t10", APP, "-t20"],
    ["-m", "027", APP, "-m0x1f"],
    ["--workers", "4", "--", APP],
    ["--", APP, "--workers"],
    [APP, "another:app"],
    ["--access-logformat", "%(h)s", APP],
    ["--keep-al", "5", APP],
    ["-k", "gunicorn.workers.gthread.ThreadWorker", APP],
    ["-k", "some.module.Worker", APP],
    ["--worker-class=sync", "--threads=4", APP],
    ["--log-file=-", "--error-logfile=x", APP],
    ["-c", "conf.py", APP, "-w5"],
    ["-cconf.py", APP],
    ["-c", "file:conf.py", APP],
    ["-c", "python:conf", APP],
    ["-c", "conf.py", "--chdir", "elsewhere", APP],
    ["--chdir=elsewhere", APP],
]
REFUSED = [
    ["-w"],
    ["--workers=many", APP],
    ["-wmany", APP],
    ["--workers=-1", APP],
    ["--nonsense", APP],
    ["--w", "4", APP],
    ["-Z", APP],
    ["--config=nowhere.py", APP],
    ["--chdir=nowhere", APP],
    ["--reload-engine=nonsense", APP],
    ["--preload=yes", APP],
    ["--user=nobody-at-all", APP],
    [],
]
ARGUMENTS_IN_ENVIRONMENT = [
    ("-w4 -b :8000 -b unix:/x", []),
    ("--workers=4 --threads 2", ["-w5"]),
    ("-c conf.py", []),
    ("-c nowhere.py", ["-c", "conf.py"]),
    ("--env 'A=a b' -e B=", ["-e", "C=c"]),
    ("other:app --preload", []),
]

Case = dict[str, Any]
Outcome = dict[str, Any]


class Matrix:
    """The cases, each with what comes of it with Gunicorn alone and with us."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "home").mkdir()
        (directory / "elsewhere").mkdir()
        (directory / "conf.py").write_text("workers = 7\nbind = ['unix:/from-file']\n")
        (directory / "paste.ini").write_text("[app:main]\nuse = egg:none\n")
        self.cases = {self.key(case): case for case in self._make()}
        self.plain, self.ours = (
            dict(zip(self.cases, self._gather(side), strict=True)) for side in ("plain", "ours")
        )

    @staticmethod
    def key(case: Case) -> str:
        """Return what tells a case from all others."""
        return json.dumps(case)

    def _make(self) -> Iterator[Case]:
        yield {"arguments": [APP]}
        for name in SETTINGS:
            yield from self.of(name)
        yield from self.abbreviated().values()
        for arguments in [*FORMS, *REFUSED]:
            yield {"arguments": arguments}
        for variable, arguments in ARGUMENTS_IN_ENVIRONMENT:
            yield in_environment(variable, arguments)

    def sample(self, name: str) -> str:
        """Return a value that the setting takes and that is not its default."""
        text = "7" if SETTINGS[name].type is int else "sample"
        if SETTINGS[name].validator is config.validate_pos_int:
            text = "7"
        return SAMPLES.get(name, text).format(directory=self.directory)

    def of(self, name: str) -> list[Case]:
        """Return the cases of one setting: each of its options in each form, and in a file."""
        arguments = [
            words for option in SETTINGS[name].cli or () for words in self._given(name, option)
        ]
        cases = [{"arguments": [*words, APP]} for words in arguments]
        cases += [{"arguments": [APP, *words]} for words in arguments]
        cases += [in_environment(shlex.join(words), []) for words in arguments]
        return [*cases, {"arguments": ["-c", self._file(name), APP]}]

    def abbreviated(self) -> dict[str, Case]:
        """Return a case of each setting with the shortest beginning of its long option."""
        return {
            name: {"arguments": [*self._given(name, shortest(option))[0], APP]}
            for name in WITH_OPTION
            for option in SETTINGS[name].cli[-1:]
        }

    def _given(self, name: str, option: str) -> list[list[str]]:
        setting, sample = SETTINGS[name], self.sample(name)
        if setting.action in FLAGS:
            return [[option]]
        is_long = option.startswith("--")
        forms = [[option, sample], [f"{option}={sample}"] if is_long else [f"{option}{sample}"]]
        # Followed by the application, it would be taken for the value.
        alone = [[option, "--workers=1"]] if setting.nargs == "?" else []
        return forms + alone

    def _file(self, name: str) -> str:
        path = self.directory / f"{name}.conf.py"
        path.write_text(self._source(name))
        return str(path)

    def _source(self, name: str) -> str:
        setting = SETTINGS[name]
        if callable(setting.default):
            parameters = ", ".join(inspect.signature(setting.default).parameters)
            return f"def {name}({parameters}):\n    pass\n"
        if setting.action in FLAGS:
            return f"{name} = {setting.action == 'store_true'}\n"
        if name in ONLY_IN_FILES:
            return f"{name} = {IN_FILES[name]}\n"
        sample = self.sample(name)
        return f"{name} = {[sample] if setting.action == 'append' else sample!r}\n"

    def _gather(self, side: str) -> list[Outcome]:
        """Return what comes of every case, in a process that knows of us or does not."""
        environ = {
            "HOME": str(self.directory / "home"),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.configurations", side],
            input=json.dumps(list(self.cases.values())),
            check=True,
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_S,
            env=environ,
            cwd=self.directory,
        )
        outcomes: list[Outcome] = json.loads(done.stdout)
        return outcomes

    def of_both(self, case: Case) -> tuple[Outcome, Outcome]:
        """Return what comes of a case with Gunicorn alone and with us, of its settings."""
        key = self.key(case)
        ours = dict(self.ours[key])
        if "settings" in ours:
            kept = {name: value for name, value in ours["settings"].items() if name in SETTINGS}
            ours["settings"] = kept
        return self.plain[key], ours

    def assert_same(self, case: Case) -> Outcome:
        """Fail unless Gunicorn takes a case and we do the same with it."""
        plain, ours = self.of_both(case)
        assert "refused" not in plain
        assert ours == plain
        return plain


def shortest(option: str) -> str:
    """Return as much of one of Gunicorn's options as tells it from all others."""
    options = ["--help", "--version", *(o for name in WITH_OPTION for o in SETTINGS[name].cli)]
    others = [other for other in options if other != option]
    lengths = range(len("--x"), len(option))
    enough = (end for end in lengths if not any(o.startswith(option[:end]) for o in others))
    return option[: next(enough, None)]


def in_environment(variable: str, arguments: list[str]) -> Case:
    """Return the case of options in GUNICORN_CMD_ARGS."""
    return {"arguments": [*arguments, APP], "environ": {"GUNICORN_CMD_ARGS": variable}}


class PassThrough:
    """The tests. The subclass only gives them their place."""

    @pytest.mark.parametrize("name", WITH_OPTION)
    def test_every_option(self, matrix: Matrix, name: str) -> None:
        """Each long and short form, anywhere on the command line, in GUNICORN_CMD_ARGS or the
        configuration file, has the effect that it has on `gunicorn`."""
        default = matrix.assert_same({"arguments": [APP]})["settings"]
        for case in matrix.of(name):
            settings = matrix.assert_same(case)["settings"]
            is_bare = settings[name] == default[name] and "sample" not in str(case)
            assert name in SAME_AS_DEFAULT or not is_bare, case

    @pytest.mark.parametrize("name", ONLY_IN_FILES)
    def test_what_only_a_file_can_set(self, matrix: Matrix, name: str) -> None:
        """A hook or a dictionary in the configuration file has the effect that it has on
        `gunicorn`."""
        default = matrix.assert_same({"arguments": [APP]})["settings"]
        for case in matrix.of(name):
            assert matrix.assert_same(case)["settings"][name] != default[name]

    @pytest.mark.parametrize("arguments", FORMS, ids=shlex.join)
    def test_every_way_to_write_them(self, matrix: Matrix, arguments: list[str]) -> None:
        """Clusters, repetition and order mean what they mean to `gunicorn`."""
        matrix.assert_same({"arguments": arguments})

    @pytest.mark.parametrize(("variable", "arguments"), ARGUMENTS_IN_ENVIRONMENT)
    def test_arguments_in_the_environment(
        self, matrix: Matrix, variable: str, arguments: list[str]
    ) -> None:
        """GUNICORN_CMD_ARGS prevails over the file, the command line over it."""
        matrix.assert_same(in_environment(variable, arguments))

    @pytest.mark.parametrize("arguments", REFUSED, ids=shlex.join)
    def test_what_gunicorn_refuses(self, matrix: Matrix, arguments: list[str]) -> None:
        """What `gunicorn` does not take, we do not take either."""
        plain, ours = matrix.of_both({"arguments": arguments})
        assert "refused" in plain
        assert "Error" in ours["refused"]

    def test_abbreviations(self, matrix: Matrix) -> None:
        """What begins one option of Gunicorn's only is taken for it, also where one of ours
        begins like that."""
        default = matrix.assert_same({"arguments": [APP]})["settings"]
        for name, case in matrix.abbreviated().items():
            settings = matrix.assert_same(case)["settings"]
            assert name in SAME_AS_DEFAULT or settings[name] != default[name], case

    @pytest.mark.parametrize(
        "arguments",
        [
            ["-w4", "-kgthread", "--threads=2", "-t", "0"],
            ["-c", "conf.py", "--env", "A=b", "-w5"],
            ["--no-sendfile", "--preload", "-b", ":8000", "-b", "unix:/x"],
        ],
        ids=shlex.join,
    )
    def test_the_commands_themselves(self, tmp_path: Path, arguments: list[str]) -> None:
        """`gunicorn-prom run --print-config` shows what `gunicorn --print-config` does."""
        (tmp_path / "conf.py").write_text("max_requests = 9\ndef pre_fork(a, b):\n    pass\n")
        (tmp_path / "home").mkdir()
        arguments = ["--print-config", *arguments, "behave:app"]
        ours = run_to_end(tmp_path, *arguments, command=("run",))
        plain = run_plain(tmp_path, arguments)
        assert plain.returncode == ours.returncode == 0
        assert printed(ours.stdout) == printed(plain.stdout)
        assert printed(plain.stdout)["workers"] in "145"


def run_plain(directory: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run `gunicorn ARGUMENTS` to its end."""
    environ = {
        **os.environ,
        "HOME": str(directory / "home"),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests" / "apps"))),
    }
    return subprocess.run(
        [GUNICORN, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environ,
        cwd=directory,
    )


def printed(text: str) -> dict[str, str]:
    """Return the settings that `--print-config` shows, without ours."""
    pairs = (line.partition("=") for line in text.splitlines())
    shown = {name.strip(): value.strip() for name, _, value in pairs}
    return {name: value for name, value in shown.items() if name not in OWN_NAMES}

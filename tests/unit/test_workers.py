"""The registry of worker types."""

import logging
from pathlib import Path
from types import SimpleNamespace

import gunicorn
import pytest
from gunicorn.workers.sync import SyncWorker

from gunicorn_prom import workers
from gunicorn_prom.assignment import assignment_of
from gunicorn_prom.instrument.instruments import instrument
from gunicorn_prom.workers import REGISTRY, WORKER_TYPES, WorkerType, type_of
from tests.unit.boards import opened


@pytest.mark.parametrize("name", WORKER_TYPES)
def test_every_spelling_means_the_type(name: str) -> None:
    """The name, Gunicorn's class and both paths of ours, where there are any, are one type."""
    plugin_class = REGISTRY[name].plugin_class
    spellings = [name, REGISTRY[name].class_path]
    if plugin_class:
        spellings += [f"gunicorn_prom.{plugin_class}", f"gunicorn_prom.plugin.{plugin_class}"]
    assert {type_of(spelling) for spelling in spellings} == {name}


@pytest.mark.parametrize("worker_class", ["nope", "my.own.Worker", SyncWorker, ""])
def test_other_classes_are_no_type(worker_class: str | type) -> None:
    """A class of the user's own is left to Gunicorn."""
    assert type_of(worker_class) is None


@pytest.mark.parametrize("name", ["sync", "gthread"])
def test_what_needs_no_library_is_available(name: str) -> None:
    """Gunicorn alone brings these."""
    assert workers.unavailable(name) is None


def test_a_missing_library_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason why a type cannot be had comes with the command that installs it."""
    entry = WorkerType("fast", "fast.Worker", "FastWorker", "no_such_library")
    monkeypatch.setitem(REGISTRY, "fast", entry)
    problem = workers.unavailable("fast")
    assert str(problem) == "worker type fast is not available: no_such_library is not installed"
    assert problem is not None
    assert (problem.hint, problem.exit_code) == ("pip install 'gunicorn-prom[fast]'", 2)


def test_a_removed_class_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A type that this Gunicorn has no more says so, with the library or without."""
    entry = WorkerType("old", "old.Worker", "OldWorker", "pytest", gunicorn.version_info[0])
    monkeypatch.setitem(REGISTRY, "old", entry)
    problem = workers.unavailable("old")
    assert f"Gunicorn {entry.removed} removed it" in str(problem)
    assert gunicorn.__version__ in str(problem)


def test_instrumenting_keeps_the_class(tmp_path: Path) -> None:
    """Who asks which class a worker has, or calls its methods, finds what was there before."""

    class Own:
        """A worker of the user's own, with a method of Gunicorn's and without the others."""

        log = logging.getLogger("test")

        def run(self, *words: str) -> str:
            return " ".join(words)

    with opened(tmp_path) as board:
        worker = Own()
        assignment_of(worker).board = board
        board.open_slot(0, age=1)
        instrument(worker)
        assert type(worker) is Own
        assert set(vars(worker)) - {"run"} == {name for name in vars(worker) if "_prom_" in name}
        assert worker.run("as", "ever") == "as ever"


def test_without_a_place_nothing_is_instrumented() -> None:
    """A worker that was given none is what it was."""
    worker = SimpleNamespace(run=print)
    instrument(worker)
    assert worker.run is print

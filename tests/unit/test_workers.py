"""The registry of worker types."""

import gunicorn
import pytest
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker

from gunicorn_prom import workers
from gunicorn_prom.plugin import PrometheusMixin, PrometheusWorker
from gunicorn_prom.workers import REGISTRY, WORKER_TYPES, WorkerType, instrument, type_of


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


def test_instrumenting_keeps_the_class() -> None:
    """The instrumented class has the name, the behaviour and the metrics."""

    class Own(SyncWorker):
        """A worker of the user's own."""

    instrumented = instrument(Own)
    assert issubclass(instrumented, PrometheusMixin)
    assert issubclass(instrumented, Own)
    assert (instrumented.__name__, instrumented.__module__) == ("Own", Own.__module__)


@pytest.mark.parametrize("worker_class", [PrometheusWorker, instrument(ThreadWorker)])
def test_instrumenting_twice_changes_nothing(worker_class: type) -> None:
    """A class that has the metrics is taken as it is."""
    assert instrument(worker_class) is worker_class

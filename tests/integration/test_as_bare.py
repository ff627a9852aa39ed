"""What bare Gunicorn serves, we serve, and what it refuses we refuse."""

from pathlib import Path

import pytest

from tests import bare_setups as setups
from tests.bare import Case, assert_as_bare
from tests.bare_examples import EXAMPLES


def by_name(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


@by_name(EXAMPLES)
def test_gunicorns_examples(tmp_path: Path, case: Case) -> None:
    """What the examples of Gunicorn's own repository do is served with the same answers."""
    assert_as_bare(tmp_path, case)


@by_name(setups.CONFIGURATIONS)
def test_configurations(tmp_path: Path, case: Case) -> None:
    """However the configuration is given, and whatever lies beside it, the server serves."""
    assert_as_bare(tmp_path, case)


@by_name(setups.REFUSED)
def test_refusals(tmp_path: Path, case: Case) -> None:
    """What Gunicorn ends for ends here too, with its exit code or the one of the contract."""
    assert_as_bare(tmp_path, case)


@by_name(setups.LOGGERS)
def test_loggers(tmp_path: Path, case: Case) -> None:
    """A logger needs no more than what Gunicorn asks for, wherever it comes from."""
    assert_as_bare(tmp_path, case)


@by_name(setups.OWN_WORKERS)
def test_own_workers(tmp_path: Path, case: Case) -> None:
    """A worker class of the user's own may call and do what it likes with Gunicorn's."""
    assert_as_bare(tmp_path, case)


@by_name(setups.HOOKS)
def test_hooks(tmp_path: Path, case: Case) -> None:
    """Hooks may fail, replace what is theirs to replace, and use any name."""
    assert_as_bare(tmp_path, case)


@by_name(setups.APPLICATIONS)
def test_applications(tmp_path: Path, case: Case) -> None:
    """Applications may close descriptors, fork, handle signals, and have metrics of their own."""
    assert_as_bare(tmp_path, case)


@by_name(setups.PROGRAMS)
def test_programs(tmp_path: Path, case: Case) -> None:
    """A program that is a Gunicorn of its own stays what it is with our hooks in it."""
    assert_as_bare(tmp_path, case)

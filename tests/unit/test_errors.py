"""What a user is told, and with which exit code."""

import pytest

from gunicorn_prom import errors
from gunicorn_prom.errors import GunicornPromError, fail


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [
        ("UsageError", 2),
        ("InvalidSettingError", 2),
        ("BindError", 1),
        ("StateError", 1),
        ("AppLoadError", 4),
    ],
)
@pytest.mark.parametrize("hint", ["", "do something else"])
def test_an_error_is_said_on_stderr(
    name: str, exit_code: int, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, a second one for the hint, nothing on stdout, and the code of its class."""
    with pytest.raises(SystemExit) as ended:
        fail(getattr(errors, name)("that went wrong", hint))
    assert ended.value.code == exit_code
    captured = capsys.readouterr()
    lines = ["error: that went wrong", *([f"hint: {hint}"] if hint else [])]
    assert (captured.out, captured.err.splitlines()) == ("", lines)


def test_plain_gunicorn_prints_them_as_one_line() -> None:
    """Gunicorn shows a RuntimeError without a traceback, so each of ours is one."""
    kinds = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert len(kinds) == 7
    assert all(issubclass(kind, (GunicornPromError, RuntimeError)) for kind in kinds)

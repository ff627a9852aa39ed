"""Secrets taken out of what is shown: the name stays, the value goes.

What is masked in vain does less harm than what is not.
"""

import re
from typing import Any

__all__ = ["MASK", "hide_credentials", "masked"]

MASK = "****"

WORDS = (
    r"(?:(?<!mon)key|secret|token|pass|pwd|dsn|credential|private|signature|salt|jwt|bearer"
    r"|session|cookie|auth(?!or(?!i[sz]))|(?<![a-z])(?:pw|sig)(?![a-z]))"
)
SECRET = re.compile(WORDS, re.IGNORECASE)
# `DB_PASSWORD=...`, also inside of a value. A secret may have spaces in it, so all that follows
# goes; but `token=%(...)s` is how Gunicorn's log is told to show one.
ASSIGNED = re.compile(rf"([\w.-]*{WORDS}[\w.-]*\s*[=:]\s*)(?!%\(|//).+", re.IGNORECASE | re.DOTALL)
# `--password ...`
OPTION = re.compile(rf"((?<![\w-])--?[\w-]*{WORDS}[\w-]*\s+).+", re.IGNORECASE | re.DOTALL)
# `{"password": "..."}`
QUOTED = re.compile(rf"""(["'][^"']*{WORDS}[^"']*["']\s*:\s*).+""", re.IGNORECASE | re.DOTALL)
# `https://user:password@host`, and `https://token@host`.
IN_URL = re.compile(r"""(\w://)[^\s"'<>]+@""")
# The same with a password that has a space or a quote in it, as it should not.
IN_BAD_URL = re.compile(r"(\w://[^\s/@]*:)[^\n@]*@")
# `user:password@host`
BEFORE_HOST = re.compile(r"""[^\s"'=,;@/]+:(?!//)[^\s"'@]+@""")


def masked(value: Any) -> Any:
    """Return a value of JSON's kinds without the secrets in it."""
    if isinstance(value, str):
        return _masked_text(value)
    if isinstance(value, list):
        return [masked(part) for part in value]
    if isinstance(value, dict):
        return {
            name: MASK if SECRET.search(name) and part else masked(part)
            for name, part in value.items()
        }
    return value


def hide_credentials(text: str) -> str:
    """Return a text, such as a message of an error, without the credentials in its URLs."""
    text = IN_URL.sub(rf"\1{MASK}@", text)
    return IN_BAD_URL.sub(rf"\1{MASK}@", text)


def _masked_text(text: str) -> str:
    text = BEFORE_HOST.sub(f"{MASK}@", hide_credentials(text))
    for pattern in (ASSIGNED, OPTION, QUOTED):
        text = pattern.sub(rf"\1{MASK}", text)
    return text

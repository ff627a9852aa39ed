"""The application of behave, in a process that gevent has patched."""

from gevent import monkey

monkey.patch_all()

from behave import app  # noqa: E402  # after the patch, as gevent wants it

__all__ = ["app"]

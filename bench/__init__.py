"""Compare gunicorn-prom with bare Gunicorn and with the other ways to the same metrics.

Run `python -m bench` from the project root; `python -m bench --help` has the options.
Nothing here is shipped in the package or run by the tests.
"""

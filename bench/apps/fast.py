"""The application of `hello` as FastAPI has it."""

from __future__ import annotations

import os

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()


@app.get("/pid", response_class=PlainTextResponse)
async def pid() -> str:
    """Answer with the pid of the worker."""
    return str(os.getpid())


@app.get("/", response_class=PlainTextResponse)
async def hello() -> str:
    """Answer with a greeting."""
    return "Hello, world!\n"

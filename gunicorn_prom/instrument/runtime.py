"""What the interpreter of a worker does besides serving: garbage collection."""

import gc
import time
from typing import Any

from gunicorn_prom.slot import Slot

__all__ = ["watch_garbage_collector"]


def watch_garbage_collector(slot: Slot) -> None:
    """Count collections and the seconds they take, by generation, in this process."""
    cells = slot.cells
    collections = slot.counters + slot.layout.gc_collections
    pauses = slot.counters + slot.layout.gc_pause_seconds
    monotonic = time.monotonic
    began = 0.0

    def note(phase: str, info: dict[str, Any]) -> None:
        nonlocal began
        if phase == "start":
            began = monotonic()
            return
        generation = info["generation"]
        elapsed = monotonic() - began
        cells[collections + generation] += 1.0
        cells[pauses + generation] += elapsed

    gc.callbacks.append(note)

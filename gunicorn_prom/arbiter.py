"""The master: Gunicorn's arbiter, which also keeps the scoreboard and the metrics server.

`gunicorn-prom run` starts it as it is. Under plain Gunicorn the hook in
`gunicorn_prom.hooks` turns the running arbiter into it, so both do the same.
"""

import gc
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import gunicorn
from gunicorn.arbiter import Arbiter

from gunicorn_prom import __version__
from gunicorn_prom.exporter.host import ExporterHost
from gunicorn_prom.instrument.wsgi import fits
from gunicorn_prom.keys import WORKER_CLASSES
from gunicorn_prom.scoreboard import Board, Master
from gunicorn_prom.settings import add_own_settings
from gunicorn_prom.state import State
from gunicorn_prom.workers import instrument, uses_greenlets

__all__ = ["PrometheusArbiter", "adopt"]

# A reload starts the new workers before it stops the old, and TTIN adds more. A
# slot costs some 30 KiB of tmpfs; a worker without a slot would cost its metrics.
SLOTS_PER_WORKER = 4
SPARE_SLOTS = 64

# How much longer than its own limits a reload or stop may take before the master
# counts as stuck.
GRACE_S = 5.0


class PrometheusArbiter(Arbiter):
    """Supervise workers as Gunicorn does, and keep their places on the scoreboard.

    Whatever fails in our part is logged once and counted; supervision goes on.
    """

    _state: State | None = None
    _roster: "Roster | None" = None
    _exporter: ExporterHost | None = None
    _is_serving = False
    _failed_places: frozenset[str] = frozenset()
    log: Any

    def setup(self, app: Any) -> None:
        """Apply the configuration, at start and at every reload."""
        super().setup(app)
        self.apply_settings()

    def start(self) -> None:
        """Open the scoreboard, bind the metrics server, then start as Gunicorn does.

        Raises:
            GunicornPromError: the state directory or the address cannot be had.
        """
        self.open()
        super().start()

    def apply_settings(self) -> None:
        """Put ourselves beside what the configuration has just said."""
        add_own_settings(self.cfg)
        self.worker_class = instrument(self.worker_class)
        if not fits(self.worker_class):
            self.log.warning(
                "gunicorn-prom: requests of %s workers are not counted, only their processes are",
                self.cfg.worker_class_str,
            )
        users_pre_fork, users_pre_exec = self.cfg.pre_fork, self.cfg.pre_exec

        def pre_fork(server: Any, worker: Any) -> None:
            self._assign_slot(worker)
            users_pre_fork(server, worker)

        def pre_exec(server: Any) -> None:
            if self._exporter is not None:
                self._exporter.pass_on(self.cfg.env_orig)
            users_pre_exec(server)

        self.cfg.set("pre_fork", pre_fork)
        self.cfg.set("pre_exec", pre_exec)
        with self._tolerated("keys"):
            self._publish_worker_class()

    def open(self) -> None:
        """Make the scoreboard and bind the metrics server.

        Raises:
            GunicornPromError: the state directory or the address cannot be had.
        """
        slots = SLOTS_PER_WORKER * self.cfg.workers + SPARE_SLOTS
        root = Path(self.cfg.metrics_state_dir) if self.cfg.metrics_state_dir else None
        meta = {
            "buckets": self.cfg.metrics_buckets,
            "slots": slots,
            "pid": os.getpid(),
            "version": gunicorn.__version__,
            "python_version": platform.python_version(),
            "gunicorn_prom_version": __version__,
        }
        self._state = State.create(root, meta)
        self._roster = Roster(self._state.board)
        os.register_at_fork(after_in_child=self._state.close_in_child)
        with self._tolerated("keys"):
            self._publish_worker_class()
        self._beat()
        self._exporter = ExporterHost.prepare(
            self.cfg, self._state.board, getattr(self.app, "metrics_listener", None), self.log
        )
        self._import_control_server()
        # A collection, in the master or in a worker, would write to pages that they
        # share so far. Once: to do it again would keep the garbage of each reload.
        gc.freeze()

    def spawn_worker(self) -> int:
        """Fork a worker, which finds its slot assigned by `pre_fork`."""
        pid: int = super().spawn_worker()
        with self._tolerated("slots"):
            if self._roster is not None:
                self._roster.spawned()
            self._beat()
        return pid

    def manage_workers(self) -> None:
        """Keep the number of workers; behind the first of them the metrics server begins."""
        super().manage_workers()
        if self._exporter is not None and not self._is_serving:
            self._is_serving = True
            with self._tolerated("server"):
                self._exporter.begin()

    def murder_workers(self) -> None:
        """Look after workers once each turn of Gunicorn's loop, and after our own."""
        super().murder_workers()
        with self._tolerated("master"):
            self._beat()
            self._mirror_heartbeats()
        self._retire_the_dead()
        if self._exporter is not None:
            with self._tolerated("server"):
                self._exporter.revive()

    def reap_workers(self) -> None:
        """Reap the dead as Gunicorn does, and fold their counters.

        Up to Gunicorn 23 this runs inside the handler of SIGCHLD: no locks here.
        """
        if self._exporter is not None:
            self._exporter.reap()
        try:
            super().reap_workers()
        finally:
            self._retire_the_dead()
            with self._tolerated("master"):
                self._beat()

    def reload(self) -> None:
        """Reload as Gunicorn does; its loop stands still meanwhile."""
        self._announce_pause(self.cfg.timeout + self.cfg.graceful_timeout)
        super().reload()

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers as Gunicorn does, while the metrics are served on."""
        with self._tolerated("master"):
            if self._state is not None:
                self._state.board.set_master(Master.STOPPING, 1.0)
        self._announce_pause(self.cfg.graceful_timeout)
        super().stop(graceful)
        self._retire_the_dead()

    def reexec(self) -> None:
        """Start the next generation (USR2); it takes the metrics socket along."""
        if self._exporter is None:
            super().reexec()
            return
        with self._exporter.handed_over():
            super().reexec()

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """Stop everything and end the process.

        Raises:
            SystemExit: always.
        """
        try:
            super().halt(reason, exit_status)
        finally:
            self._close()

    def _import_control_server(self) -> None:
        """Import before the first fork what Gunicorn imports right behind it.

        Gunicorn from 25.1 on runs its control socket on asyncio. Imported behind the
        fork it takes the master 3 MiB of pages that all processes could share. Not
        for greenlets: asyncio must not be there before a worker patches.
        """
        is_coming = hasattr(Arbiter, "_start_control_server") and (
            not self.cfg.control_socket_disable
        )
        if is_coming and not uses_greenlets(self.worker_class):
            import_module("gunicorn.ctl.server")

    def _close(self) -> None:
        if self._exporter is not None:
            self._exporter.stop()
        if self._state is not None:
            self._state.remove()

    def _assign_slot(self, worker: Any) -> None:
        with self._tolerated("slots"):
            if self._roster is not None:
                self._roster.assign(worker)

    def _retire_the_dead(self) -> None:
        with self._tolerated("slots"):
            if self._roster is not None:
                self._roster.retire_missing(self.WORKERS.values())

    def _beat(self) -> None:
        if self._state is not None:
            self._state.board.set_master(Master.HEARTBEAT, time.monotonic())
            self._state.board.set_master(Master.TARGET, self.num_workers)

    def _mirror_heartbeats(self) -> None:
        """Copy Gunicorn's own heartbeats to where every process can read them."""
        if self._roster is None:
            return
        now = time.monotonic()
        for slot, worker in self._roster.owners():
            try:
                last_update = worker.tmp.last_update()
            except (OSError, ValueError):
                continue  # it is being reaped
            # Until the worker's first beat the file tells when it was made, by the
            # wall clock.
            if last_update <= now and self._state is not None:
                self._state.board.set_heartbeat(slot, last_update)

    def _announce_pause(self, seconds: float) -> None:
        with self._tolerated("master"):
            if self._state is not None:
                until = time.monotonic() + seconds + GRACE_S
                self._state.board.set_master(Master.GRACE_UNTIL, until)

    def _publish_worker_class(self) -> None:
        if self._state is not None:
            key = (self.cfg.worker_class_str,)
            row = self._state.board.keys.row(WORKER_CLASSES, key)
            self._state.board.set_master(Master.WORKER_CLASS, row)

    @contextmanager
    def _tolerated(self, place: str) -> Iterator[None]:
        """Log the first failure in `place`, count each, and go on."""
        try:
            yield
        except Exception as error:
            if self._state is not None:
                self._state.board.count_master_error(place)
            if place not in self._failed_places:
                self._failed_places |= {place}
                self.log.error("gunicorn-prom: metrics of %s failed: %r", place, error)


class Roster:
    """Which worker has which slot, in the master."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._owners: dict[int, Any] = {}
        self._spawning: Any = None
        self._retiring = False

    def owners(self) -> list[tuple[int, Any]]:
        """Return the slots in use, each with its worker."""
        return list(self._owners.items())

    def assign(self, worker: Any) -> None:
        """Give `worker`, about to be forked, the lowest slot that is free.

        Raises:
            RuntimeError: there is none; the worker serves without metrics.
        """
        for slot in range(self._board.layout.slots):
            if slot not in self._owners:
                break
        else:
            raise RuntimeError(f"all {self._board.layout.slots} slots are taken")
        self._spawning = worker
        self._board.open_slot(slot, worker.age)
        self._owners[slot] = worker
        worker.assign_slot(self._board, slot)

    def spawned(self) -> None:
        """Note that the worker last assigned is among the arbiter's workers now."""
        self._spawning = None

    def retire_missing(self, workers: Any) -> None:
        """Fold the slot of every worker that is not among `workers` any more.

        By comparison, not on an event: Gunicorn calls no hook for a worker that
        fails to boot. A call out of the handler of SIGCHLD into the middle of
        another does nothing; the next turn of the loop finds what it left.
        """
        if self._retiring:
            return
        self._retiring = True
        try:
            living = {id(worker) for worker in workers}
            for slot, worker in self.owners():
                if id(worker) not in living and worker is not self._spawning:
                    self._board.retire_slot(slot)
                    del self._owners[slot]
        finally:
            self._retiring = False


def adopt(server: Arbiter) -> None:
    """Turn the arbiter of plain Gunicorn, about to start, into ours.

    Raises:
        GunicornPromError: the state directory or the address cannot be had.
    """
    if isinstance(server, PrometheusArbiter):
        return
    server.__class__ = PrometheusArbiter
    arbiter = cast("PrometheusArbiter", server)
    arbiter.apply_settings()
    arbiter.open()

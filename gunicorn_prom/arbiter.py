"""The master: Gunicorn's arbiter, which also keeps the scoreboard and the metrics server.

`gunicorn-prom run` starts it as it is. Under plain Gunicorn the hook in
`gunicorn_prom.hooks` turns the running arbiter into it, so both do the same.
"""

import atexit
import gc
import io
import os
import platform
import signal
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import gunicorn
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from gunicorn_prom import __version__
from gunicorn_prom.app_directory import AppDirectory
from gunicorn_prom.app_metrics import Folder
from gunicorn_prom.assignment import assignment_of
from gunicorn_prom.autopsy import Autopsies
from gunicorn_prom.client_files import report_to
from gunicorn_prom.errors import GunicornPromError, UsageError
from gunicorn_prom.exporter.host import ExporterHost, is_patched
from gunicorn_prom.instrument.instruments import instrument
from gunicorn_prom.keys import WORKER_CLASSES
from gunicorn_prom.ledger import OomKills, exit_reason, watch_control, watch_waiting
from gunicorn_prom.listeners import Listener, sockets_of
from gunicorn_prom.own_settings import read_own_settings
from gunicorn_prom.processes import brief_facts, pid_namespace
from gunicorn_prom.roster import Roster
from gunicorn_prom.scoreboard import SIGNALS, Board, Gauge, Master, Vital
from gunicorn_prom.settings import add_own_settings
from gunicorn_prom.signals import SignalQueue, is_unfit
from gunicorn_prom.state import State, unusable
from gunicorn_prom.workers import seam_of, uses_greenlets

__all__ = ["PrometheusArbiter", "adopt"]

# A reload starts the new workers before it stops the old. Whoever is beyond that, by
# TTIN or by reload upon reload, gets a further board.
SLOTS_PER_WORKER = 2
SPARE_SLOTS = 8

# How much longer than its own limits a reload or stop may take before the master
# counts as stuck.
GRACE_S = 5.0

FATAL_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGABRT, signal.SIGKILL)

# How often the master writes what it knows of its workers' processes.
VITALS_PERIOD_S = 5.0

# What goes from one board of a master to the next.
LASTING_CELLS = (
    Master.HEARTBEAT,
    Master.GRACE_UNTIL,
    Master.TARGET,
    Master.START_TIME,
    Master.RELOAD_TIME,
    Master.READY_UNTIL,
)

# What a reload cannot change: it is decided before the first worker is there.
FIXED_SETTINGS = ("metrics_state_dir", "app_metrics")


class PrometheusArbiter(Arbiter):
    """Supervise workers as Gunicorn does, and keep their places on the scoreboard.

    Whatever fails in our part is logged once and counted; supervision goes on.

    Gunicorn's own arbiter may be one of the user's, and hooks put what they like on it. So all that
    is ours has names that Python makes this class's own.
    """

    __state: State | None = None
    __roster: Roster | None = None
    __exporter: ExporterHost | None = None
    __app_folder: Folder | None = None
    __oom_kills: OomKills | None = None
    # The one forked last, which in its own process is the worker itself.
    __last_worker: Any = None
    __autopsies: Autopsies | None = None
    __is_adopted = False
    __is_serving = False
    __is_folding = False
    # Why the master tells a worker to go, unless something else is known.
    __intent = "scale_down"
    __vitals_due = 0.0
    # What was last told of where we listen, and on which board.
    __published: tuple[float, list[Listener], str] | None = None
    # The age of the last worker before those of which one is to boot for the server to be ready.
    __awaited_age: int | None = None
    __failed_places: frozenset[str] = frozenset()
    # Why the directory of the application's metrics of the last generation is of no use.
    __settling_failure: OSError | None = None
    log: Any
    WORKERS: dict[int, Any]  # type: ignore[misc]  # typed as a class variable elsewhere

    def _gunicorn_prom_take_over(self) -> None:
        """Begin, in an arbiter of plain Gunicorn that has just become this one.

        Raises:
            GunicornPromError: see `start`.
        """
        self.__is_adopted = True
        self.__open()
        self.__apply_settings()

    def __init__(self, app: Any) -> None:
        try:
            super().__init__(app)
        except BaseException:  # a preloaded application may end the process
            self.__close()
            raise

    def setup(self, app: Any) -> None:
        """Apply the configuration, at start and at every reload.

        Raises:
            StateError: at start, the state directory cannot be used.
        """
        is_start = self.__state is None
        if is_start:
            # Before an application that is preloaded imports prometheus_client.
            self.__make_state(app.cfg)
        super().setup(app)
        if self.__is_adopted:
            read_own_settings(app)
        self.__apply_settings()
        if is_start:
            self.__tell_what_was_lost()
            self.__begin_folding()
        else:
            self.__follow_settings()

    def __tell_what_was_lost(self) -> None:
        """Log and count what a next generation could not take over."""
        assert self.__state is not None  # made before anything is told
        for place, problem in (
            ("state", self.__state.problem),
            ("app_metrics", self.__settling_failure),
        ):
            with self.__tolerated(place):
                if problem is not None:
                    raise problem

    def start(self) -> None:
        """Bind the metrics server, then start as Gunicorn does.

        Raises:
            GunicornPromError: the address cannot be had.
        """
        self.__open()
        try:
            super().start()
        except BaseException:  # Gunicorn ends the process when it cannot bind
            self.__close()
            raise

    def init_signals(self) -> None:
        """Take the signals as Gunicorn does, by a queue that a handler may interrupt."""
        if is_unfit(self.SIG_QUEUE):
            self.SIG_QUEUE = cast("Any", SignalQueue())
        super().init_signals()

    def __apply_settings(self) -> None:
        """Put ourselves beside what the configuration has just said."""
        add_own_settings(self.cfg)
        worker_class: Any = self.worker_class
        # What is no class may make workers of any.
        if isinstance(worker_class, type) and not seam_of(worker_class):
            self.log.warning(
                "gunicorn-prom: requests of %s workers are not counted, only their processes are",
                self.cfg.worker_class_str,
            )
        cfg = self.cfg
        users_pre_fork, users_post_fork, users_pre_exec = cfg.pre_fork, cfg.post_fork, cfg.pre_exec

        def pre_fork(server: Any, worker: Any) -> None:
            self.__prepare_worker(worker)
            users_pre_fork(server, worker)

        def post_fork(server: Any, worker: Any) -> None:
            instrument(worker)
            users_post_fork(server, worker)

        def pre_exec(server: Any) -> None:
            self.__pass_on(self.cfg.env_orig)
            users_pre_exec(server)

        cfg.set("pre_fork", pre_fork)
        cfg.set("post_fork", post_fork)
        cfg.set("pre_exec", pre_exec)

    def __make_state(self, cfg: Any) -> None:
        atexit.register(_flush_frozen_files)  # before the application's own, to come after them
        add_own_settings(cfg)
        root = Path(cfg.metrics_state_dir) if cfg.metrics_state_dir else None
        master = f"{os.getpid()}.{time.time_ns()}"
        self.__app_directory = AppDirectory.announced(cfg)
        self.__fixed_meta = {
            "master": master,
            "pid": os.getpid(),
            "pid_namespace": pid_namespace(),
            "version": gunicorn.__version__,
            "python_version": platform.python_version(),
            "gunicorn_prom_version": __version__,
        }
        self.__state = State.create(root, self.__meta(cfg), lambda board: self.__begin(board, cfg))
        try:
            self.__app_directory.settle(self.__state.path, cfg.uid, cfg.gid)
        except OSError as error:
            if "GUNICORN_PID" not in os.environ:
                raise unusable(self.__state.path, error) from error
            self.__settling_failure = error
        self.__roster = Roster(self.__state, self.__add_slots)
        self.__oom_kills = OomKills()
        self.__autopsies = Autopsies(self.__state.path)
        watch_waiting(self.__note_exit)

    def __begin(self, board: Board, cfg: Any) -> None:
        """Tell on the first board what is so from the start.

        The heart may pause until a preloaded application is imported.
        """
        board.set_master(Master.HEARTBEAT, time.monotonic())
        board.set_master(Master.GRACE_UNTIL, _latest_end(cfg.timeout + cfg.graceful_timeout))
        board.set_master(Master.TARGET, cfg.workers)
        for cell in (Master.START_TIME, Master.RELOAD_TIME):
            board.set_master(cell, time.time())
        self.__publish_settings(board, cfg)

    def __begin_folding(self) -> None:
        assert self.__state is not None
        report_to(self.__note_client_failure)
        with self.__tolerated("app_metrics"):
            self.__app_directory.look_again(self.__state.path)
            path, is_ours = self.__app_directory.path, self.__app_directory.is_ours
            if path is not None and self.__app_directory.is_served:
                self.__app_folder = Folder(path, is_ours=is_ours, warn=self.__warn)

    def __meta(self, cfg: Any) -> dict[str, Any]:
        return {
            **self.__fixed_meta,
            "slots": SLOTS_PER_WORKER * cfg.workers + SPARE_SLOTS,
            "foreseen": SLOTS_PER_WORKER * cfg.workers,
            "buckets": cfg.metrics_buckets,
        }

    def __open(self) -> None:
        """Begin the scoreboard and bind the metrics server.

        Raises:
            GunicornPromError: the state directory or the address cannot be had.
        """
        if self.__state is None:  # under plain Gunicorn
            self.__make_state(self.cfg)
            self.__tell_what_was_lost()
            self.__begin_folding()
        assert self.__state is not None
        self.__beat()
        self.__announce_pause(0.0)
        listener = getattr(self.app, "metrics_listener", None)
        try:
            self.__exporter = ExporterHost.prepare(self.cfg, self.__state, listener, self.log)
        except GunicornPromError:
            self.__close()
            raise
        # What a killed master left is finished before a worker could get a pid that is in it.
        self.__fold_what_is_left()
        self.__import_control_server()
        self.__freeze()

    def __freeze(self) -> None:
        """Keep the collector from what is there now, if it is to.

        A collection, in the master or in a worker, would write to pages that they share so
        far. Once: a reload does not load a preloaded application again, and would only
        have its own garbage kept. What gevent has patched is taken down with noise if it
        was frozen.
        """
        if not self.cfg.gc_freeze or is_patched():
            return
        if self.cfg.preload_app:
            gc.collect()  # what an import leaves behind would be kept for ever
        # To take them out again at the end would have each process copy all that it shares.
        _frozen_files[:] = map(weakref.ref, _files_open_for_writing())
        gc.freeze()

    def __publish_settings(self, board: Board, cfg: Any) -> None:
        """Tell those settings that are shown beside the workers.

        Raises:
            OSError: the label file cannot be extended.
        """
        board.set_master(Master.TIMEOUT, cfg.timeout)
        board.set_master(Master.MAX_WORKER_MEMORY, cfg.max_worker_memory or 0)
        row = board.keys.row(WORKER_CLASSES, (cfg.worker_class_str,))
        board.set_master(Master.WORKER_CLASS, row)

    def __follow_settings(self) -> None:
        """Do what a reload has changed in our own settings."""
        assert self.__state is not None
        board = self.__state.board
        board.set_master(Master.RELOAD_TIME, time.time())
        with self.__tolerated("keys"):
            self.__publish_settings(board, self.cfg)
        if tuple(self.cfg.metrics_buckets) != board.layout.buckets:
            with self.__tolerated("state"):
                self.__add_slots()
        with self.__tolerated("server"):
            changed = ExporterHost.follow(self.__exporter, self.cfg, self.__state, self.log)
            if changed is not self.__exporter:
                self.__exporter = changed
                if self.__exporter is not None and self.__is_serving:
                    self.__exporter.begin()

    def __add_slots(self) -> None:
        """Make a further board, for more workers than were foreseen or other buckets."""
        assert self.__state is not None
        last = self.__state.board.read().master

        def fill(board: Board) -> None:
            for cell in LASTING_CELLS:
                board.set_master(cell, last[cell])
            self.__publish_settings(board, self.cfg)

        self.__state.add_board(self.__meta(self.cfg), fill)

    def spawn_worker(self) -> int:
        """Fork a worker, which finds its slot assigned by `pre_fork`."""
        pid: int = super().spawn_worker()
        with self.__tolerated("slots"):
            if self.__roster is not None:
                self.__roster.spawned()
            self.__beat()
        return pid

    def __publish_listeners(self) -> None:
        """Tell where we listen, when that or our board has changed."""
        with self.__tolerated("backlog"):
            if self.__state is not None:
                sockets = sockets_of(self.LISTENERS, self.cfg)
                url = "" if self.__exporter is None else self.__exporter.url
                listening = self.__state.board.number, sockets, url
                if listening != self.__published:
                    self.__published = listening
                    self.__state.publish(sockets, url)

    def __serve_metrics(self, exporter: ExporterHost) -> None:
        """Have `exporter` serve from now on; it replaces the one that has served so far."""
        if exporter is not self.__exporter or not self.__is_serving:
            self.__exporter, self.__is_serving = exporter, True
            exporter.begin()

    def manage_workers(self) -> None:
        """Keep the number of workers; behind the first the metrics server begins, if any."""
        super().manage_workers()
        if self.__exporter is not None:
            with self.__tolerated("server"):
                self.__serve_metrics(self.__exporter.fit(self.cfg))
        self.__publish_listeners()

    def murder_workers(self) -> None:
        """Look after workers once each turn of Gunicorn's loop, and after our own."""
        if is_patched():
            # From Gunicorn 24 on a master that gevent has patched may not be told of SIGCHLD.
            self.reap_workers()
        self.__conclude_autopsies()
        super().murder_workers()
        with self.__tolerated("master"):
            self.__beat()
            self.__write_vitals()
        self.__retire_the_dead()
        self.__fold_what_is_left()
        with self.__tolerated("app_metrics"):
            self.__app_directory.restore()
        if self.__exporter is not None:
            with self.__tolerated("server"):
                self.__exporter.revive()

    def kill_worker(self, pid: int, sig: int) -> None:
        """Signal a worker as Gunicorn does, and remember why.

        Up to Gunicorn 25.3 one that failed to boot is still there when it is dead.
        """
        worker = self.WORKERS.get(pid)
        assignment = None if worker is None else assignment_of(worker)
        if assignment is not None and assignment.exit_status is None and sig in FATAL_SIGNALS:
            assignment.intent = assignment.intent or self.__intent
            # Gunicorn sends it to a worker that has timed out, and to no other.
            if sig == signal.SIGABRT:
                self.__begin_autopsy(worker)
                # Up to Gunicorn 23 the handler of SIGCHLD may have reaped it meanwhile.
                if pid not in self.WORKERS:
                    return
            if sig == signal.SIGKILL and self.__is_to_be_heard(worker):
                return
        super().kill_worker(pid, sig)

    def reap_workers(self) -> None:
        """Reap the dead as Gunicorn does, and fold their counters.

        Up to Gunicorn 23 this runs inside the handler of SIGCHLD: no locks here.
        """
        if self.__exporter is not None:
            self.__exporter.reap()
        try:
            while not self.__reap_all():
                pass
        finally:
            self.__retire_the_dead()
            with self.__tolerated("master"):
                self.__beat()

    def __reap_all(self) -> bool:
        """Reap as Gunicorn does; return False when one that failed to boot has ended that.

        Raises:
            HaltServer: it is the first one. When that halts the master, and another one fails,
                Gunicorn would end with a traceback and exit code 1.
        """
        try:
            super().reap_workers()
        except HaltServer:
            if self.__intent != "shutdown":
                raise
        else:
            return True
        # Up to Gunicorn 25.3 it is still there, and would be waited for.
        for pid, worker in list(self.WORKERS.items()):
            if assignment_of(worker).exit_status is not None:
                del self.WORKERS[pid]
                worker.tmp.close()
        return False

    def signal(self, sig: int, frame: Any) -> None:
        """Take a signal as Gunicorn does, and count it.

        A worker runs this as well, from its fork until it has handlers of its own; there
        Gunicorn forgets the signal, and the master waits for the worker in vain.
        """
        if os.getpid() != self.pid:
            if self.__last_worker is not None:
                assignment_of(self.__last_worker).told_early.append(sig)
            return
        name = self.SIG_NAMES.get(sig, "").upper()
        if self.__state is not None and name in SIGNALS:
            board = self.__state.board
            board.count(board.layout.signals + SIGNALS.index(name))
        super().signal(sig, frame)

    def reload(self) -> None:
        """Reload as Gunicorn does; its loop stands still meanwhile.

        Raises:
            SystemExit: the configuration is invalid.
        """
        self.__announce_pause(self.cfg.timeout + self.cfg.graceful_timeout)
        if self.__state is not None:
            self.__state.board.count(self.__state.board.layout.reloads)
            self.__stay_ready()
        before = {name: self.cfg.settings[name].get() for name in FIXED_SETTINGS}
        self.__intent = "reload"
        try:
            super().reload()
        except (HaltServer, KeyboardInterrupt, StopIteration):
            raise  # Gunicorn halts, and so do we
        except BaseException as error:
            if self.__state is not None and os.getpid() == self.pid:
                self.__state.board.count_master_error("reload")
                # The state stays: workers live on for a moment, and count.
                if self.__exporter is not None:
                    self.__exporter.stop()
            if isinstance(error, SystemExit) and error.code == UsageError.exit_code:
                raise SystemExit(1) from error  # as Gunicorn has it
            raise
        finally:
            self.__intent = "scale_down"
        self.__announce_pause(0.0)
        for name, value in before.items():
            if self.cfg.settings[name].get() != value:
                self.log.warning("gunicorn-prom: a new %s counts from the next start on", name)

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers as Gunicorn does, while the metrics are served on."""
        with self.__tolerated("master"):
            if self.__state is not None:
                self.__state.board.set_master(Master.STOPPING, 1.0)
        self.__announce_pause(self.cfg.graceful_timeout)
        self.__intent = "shutdown"
        super().stop(graceful)
        # Who is left was sent SIGKILL.
        self.__retire_the_dead(())
        self.__conclude_autopsies(is_end=True)
        self.__fold_what_is_left()

    def reexec(self) -> None:
        """Start the next generation (USR2); it takes the metrics socket along."""
        if self.__exporter is None:
            super().reexec()
            return
        with self.__exporter.handed_over():
            super().reexec()

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """Stop everything and end the process.

        Raises:
            SystemExit: always.
        """
        try:
            super().halt(reason, exit_status)
        finally:
            self.__close()

    def _start_control_server(self) -> None:
        """Open the control socket, from Gunicorn 25.1 on, and hear what is done by it."""
        super()._start_control_server()  # type: ignore[misc]  # who calls this has one
        with self.__tolerated("ledger"):
            watch_control(self.__note_control)

    def __note_control(self, pid: int, number: int) -> None:
        """Note that somebody wants a worker to go; runs in the thread of the control socket."""
        worker = self.WORKERS.get(pid)
        if worker is not None and number in FATAL_SIGNALS:
            assignment = assignment_of(worker)
            assignment.intent = assignment.intent or "scale_down"

    def __import_control_server(self) -> None:
        """Import before the first fork what Gunicorn imports right behind it.

        Gunicorn from 25.1 on runs its control socket on asyncio. Imported behind the
        fork it takes the master 3 MiB of pages that all processes could share. Not
        for greenlets: asyncio must not be there before a worker patches.
        """
        is_coming = hasattr(Arbiter, "_start_control_server") and (
            not self.cfg.control_socket_disable
        )
        is_known = isinstance(self.worker_class, type)
        if is_coming and is_known and not uses_greenlets(self.worker_class):
            import_module("gunicorn.ctl.server")

    def __close(self) -> None:
        if self.__exporter is not None:
            self.__exporter.stop()
        if self.__state is not None:
            self.__state.close()

    def __pass_on(self, environ: dict[str, str]) -> None:
        """Leave word for the next generation, in the child that is about to execute it."""
        if self.__state is not None:
            self.__state.pass_on(environ)
            self.__app_directory.pass_on(environ)
        if self.__exporter is not None:
            self.__exporter.pass_on(environ)

    def __prepare_worker(self, worker: Any) -> None:
        self.__last_worker = worker
        with self.__tolerated("app_metrics"):
            self.__app_directory.restore(is_fork_next=True)
        with self.__tolerated("slots"):
            if self.__roster is not None:
                self.__roster.assign(worker)
                if self.cfg.timeout_autopsy and self.cfg.timeout and self.__autopsies is not None:
                    assignment_of(worker).stack_file = self.__autopsies.stack_file(worker)

    def __begin_autopsy(self, worker: Any) -> None:
        with self.__tolerated("autopsy"):
            if (
                assignment_of(worker).stack_file is None
                or self.__roster is None
                or self.__autopsies is None
            ):
                return
            for board, slot, owner in self.__roster.owners():
                if owner is worker:
                    self.__log_autopsy(self.__autopsies.begin(worker, board, slot))

    def __is_to_be_heard(self, worker: Any) -> bool:
        is_stopping = self.__intent == "shutdown"
        return (
            not is_stopping and self.__autopsies is not None and self.__autopsies.may_write(worker)
        )

    def __conclude_autopsies(self, *, is_end: bool = False) -> None:
        with self.__tolerated("autopsy"):
            if self.__autopsies is not None:
                for text in self.__autopsies.conclude(is_end=is_end):
                    self.__log_autopsy(text)

    def __log_autopsy(self, text: str) -> None:
        if text:
            self.log.error("gunicorn-prom: %s", text)

    def __warn(self, message: str) -> None:
        self.log.warning("gunicorn-prom: %s", message)

    def __note_client_failure(self, error: BaseException) -> None:
        with self.__tolerated("app_metrics"):
            raise error

    def __note_exit(self, pid: int, status: int) -> None:
        worker = self.WORKERS.get(pid)
        if worker is not None:
            assignment_of(worker).exit_status = status

    def __retire_the_dead(self, workers: Iterable[Any] | None = None) -> None:
        """Fold the slots of workers that are gone.

        A call out of the handler of SIGCHLD into the middle of a fold does nothing;
        the next turn of the loop finds what it left.

        Args:
            workers: those that live, by default Gunicorn's.
        """
        if self.__is_folding or self.__roster is None:
            return
        self.__is_folding = True
        try:
            with self.__tolerated("slots"):
                self.__end_wait()
                # A copy: up to Gunicorn 23 the handler of SIGCHLD may remove one meanwhile.
                living = list(self.WORKERS.values()) if workers is None else workers
                self.__roster.retire_missing(living, self.__exit_reason)
        finally:
            self.__is_folding = False

    def __exit_reason(self, worker: Any, gauges: list[float]) -> str:
        reason = "exit"
        with self.__tolerated("ledger"):
            assert self.__oom_kills is not None  # made with the state
            reason = exit_reason(worker, gauges, self.__oom_kills.claim)
            if gauges[Gauge.LEAVING]:  # of itself, and another one comes
                self.__stay_ready()
        with self.__tolerated("autopsy"):
            if self.__autopsies is not None:
                self.__autopsies.gone(worker, gauges)
        return reason

    def __fold_what_is_left(self) -> None:
        """Fold the boards of other generations, boards without workers, the dead's files."""
        if self.__is_folding or self.__state is None or self.__roster is None:
            return
        self.__is_folding = True
        try:
            with self.__tolerated("state"):
                self.__state.fold_the_dead()
                for board in self.__roster.unused_boards():
                    self.__state.fold_unused(board)
            with self.__tolerated("ledger"):
                if self.__oom_kills is not None:
                    self.__oom_kills.poll()
            with self.__tolerated("app_metrics"):
                if self.__app_folder is not None:
                    self.__app_folder.fold(self.__roster.take_dead_pids())
        finally:
            self.__is_folding = False

    def __beat(self) -> None:
        if self.__state is not None:
            self.__state.board.set_master(Master.HEARTBEAT, time.monotonic())
            self.__state.board.set_master(Master.TARGET, self.num_workers)

    def __write_vitals(self) -> None:
        """Write what is known of the workers to where every process can read it."""
        if self.__roster is None:
            return
        now = time.monotonic()
        is_due = now >= self.__vitals_due
        if is_due:
            self.__vitals_due = now + VITALS_PERIOD_S
        for board, slot, worker in self.__roster.owners():
            try:
                last_update = worker.tmp.last_update()
                facts = brief_facts(worker.pid) if is_due else ()
            except (OSError, ValueError):
                continue  # it is being reaped
            # Until the worker's first beat the file tells when it was made, by the
            # wall clock.
            if last_update <= now:
                board.set_vital(slot, Vital.HEARTBEAT, last_update)
            for vital, value in zip(
                (Vital.CPU_SECONDS, Vital.RSS_BYTES, Vital.THREADS), facts, strict=False
            ):
                board.set_vital(slot, vital, value)

    def __stay_ready(self) -> None:
        """Have the server count as ready until a worker that is yet to be forked has booted."""
        assert self.__state is not None
        assert self.__roster is not None
        slots = self.__roster.owners()
        has_booted = any(board.gauges(slot)[Gauge.BOOTED_TIME] for board, slot, _ in slots)
        # Or a reload has ended those workers that the last one had started.
        if has_booted or self.__awaited_age is not None:
            until = time.monotonic() + self.cfg.timeout + self.cfg.graceful_timeout
            self.__state.board.set_master(Master.READY_UNTIL, until)
            self.__awaited_age = self.worker_age

    def __end_wait(self) -> None:
        """End what `_stay_ready` has begun."""
        if self.__awaited_age is None or self.__state is None or self.__roster is None:
            return
        for board, slot, worker in self.__roster.owners():
            if worker.age > self.__awaited_age and board.gauges(slot)[Gauge.BOOTED_TIME]:
                self.__awaited_age = None
                self.__state.board.set_master(Master.READY_UNTIL, 0.0)
                return

    def __announce_pause(self, seconds: float) -> None:
        with self.__tolerated("master"):
            if self.__state is not None:
                self.__state.board.set_master(Master.GRACE_UNTIL, _latest_end(seconds))

    @contextmanager
    def __tolerated(self, place: str) -> Iterator[None]:
        """Log the first failure in `place`, count each, and go on."""
        try:
            yield
        except Exception as error:
            if self.__state is not None:
                self.__state.board.count_master_error(place)
            if place not in self.__failed_places:
                self.__failed_places |= {place}
                self.log.error("gunicorn-prom: metrics of %s failed: %r", place, error)


# Files that were open when the collector was told to leave alone what was there. Python flushes a
# file when it is taken down, and what is frozen is not, where a module and its functions hold each
# other.
_frozen_files: list[weakref.ref[Any]] = []


def _files_open_for_writing() -> Iterator[Any]:
    kinds = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
    # By its type: isinstance() would ask a proxy, which would run its code.
    return (each for each in gc.get_objects() if issubclass(type(each), kinds))


def _flush_frozen_files() -> None:
    for reference in _frozen_files:
        file = reference()
        if file is not None:
            with suppress(OSError, ValueError):  # full, or closed
                file.flush()


def adopt(server: Arbiter) -> None:
    """Turn the arbiter of plain Gunicorn, or a kind of it, about to start, into ours.

    Raises:
        GunicornPromError: the state directory or the address cannot be had, or one of
            our settings has a value it cannot have.
    """
    if isinstance(server, PrometheusArbiter):
        return
    read_own_settings(server.app)
    # Below ours, so that what a subclass does of its own is still done.
    server.__class__ = type("PrometheusArbiter", (PrometheusArbiter, type(server)), {})
    cast("PrometheusArbiter", server)._gunicorn_prom_take_over()


def _latest_end(seconds: float) -> float:
    """Return until when what may take so long from now on counts as going on."""
    return time.monotonic() + seconds + GRACE_S

"""A process for each library, so that neither's threads, memory or settings meet the other's.

In one process they would: OpenMP's and BLAS's threads spin for milliseconds after a loop, on the cores that the other
library then needs, and whichever loads OpenMP first sets its policy for both. So each library lives in a worker that
is stopped (SIGSTOP) whenever it has nothing to do, and the bench's own process hands out the turns:

    with Worker("ranvier") as ours, Worker("pytorch") as theirs:
        ours.ask("prepare", "lenet/small", "ranvier", None)
        samples = measure({"ranvier": Turn(ours, "ranvier", "step"), ...}, clock=WorkerClock())
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection, Pipe
from typing import NamedTuple

from .bench_libraries import RANVIER, require_pytorch
from .bench_processes import environment

# Seconds of calls, at least one, before each sample: caches and threads come back from the other library's turn. Calls
# of any length need it: the first after a rest takes up to 3 ms longer.
_WARM_UP = 5e-4
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# What a library raises for a case that it cannot run: the bench prints it with the row.
_FAILURES = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, ImportError, MemoryError)


class WorkerError(Exception):
    """What a worker was asked raised an error there; the message has it. The worker goes on."""


class WorkerGone(ChildProcessError):
    """A worker's process has ended."""


class Worker:
    """One library's process, seen from the bench.

    Args:
        side: "ranvier" or "pytorch".
        threads: how many threads the library shall use; None leaves it the number that it sets itself.
    """

    def __init__(self, side: str, threads: int | None = None):
        self.side = side
        self._connection, theirs = Pipe()
        command = [sys.executable, "-c", f"from {__name__} import serve; serve({side!r}, {theirs.fileno()})"]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment(threads))
        theirs.close()
        try:
            self.facts = self._answer()
        except (WorkerError, WorkerGone):
            self.close()
            raise

    def ask(self, question: str, *arguments):
        """What `_Desk.<question>(*arguments)` returns in the worker, which sleeps again afterwards.

        Raises:
            WorkerError: it raised there.
            WorkerGone: the process has ended.
        """
        self._process.send_signal(signal.SIGCONT)
        try:
            self._connection.send((question, arguments))
        except BrokenPipeError:
            raise self._gone() from None
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _answer(self):
        try:
            good, value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._gone() from None
        self._process.send_signal(signal.SIGSTOP)
        if not good:
            raise WorkerError(value)
        return value

    def _gone(self) -> WorkerGone:
        return WorkerGone(f"bench: the process of {self.side} ended unasked, with status {self._process.wait()}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class Turn(NamedTuple):
    """A prepared function in a worker."""

    worker: Worker
    variant: str
    direction: str

    def __call__(self) -> None:
        self.worker.ask("sample", self.variant, self.direction, 1)


class WorkerClock:
    """A clock for `timing.measure` that lets a worker time its own calls."""

    def settle(self) -> None:
        """There is nothing to wait for: the other worker is stopped."""

    def sample(self, turn: Turn, calls: int) -> float:
        """Seconds that so many calls took together."""
        return turn.worker.ask("sample", turn.variant, turn.direction, calls)


class _Desk:
    """What a worker can be asked."""

    def __init__(self):
        self._functions = {}

    def prepare(self, case: str, variant: str, shared):
        """Makes a case ready in a variant; returns its results, to be compared, and what the other side needs."""
        from .bench_cases import find

        prepared = find(case).prepare(variant, shared)
        self._functions[variant] = prepared.functions
        return prepared.results, prepared.shared

    def sample(self, variant: str, direction: str, calls: int) -> float:
        """Seconds that so many calls took together, after others that warm up."""
        function = self._functions[variant][direction]
        awake = time.perf_counter() + _WARM_UP
        while time.perf_counter() < awake:
            function()
        repeat = itertools.repeat(None, calls)
        gc.disable()
        started = time.perf_counter()
        for _ in repeat:
            function()
        seconds = time.perf_counter() - started
        gc.enable()
        return seconds

    def forget(self) -> None:
        """Lets go of what was prepared."""
        self._functions.clear()
        gc.collect()


def serve(side: str, descriptor: int) -> None:
    """The worker's own loop: answers questions until the bench is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the bench's to answer
    if sys.platform == "linux":
        # A stopped process would outlive a bench that was killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    connection = Connection(descriptor)
    desk = _Desk()
    facts = _tried(_facts, side)
    gc.freeze()  # what the library keeps for good is not looked through again after every case
    connection.send(facts)
    while True:
        try:
            question, arguments = connection.recv()
        except EOFError:
            return
        connection.send(_tried(getattr(desk, question), *arguments))


def _tried(function, *arguments) -> tuple[bool, object]:
    """(True, result) or (False, message): an error is one row's, and the worker goes on to the next."""
    try:
        return True, function(*arguments)
    except _FAILURES as error:
        return False, f"{type(error).__name__}: {error}"


def _facts(side: str) -> dict:
    """The threads that the library uses, by what uses them. Loads the library."""
    if side != RANVIER:
        require_pytorch()
        import torch

        return {"torch": torch.get_num_threads()}
    import numba
    import threadpoolctl

    blas = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return {"numba": numba.get_num_threads(), "blas": max(blas, default=1)}

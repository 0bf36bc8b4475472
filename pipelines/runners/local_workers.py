"""Worker processes of a local run: how many pay, which GPU each has, and that one that dies ends the job.

Beam alone waits for a process that dies, at times for ever.

A signal to the whole process group, as Ctrl-C is, is the launcher's business: it kills its workers, silently.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import types
from typing import Any

from pipelines import interrupts
from rag_ops.sizes import size

logger = logging.getLogger("ragbeam")
ENDED = "Channel closed prematurely"  # Beam's own words for a worker that dies in the middle of a bundle
POLL_SECS = 0.2
DEAF = "trap '' HUP INT TERM; exec " if os.name == "posix" else ""  # before a shell's command
STOP_SECS = 5.0  # for a worker to end by itself; one that does not loses its connection when this process ends

_processes: list[Any] = []  # all that were started
_gpus: list[str] = []  # names of those that are dealt out
_numbers = itertools.count()  # of processes, from 0 in each run


def affordable(wanted: int, process_bytes: float) -> int:
    """How many of the wanted processes fit in the memory that is free, at least 1; the log names what is missing.

    Args:
        wanted: number of processes.
        process_bytes: peak memory of each.
    """
    from rag_ops import planning

    free = planning.available_memory_bytes()
    if wanted < 2 or free is None or wanted * process_bytes <= free:
        return max(1, wanted)
    fit = max(1, int(free // process_bytes))
    logger.info("%d of %d processes: each takes %s, and %s are free", fit, wanted, size(process_bytes), size(free))
    return fit


def watch(gpus: int = 0) -> None:
    """Has Beam's local runner notice, from now on, when a worker process dies, and not wait for one that is left.

    Args:
        gpus: number of GPUs to deal out to the processes, each of which then sees only its own; 0 to leave them be.
    """
    global _numbers
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    _numbers, _gpus[:] = itertools.count(), (visible.split(",") if visible else map(str, range(gpus)))
    del _gpus[gpus:]
    from apache_beam.runners.portability import local_job_service
    from apache_beam.runners.portability.fn_api_runner import worker_handlers

    handler: Any = worker_handlers.SubprocessSdkWorkerHandler
    if handler.start_worker is _start_worker:
        return
    handler.start_worker, handler.stop_worker = _start_worker, _stop_worker
    start, service = local_job_service.subprocess.Popen, vars(local_job_service)
    service["subprocess"] = types.SimpleNamespace(Popen=lambda command, **settings: _started(start, command, settings))
    interrupts.on_signal(_kill)


def _started(start: Any, command: str, settings: Any) -> Any:
    if _gpus:
        gpu = _gpus[next(_numbers) % len(_gpus)]
        settings = {**settings, "env": {**settings["env"], "CUDA_VISIBLE_DEVICES": gpu}}
    process = start(DEAF + command, **settings)
    _processes.append(process)
    if interrupts.received():
        process.kill()
    return process


def _kill() -> None:
    for process in _processes:
        if process.poll() is None:
            process.kill()


def _start_worker(handler: Any) -> None:
    from apache_beam.runners.portability import local_job_service

    handler.worker = local_job_service.SubprocessSdkWorker(
        handler._worker_command_line, handler.control_address, handler.provision_info, handler.worker_id
    )
    handler.stopped = threading.Event()
    handler.worker_thread = threading.Thread(name="run_worker", target=_run, args=(handler,), daemon=True)
    handler.worker_thread.start()


def _run(handler: Any) -> None:
    """Runs the process to its end; one that ends with an exit code fails whatever is asked of it, then or later."""
    try:
        handler.worker.run()
    except RuntimeError:
        handler.data_conn._exception = RuntimeError(ENDED)  # who waits for its output looks at this every second
        while not handler.stopped.wait(POLL_SECS):
            with contextlib.suppress(RuntimeError):  # the table of what is asked changes meanwhile
                handler.control_conn.abort(RuntimeError(ENDED))


def _stop_worker(handler: Any) -> None:
    from apache_beam.runners.portability.fn_api_runner.worker_handlers import BeamFnControlServicer

    handler.stopped.set()
    handler.control_conn.push(BeamFnControlServicer._DONE_MARKER)  # for one that has not yet said its first word
    handler.worker_thread.join(STOP_SECS)

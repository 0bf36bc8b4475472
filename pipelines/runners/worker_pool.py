"""Our pool of Python workers, for `--environment_type EXTERNAL` and, in the launcher, for LOOPBACK.

Beam's own pool is right beside a single task manager. Task managers number their workers each for itself, so two that
share a pool both start a worker "1-1"; Beam's pool then knows only the later one, and stops it when either of the two
task managers asks: in the middle of the other's work. It also starts whatever `python` comes first on PATH, and never
reads what its workers print, which in the end stops them.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.worker import worker_pool_main
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

from pipelines.runners import listening
from rag_ops.errors import JobError

logger = logging.getLogger("ragbeam")
OURS = ("ragbeam-pool", "1")  # what our pool's replies carry, for the check before a job
CONNECT_SECS = 1.0
WORKER = "import sys; from pipelines.runners.worker_pool import work; work(*sys.argv[1:])"


class WorkerPool(BeamFnExternalWorkerPoolServicer):
    """Beam's pool, but safe for several task managers on one machine.

    A worker ends by itself when its task manager hangs up. So StopWorker is only a help against one that hangs, and is
    obeyed only where it is clear who is meant: where no two workers were ever started under that name.
    """

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self._started: Counter[str] = Counter()
        self._lock = threading.Lock()

    def StartWorker(self, start_worker_request: Any, unused_context: Any) -> Any:  # noqa: N802 (Beam's name)
        """Starts a worker: a process of this very Python, or a thread of the launcher."""
        unused_context.set_trailing_metadata((OURS,))
        name = start_worker_request.worker_id
        with self._lock:
            self._started[name] += 1
        if not self._use_process:
            return super().StartWorker(start_worker_request, unused_context)
        # -c with arguments: nothing that a request says becomes code
        command = [sys.executable, "-c", WORKER, start_worker_request.control_endpoint.url, name]
        command += [str(self._state_cache_size), str(self._data_buffer_time_limit_ms)]
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        except OSError as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=str(error))
        self._worker_processes[name] = process
        threading.Thread(target=_report_end, args=(name, process), daemon=True).start()
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, stop_worker_request: Any, unused_context: Any) -> Any:  # noqa: N802 (Beam's name)
        """Stops a worker whose name no other has had; the others end when their task manager hangs up."""
        with self._lock:
            shared = self._started[stop_worker_request.worker_id] > 1
        if shared:
            return beam_fn_api_pb2.StopWorkerResponse()
        return super().StopWorker(stop_worker_request, unused_context)


def work(control: str, name: str, cache_size: str, limit_ms: str) -> None:
    """A worker's process: serves the runner at `control` until that hangs up."""
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    harness = SdkHarness(
        control, worker_id=name, state_cache_size=int(cache_size), data_buffer_time_limit_ms=int(limit_ms)
    )
    harness.run()


def serve(port: int, host: str = listening.LOOPBACK) -> None:
    """Runs a pool of worker processes on `port` of `host` until the process is asked to end.

    Raises:
        JobError: the port is taken, or `host` is no address of this machine.
    """
    with contextlib.suppress(OSError, UnicodeError), socket.create_connection((host, port), CONNECT_SECS):
        # gRPC would share the port with another pool, and each get half of the calls
        raise JobError("the port is taken", value=port, remedy="give another --port")
    listening.bind(worker_pool_main, host)
    try:
        listening.check(host, port)
        served, server = WorkerPool.start(use_process=True, port=port)
    except (OSError, UnicodeError, RuntimeError) as error:
        raise JobError(
            f"cannot listen on port {port} there",
            value=host,
            expected="an address of this machine, such as 127.0.0.1",
            remedy="check --host and --port",
        ) from error
    ours, port = listening.is_loopback(host), int(served.rpartition(":")[2])  # which is chosen for a port 0
    address = f"{'localhost' if ours else host}:{port}"
    name = address if ours else f"{socket.gethostname()}:{port}"
    logger.info("workers: listening on %s; --environment_type EXTERNAL --environment_config %s", address, name)
    if not ours:
        logger.warning("workers: warning: whoever reaches %s runs any code as this user: nobody is asked", address)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as by Ctrl-C, children with it
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        server.stop(0)


def use_in_launcher() -> None:
    """Lets Beam's LOOPBACK start our pool in the launcher; Beam offers no setting for it."""
    worker_pool_main.BeamFnExternalWorkerPoolServicer = WorkerPool  # type: ignore[misc]


def _report_end(name: str, process: subprocess.Popen) -> None:
    code = process.wait()
    if code not in (0, -signal.SIGTERM):
        logger.info("workers: worker %s (process %d) ended with %d", name, process.pid, code)

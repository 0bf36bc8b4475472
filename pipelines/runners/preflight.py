"""Checks what must answer before a job is sent off. Beam itself waits for ever if one of these is missing.

A Flink cluster must have slots, a job server must accept calls, and a pool of external workers must be able to start
one: a pool whose `python` has no apache_beam accepts work and never does any.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import logging
import socket
import urllib.request
import uuid
from collections.abc import Callable

from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions, PortableOptions

from pipelines.runners.worker_pool import OURS
from rag_ops.errors import InputError, JobError

logger = logging.getLogger("ragbeam")
ANSWER_SECS = 15  # a server that is up answers within this
START_SECS = 40  # a worker's process, with its imports, starts within this
NO_CLUSTER = ("[auto]", "[local]", "[collection]")  # Beam starts one in the job server
STARTED_BY_BEAM = {"FlinkRunner": "Beam's job server for Flink", "PrismRunner": "Prism"}  # without --job_endpoint
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


def check(options: PipelineOptions, runner: str) -> None:
    """Checks all that `runner` depends on.

    Raises:
        JobError: something does not answer, or has no room for the job.
        InputError: an address is malformed.
    """
    portable = options.view_as(PortableOptions)
    task_managers = 1
    if runner == "FlinkRunner":
        flink = options.view_as(FlinkRunnerOptions)
        if flink.flink_master not in NO_CLUSTER:
            task_managers = check_flink(flink.flink_master, flink.parallelism)
    if runner in STARTED_BY_BEAM and not portable.job_endpoint:
        _warn_of(STARTED_BY_BEAM[runner])
    if portable.job_endpoint and portable.job_endpoint != "embed":
        check_job_server(portable.job_endpoint)
    if (portable.environment_type or "").upper() == "EXTERNAL":
        address = portable.environment_config or portable.lookup_environment_option("external_service_address")
        if not address:
            raise InputError(
                "--environment_type EXTERNAL names no worker pool",
                expected="--environment_config HOST:PORT",
                remedy="start one: ragbeam workers --port 50000",
            )
        if portable.job_endpoint == "embed" and address.rpartition(":")[0] not in LOCAL_HOSTS:
            raise InputError(
                "the embedded job service has workers on this machine alone, and the pool is on another",
                value=address,
                expected="localhost:PORT",
                remedy="start a job server of its own, and give its --job_endpoint",
            )
        check_worker_pool(address, task_managers)


@functools.cache
def _warn_of(server: str) -> None:
    logger.warning("%s listens on every address of this machine while a job runs: keep others from its ports", server)


def check_flink(master: str, parallelism: int) -> int:
    """Checks that a session cluster answers and has slots, one of them free; returns the number of task managers."""
    url = master if "://" in master else f"http://{master}"
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/overview", timeout=ANSWER_SECS) as reply:
            overview = json.load(reply)
        free, total = int(overview["slots-available"]), int(overview["slots-total"])
        task_managers = int(overview.get("taskmanagers", 1))
    except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
        raise JobError(
            f"the Flink cluster does not answer ({getattr(error, 'reason', error)})",
            value=master,
            expected="host:port of its REST interface",
            remedy="start the cluster, or check --flink_master",
        ) from error
    if not free or parallelism > total:
        raise JobError(
            "the Flink cluster has too few slots",
            value=f"{free} free of {total}",
            expected=f"{max(1, parallelism)} for the job",
            remedy="start task managers, wait for other jobs, or give a lower --parallelism",
        )
    return task_managers


def check_job_server(endpoint: str) -> None:
    """Checks that a job server accepts calls."""
    import grpc

    with grpc.insecure_channel(endpoint) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_SECS)
        except grpc.FutureTimeoutError as error:
            raise JobError(
                "the job server does not answer", value=endpoint, remedy="start it, or check --job_endpoint"
            ) from error


def described_flags(endpoint: str) -> set[str]:
    """The names of the flags that a job server has beside Beam's own, as it describes them.

    Raises:
        JobError: it does not answer.
    """
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

    check_job_server(endpoint)
    with grpc.insecure_channel(endpoint) as channel:
        service = beam_job_api_pb2_grpc.JobServiceStub(channel)
        try:
            reply = service.DescribePipelineOptions(
                beam_job_api_pb2.DescribePipelineOptionsRequest(), timeout=ANSWER_SECS
            )
        except grpc.RpcError as error:
            raise JobError("the job server does not say which flags it has", value=endpoint) from error
    return {option.name for option in reply.options}


@functools.cache
def check_worker_pool(address: str, task_managers: int = 1) -> None:
    """Checks that a pool of workers listens and, where it is on this machine, that a worker of it comes up.

    A pool that was found good once is not asked again by this process.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECS):
            pass
    except (OSError, ValueError) as error:
        raise JobError(
            f"the worker pool does not answer ({error})",
            value=address,
            expected="host:port of ragbeam workers",
            remedy="start it, or check --environment_config",
        ) from error
    if host in LOCAL_HOSTS:
        ours = probe(address)
        if ours is None:
            raise JobError(
                f"the worker pool starts no worker within {START_SECS} s",
                value=address,
                expected="a pool whose `python` has apache_beam and ragbeam",
                remedy="start it as: ragbeam workers --port " + port,
            )
        if not ours and task_managers > 1:
            logger.warning(
                "%d task managers may share Beam's own worker pool at %s, which can stop one's worker when another is "
                "done: ragbeam workers --port %s is a pool for several",
                task_managers,
                address,
                port,
            )


def probe(address: str) -> bool | None:
    """Asks a pool for a worker, waits until it calls back, and sends it away again.

    Returns whether the pool is ours; None if no worker came.
    """
    import grpc
    from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2

    worker = f"ragbeam-probe-{uuid.uuid4().hex[:8]}"
    with socket.socket() as listener, grpc.insecure_channel(address) as channel:
        listener.bind(("localhost", 0))
        listener.listen()
        listener.settimeout(START_SECS)
        here = endpoints_pb2.ApiServiceDescriptor(url=f"localhost:{listener.getsockname()[1]}")
        pool = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
        endpoints = {f"{name}_endpoint": here for name in ("control", "logging", "artifact", "provision")}
        try:
            request = beam_fn_api_pb2.StartWorkerRequest(worker_id=worker, **endpoints)
            reply, call = pool.StartWorker.with_call(request, timeout=ANSWER_SECS)
            if reply.error:
                return None
            ours = OURS in [tuple(pair) for pair in call.trailing_metadata()]
            listener.accept()[0].close()
        except (TimeoutError, grpc.RpcError):
            return None
        finally:
            with contextlib.suppress(grpc.RpcError):
                pool.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id=worker), timeout=ANSWER_SECS)
    return ours


def quiet_hang_up(hook: Callable[..., object]) -> Callable[..., object]:
    """A `threading.excepthook` that does not report what Beam's threads say when a portable job is over."""

    def report(arguments: object) -> object:
        code = getattr(getattr(arguments, "exc_value", None), "code", None)
        code = code() if callable(code) else None
        return None if getattr(code, "name", "") in ("CANCELLED", "UNAVAILABLE") else hook(arguments)

    return report

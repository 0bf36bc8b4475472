"""Where the gRPC servers that Beam starts in this process listen: on this machine alone.

Beam's listen on all addresses and ask nobody who calls; it has no setting for that. Whoever reaches the port of a
worker pool, or of a runner's control service, runs any code as this user.
"""

from __future__ import annotations

import ipaddress
import socket
import types
from typing import Any

LOOPBACK = "127.0.0.1"
EVERYWHERE = "[::]"  # what Beam's code binds


def bind(module: Any, host: str = LOOPBACK) -> None:
    """Has the servers that one of Beam's modules makes from now on listen on `host` where they would everywhere."""
    import grpc

    bracketed = f"[{host}]" if ":" in host else host

    def server(*arguments: Any, **settings: Any) -> grpc.Server:
        made = grpc.server(*arguments, **settings)
        add = made.add_insecure_port
        made.add_insecure_port = lambda address: add(address.replace(EVERYWHERE, bracketed))
        return made

    module.grpc = types.SimpleNamespace(**{**vars(grpc), "server": server})


def bind_launcher() -> None:
    """Has every server of a launcher's listen on this machine alone: those of LOOPBACK and of local workers."""
    from apache_beam.runners.portability import abstract_job_service, local_job_service
    from apache_beam.runners.portability.fn_api_runner import worker_handlers
    from apache_beam.runners.worker import worker_pool_main

    for module in (abstract_job_service, local_job_service, worker_handlers, worker_pool_main):
        bind(module)
    # The embedded job service gives its workers the machine's name in its network to call back.
    external: Any = worker_handlers.ExternalWorkerHandler
    external.host_from_worker = worker_handlers.GrpcWorkerHandler.host_from_worker


def check(host: str, port: int) -> None:
    """Binds a port of `host` and lets it go, for gRPC reports what it cannot bind in lines of its own, secrets and all.

    Raises:
        OSError, UnicodeError: it cannot be bound.
    """
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def is_loopback(host: str) -> bool:
    """Whether `host` is an address that this machine alone reaches.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Dataflow: what is refused before a job is sent, the defaults that suit our jobs, and our package for the workers."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence

from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, PipelineOptions, SetupOptions
from apache_beam.options.pipeline_options import WorkerOptions as BeamWorkerOptions

from pipelines.runners import staging
from pipelines.runners.resources import Resources
from rag_ops.errors import InputError
from rag_ops.storage import store

RUNNER = "DataflowRunner"
ONE_PROCESS = "no_use_multiple_sdk_containers"
# Beam copies all of its flags into the job, where whoever may look at the job reads them.
SECRETS = ("s3_access_key_id", "s3_secret_access_key", "s3_session_token", "azure_connection_string")


def defaults(arguments: Sequence[str], resources: Resources | None) -> dict[str, str]:
    """Flags that make our jobs run well, if the user gave none; `resources` are None for a job without a model."""
    # An element is a whole shard: each thread holds one. Beside a GPU a second thread moves data while one computes.
    chosen = {"number_of_worker_harness_threads": "2" if resources and resources.accelerator else "1"}
    if resources is not None:
        # Beam starts a process for each core; each would load the model, on one GPU all of them.
        experiments = PipelineOptions(list(arguments)).view_as(DebugOptions).experiments or []
        if "use_multiple_sdk_containers" not in experiments:
            chosen["experiments"] = ",".join([*experiments, ONE_PROCESS])
        chosen["disk_size_gb"] = "50"  # torch with CUDA takes 8 GB, beside it the model and an index shard in the cache
    return chosen


def check(arguments: Sequence[str], urls: Sequence[str], models: Sequence[str], resources: Resources) -> None:
    """Raises for what Dataflow's service or its workers cannot do.

    Raises:
        InputError: a flag is missing, two don't go together, a place is on this machine, or a flag holds a secret.
    """
    if importlib.util.find_spec("google.cloud") is None or importlib.util.find_spec("google.cloud.dataflow") is None:
        raise InputError("Dataflow's client is not installed", remedy="pip install 'ragbeam[gcp]'")
    options = PipelineOptions(list(arguments))
    cloud, given = options.view_as(GoogleCloudOptions), options.get_all_options(retain_unknown_options=True)
    for name, example in (("project", "my-project"), ("region", "europe-west4"), ("temp_location", "gs://bucket/tmp")):
        if not getattr(cloud, name):
            raise InputError(f"Dataflow needs --{name}", expected=f"such as --{name} {example}")
    for name in ("temp_location", "staging_location"):
        if (value := getattr(cloud, name)) and not value.startswith("gs://"):
            raise InputError(f"--{name} is not on Google's storage", value=value, expected="gs://bucket/folder")
    if secrets := [name for name in SECRETS if given.get(name)]:
        raise InputError(
            f"--{secrets[0]} would stand in the job for all to read", remedy="give the workers' service account access"
        )
    if options.view_as(SetupOptions).save_main_session:
        raise InputError("--save_main_session pickles the launcher", remedy="leave it out: ragbeam is staged whole")
    for url in urls:
        if store.is_local(url) or url.startswith("memory://"):
            raise InputError(
                "Dataflow's workers don't reach this machine", value=url, expected="a URL such as gs://bucket/folder"
            )
    for model in models:
        if (store.is_local(model) and os.path.isdir(store.filesystem(model)[1])) or model.startswith("memory://"):
            raise InputError(
                "the model lies on this machine, where Dataflow's workers don't see it",
                value=model,
                expected="a URL such as gs://bucket/model, or a hub id",
                remedy="copy the directory there",
            )
    if resources.hints() and cloud.flexrs_goal:
        raise InputError("--flexrs_goal does not go with --accelerator or --worker_memory", value=cloud.flexrs_goal)
    services = cloud.dataflow_service_options or []
    if resources.accelerator and any(service.startswith("worker_accelerator") for service in services):
        raise InputError(
            "worker_accelerator gives a GPU to every worker, and --accelerator to the model's",
            value=resources.accelerator,
            expected="one of them",
            remedy="leave --dataflow_service_options=worker_accelerator out",
        )


@contextlib.contextmanager
def staged(options: PipelineOptions) -> Iterator[None]:
    """Gives the workers our package while a job is sent, unless an image or a package of the user's has it.

    With it go the launcher's versions of what it needs, for pip on the workers.

    Raises:
        InputError: ragbeam is not installed here, so that its requirements are not known.
    """
    setup = options.view_as(SetupOptions)
    if options.view_as(BeamWorkerOptions).sdk_container_image or setup.setup_file or setup.extra_packages:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ragbeam-staged-") as directory:
        setup.extra_packages = [staging.write_wheel(directory)]
        if not setup.requirements_file:
            setup.requirements_file = staging.write_requirements(directory)
            setup.requirements_cache = "skip"  # else Beam downloads all of it here, to send it on
        yield

"""Runners by name, unknown flags, and failures as one line."""

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import StandardOptions

from pipelines.runners import launch
from rag_ops.errors import InputError, JobError


@pytest.mark.parametrize("arguments", [[], ["--runner=DirectRunner"], ["--runner", "DirectRunner"]])
def test_the_local_runner_is_beams_in_process_one(arguments):
    options = launch.pipeline_options(arguments)
    assert options.view_as(StandardOptions).runner == launch.LOCAL_RUNNER_CLASS


@pytest.mark.parametrize("name", ["FlinkRunner", "DataflowRunner", "PrismRunner", "PortableRunner"])
def test_other_runners_keep_their_name_and_their_flags(name):
    options = launch.pipeline_options([f"--runner={name}", "--a_flag_of_its_own=1"])
    assert options.view_as(StandardOptions).runner == name


def test_a_local_run_knows_its_flags():
    with pytest.raises(InputError, match="did you mean --direct_running_mode"):
        launch.pipeline_options(["--direct_runing_mode=in_memory"])


def run(function) -> None:
    launch.run(lambda pipeline: pipeline | beam.Create([1]) | beam.Map(function), [])


@pytest.mark.parametrize("kind", [InputError, JobError])
def test_a_workers_error_comes_out_as_it_was_raised(kind):
    def fail(_):
        raise kind("the row is bad", value="x", expected="y", remedy="mend it")

    with pytest.raises(kind) as caught:
        run(fail)
    assert str(caught.value) == "the row is bad: 'x'; expected y; mend it"


def test_another_failure_is_told_by_its_last_line():
    def fail(_):
        raise ValueError("first\nsecond")

    with pytest.raises(JobError, match="ValueError"):
        run(fail)


def test_counters_come_back():
    from pipelines.runners.counters import StepCounters

    def count(_):
        StepCounters("Step").add(rows_in=2, rows_out=1)

    metrics = launch.run(lambda pipeline: pipeline | beam.Create([1, 2, 3]) | beam.Map(count), [])
    assert metrics["Step"] == {"rows_in": 6, "rows_out": 3}


@pytest.mark.parametrize(
    ("name", "runner"),
    [
        ("flink", "FlinkRunner"),
        ("Prism", "PrismRunner"),
        ("dataflow", "DataflowRunner"),
        ("portable", "PortableRunner"),
    ],
)
def test_runners_have_short_names(name, runner):
    assert launch.pipeline_options(["--runner", name]).view_as(StandardOptions).runner == runner


def test_flinks_defaults_can_be_overruled():
    from apache_beam.options.pipeline_options import PortableOptions

    options = launch.pipeline_options(["--runner=FlinkRunner"])
    assert options.view_as(PortableOptions).environment_type == "LOOPBACK"
    assert options.view_as(PortableOptions).job_server_timeout == 60
    given = ["--runner=FlinkRunner", "--environment_type", "DOCKER", "--job_server_timeout=5"]
    options = launch.pipeline_options(given)
    assert options.view_as(PortableOptions).environment_type == "DOCKER"
    assert options.view_as(PortableOptions).job_server_timeout == 5

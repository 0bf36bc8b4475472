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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--runner=FlinkRunner", "--flink_master", "host:8081", "--parallelism", "4", "--object_reuse", "true"],
        ["--runner=FlinkRunner", "--max_bundle_size=7", "--environment_cache_millis", "5", "--state_backend=rocksdb"],
        ["--runner=DataflowRunner", "--dataflow_service_options=a=b", "--dataflow_service_options=c", "--region", "eu"],
        ["--runner=DataflowRunner", "--experiments=a", "--experiments=b,c", "--labels=x=y", "--no_use_public_ips"],
        ["--runner=PrismRunner", "--prism_location", "/prism", "--prism_location=/prism"],
        ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type", "EXTERNAL"],
        ["--direct_running_mode", "multi_processing", "--direct_num_workers", "2"],
    ],
)
def test_flags_of_a_runner_are_known_and_stay(arguments):
    launch.check(arguments if "Dataflow" not in arguments[0] else [], [])
    options = launch.pipeline_options(arguments)
    name = arguments[0].partition("=")[2] or launch.LOCAL_RUNNER_CLASS
    assert options.view_as(StandardOptions).runner == name
    assert {*arguments} <= {*options._flags}


@pytest.mark.parametrize("runner", [[], *(["--runner", name] for name in launch.NAMES)])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--a_flag_of_its_own=1"], "unknown flag: '--a_flag_of_its_own'; see --help"),
        (["--direct_runing_mode=in_memory"], "did you mean --direct_running_mode"),
        (["--num_shard", "4"], "unknown flag: '--num_shard'"),
        (["-n_docs", "3"], "unknown flag: '-n_docs'"),
        (["-parallelism", "3"], "unknown flag: '-parallelism'; did you mean --parallelism"),
        (["num_shards", "4"], "an argument belongs to no flag: 'num_shards'"),
        (["b.jsonl"], "an argument belongs to no flag: 'b.jsonl'"),
        (["--parallelism", "2", "b.jsonl"], "an argument belongs to no flag: 'b.jsonl'"),
        (["--streaming", "b.jsonl"], "an argument belongs to no flag: 'b.jsonl'"),
        (["--streaming=true"], "ignored explicit argument"),
        (["--parallelism", "two"], "invalid int value: 'two'"),
        (["--parallelism"], "expected one argument"),
        (["--direct_running_mode", "no_such"], "invalid choice: 'no_such'"),
        (["--"], "unknown flag: '--'"),
        (["--parallelism=2", "--parallelism", "3"], "--parallelism is given twice, with another value; give it once"),
        (["--s3_session_token=a", "--s3_session_token=b"], "--s3_session_token is given twice, with another value;"),
    ],
)
def test_what_nobody_consumes_is_refused(given, says, runner, capsys):
    for refuse in (lambda flags: launch.check(flags, []), launch.pipeline_options):
        with pytest.raises(InputError) as caught:
            refuse([*runner, *given])
        assert says in str(caught.value)
    assert not capsys.readouterr().err  # argparse itself would print the usage


@pytest.mark.parametrize("given", [["--parallelism=3", "--parallelism", "3"], ["--streaming", "--streaming"]])
def test_a_flag_of_beams_may_say_the_same_twice(given):
    launch.check(given, [])


def test_flinks_flags_are_of_flink_alone():
    for name in launch.beam_flags.FLINK:
        launch.check(["--runner=flink", f"--{name}=1"], [])
        with pytest.raises(InputError, match=f"unknown flag: '--{name}'"):
            launch.check([f"--{name}=1"], [])


def test_a_runner_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="unknown runner: 'FlinkRuner'; expected dataflow or direct or flink"):
        launch.check(["--runner", "FlinkRuner"], [])
    launch.check(["--runner", "apache_beam.runners.portability.fn_api_runner.FnApiRunner"], [])


def test_a_job_server_says_which_flags_it_has():
    from concurrent import futures

    import grpc
    from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

    class Service(beam_job_api_pb2_grpc.JobServiceServicer):
        def DescribePipelineOptions(self, request, context):  # noqa: N802 (as Beam names it)
            described = beam_job_api_pb2.PipelineOptionDescriptor(name="spilling")
            return beam_job_api_pb2.DescribePipelineOptionsResponse(options=[described])

    server = grpc.server(futures.ThreadPoolExecutor(1))
    beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    given = ["--runner", "portable", "--job_endpoint", f"localhost:{port}"]
    try:
        launch.check([*given, "--spilling", "much"], [])
        with pytest.raises(InputError, match="unknown flag: '--spiling'; did you mean --spilling"):
            launch.check([*given, "--spiling", "much"], [])
    finally:
        server.stop(None)


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

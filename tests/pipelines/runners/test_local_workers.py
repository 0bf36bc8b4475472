"""How many processes a local run takes, and which GPU each of them sees."""

import os

import apache_beam as beam
import pytest
import torch

from pipelines.runners import launch, local_workers
from pipelines.runners.resources import Resources
from pipelines.transforms import model_workers
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops import defaults, planning

TWO = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.mark.parametrize(
    ("arguments", "urls", "expected"),
    [
        ([], ["/data"], TWO),
        (["--runner=direct"], ["s3://bucket/data"], ["--runner=direct", *TWO]),
        (["--direct_num_workers=1"], [], ["--direct_num_workers=1"]),
        (["--direct_running_mode", "in_memory"], [], ["--direct_running_mode", "in_memory"]),
        (["--runner=flink"], [], ["--runner=flink"]),
        ([], ["/data", "memory://data"], []),
    ],
)
def test_processes_are_for_local_runs_without_flags_that_say_how_many(arguments, urls, expected):
    assert launch.spread(arguments, lambda: 2, urls) == expected
    assert launch.spread(arguments, lambda: 1, urls) == arguments


def test_nothing_is_counted_where_a_flag_says_it():
    launch.spread(["--direct_num_workers=4"], lambda: pytest.fail("counted"), [])
    launch.spread(["--runner=flink"], lambda: pytest.fail("counted"), [])


@pytest.mark.parametrize(
    ("arguments", "processes", "threads"),
    [
        ([], 1, 6),
        (TWO, 2, 3),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=9"], 9, 1),
        (["--direct_running_mode=multi_threading", "--direct_num_workers=3"], 1, 6),
        (["--runner=flink"], 1, defaults.THREADS),
    ],
)
def test_processes_share_the_cores(monkeypatch, arguments, processes, threads):
    monkeypatch.setattr(launch, "cores", lambda: 6)
    assert launch.processes_of(arguments) == processes
    assert launch.threads(arguments, None) == threads
    assert launch.threads(arguments, 5) == 5


@pytest.mark.parametrize(("free", "expected"), [(None, 4), (400, 4), (399, 3), (10, 1)])
def test_no_more_processes_than_fit_in_memory(monkeypatch, caplog, free, expected):
    monkeypatch.setattr(planning, "available_memory_bytes", lambda: free)
    with caplog.at_level("INFO", "ragbeam"):
        assert local_workers.affordable(4, 100) == expected
    said = [] if expected == 4 else [f"{expected} of 4 processes: each takes 100 B, and {free} B are free"]
    assert caplog.messages == said


@pytest.mark.parametrize(
    ("gpus", "given", "units", "threads", "expected"),
    [
        (0, {}, 100, None, 1),  # one process whose threads have all cores
        (0, {}, 100, 2, 4),
        (0, {}, 3, 2, 3),
        (0, {"threads": 4}, 100, 2, 1),
        (1, {}, 100, 2, 1),
        (3, {}, 100, None, 3),
        (3, {}, 2, None, 2),
        (3, {"device": "cpu"}, 100, None, 1),
        (3, {"device": "cpu"}, 100, 2, 4),
    ],
)
def test_models_have_a_process_for_each_gpu_or_for_some_cores(monkeypatch, gpus, given, units, threads, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(model_workers, "cores", lambda: 8)
    assert WorkerOptions(**given).processes(units, threads, lambda: 1.0) == expected


@pytest.mark.parametrize(("visible", "expected"), [(None, {"0", "1"}), ("GPU-b,7,2", {"GPU-b", "7"})])
def test_each_process_sees_a_gpu_of_its_own(monkeypatch, tmp_path, visible, expected):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    directory = str(tmp_path)

    def look(number):
        with open(os.path.join(directory, str(number)), "w") as file:
            file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))

    def build(pipeline):
        _ = pipeline | beam.Create(range(4), reshuffle=True) | beam.Map(look)

    launch.run(build, TWO, Resources())
    assert {path.read_text() for path in tmp_path.iterdir()} == expected

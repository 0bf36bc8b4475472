"""Two equal jobs at once where the file system has no locks: one whole result, and nothing else."""

from tests import warmed
from tests.end_to_end import kills

ROUNDS = 2


def test_two_equal_jobs_at_once_leave_one_whole_result(server, tmp_path):
    command = kills.prepare(tmp_path)
    job = kills.Job(command, server, tmp_path / "log")
    kills.finish(job, tmp_path / "alone", [])
    expected = kills.contents(tmp_path / "alone")
    for number in range(ROUNDS):
        workspace, logs = tmp_path / f"both{number}", [tmp_path / f"log{number}{name}" for name in "ab"]
        whole = [*command, "--workspace", str(workspace)]
        both = [warmed.start(server, whole, log, locks=False) for log in logs]
        codes = [process.wait() for process in both]
        said = [log.read_text() for log in logs]
        assert "Traceback" not in "".join(said), said
        assert codes == [0, 0], said
        assert kills.contents(workspace) == expected

"""The stage contract: whole or absent, reused by fingerprint, refused when it is another configuration's."""

import json

import pytest

from rag_ops.errors import InputError, JobError
from rag_ops.storage import store
from rag_ops.storage.manifests import check_unchanged, read_manifest
from rag_ops.storage.stages import StageOutput, finished_shards, is_finished, write_shard

NAMES = ["passages-00000-of-00002.parquet", "passages-00001-of-00002.parquet"]


def stage(url, *, words=100, digest="d1") -> StageOutput:
    return StageOutput(str(url), "chunk", {"words": words}, {"input": digest})


def write(output: StageOutput, name: str, content: bytes = b"rows") -> None:
    write_shard(output.url, name, output.fingerprint, lambda file: file.write(content))


def complete(output: StageOutput) -> None:
    output.begin(overwrite=False)
    for name in NAMES:
        write(output, name)
    output.finish(finished_shards(output.url), {"input": "/data/x.xml"}, {"articles": 2})


def test_a_finished_stage_reads_back_and_leaves_no_working_files(tmp_path):
    complete(stage(tmp_path))
    manifest = read_manifest(str(tmp_path), "chunk")
    assert [shard.path for shard in manifest.shards] == NAMES
    assert manifest.rows == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", *NAMES]


def test_the_same_stage_again_finds_itself_finished(tmp_path):
    complete(stage(tmp_path))
    assert stage(tmp_path).finished() is not None
    assert stage(tmp_path, words=50).finished() is None
    assert stage(tmp_path, digest="d2").finished() is None


def test_an_unfinished_stage_keeps_its_shards_for_the_next_run(tmp_path):
    output = stage(tmp_path)
    output.begin(overwrite=False)
    write(output, NAMES[0])
    assert list(stage(tmp_path).begin(overwrite=False)) == [NAMES[0]]
    with pytest.raises(InputError, match="unfinished"):
        read_manifest(str(tmp_path), "chunk")


def test_another_configuration_is_refused_with_what_differs(tmp_path):
    complete(stage(tmp_path))
    with pytest.raises(InputError, match=r"words 100 as it has, not 50.*--overwrite"):
        stage(tmp_path, words=50).begin(overwrite=False)
    assert stage(tmp_path).finished() is not None


def test_another_configuration_is_refused_before_the_stage_is_finished_too(tmp_path):
    output = stage(tmp_path)
    output.begin(overwrite=False)
    write(output, NAMES[0])
    with pytest.raises(InputError, match="words"):
        stage(tmp_path, words=50).begin(overwrite=False)


def test_a_job_that_made_nothing_leaves_the_directory_to_any_other(tmp_path):
    stage(tmp_path).begin(overwrite=False)
    (tmp_path / store.INCOMPLETE / "part.0123.tmp").write_bytes(b"left by a kill")
    assert stage(tmp_path, words=50).begin(overwrite=False) == {}
    assert not list(tmp_path.rglob("*.tmp"))
    with pytest.raises(InputError, match="unfinished"):
        read_manifest(str(tmp_path), "chunk")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_of_another_stage_or_with_other_files_is_refused_and_left_alone(tmp_path, overwrite):
    complete(stage(tmp_path / "passages"))
    other = StageOutput(str(tmp_path / "passages"), "index", {}, {})
    with pytest.raises(InputError, match=r"another stage's output.*chunk"):
        other.begin(overwrite=overwrite)
    assert stage(tmp_path / "passages").finished() is not None
    for number, name in enumerate(["notes.txt", NAMES[0], "manifest.json.bak", "folder"]):
        directory = tmp_path / f"own{number}"
        (directory / name).mkdir(parents=True) if name == "folder" else directory.mkdir()
        if name != "folder":
            (directory / name).write_text("mine")
        (directory / ".DS_Store").write_text("")
        with pytest.raises(InputError, match=rf"not its own \('{name}'\)"):
            stage(directory).begin(overwrite=overwrite)
        assert sorted(path.name for path in directory.iterdir()) == sorted([".DS_Store", name])


def test_a_file_put_into_a_finished_stage_is_refused_too(tmp_path):
    complete(stage(tmp_path))
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(InputError, match=r"report\.html"):
        stage(tmp_path, words=50).begin(overwrite=True)
    assert stage(tmp_path).finished() is not None


def test_overwrite_removes_the_old_shards(tmp_path):
    complete(stage(tmp_path))
    assert stage(tmp_path, words=50).begin(overwrite=True) == {}
    assert not (tmp_path / NAMES[0]).exists()


def test_changed_inputs_redo_shards_without_a_manifest_meanwhile(tmp_path):
    complete(stage(tmp_path))
    changed = stage(tmp_path, digest="d2")
    finished = changed.begin(overwrite=False)
    assert not (tmp_path / "manifest.json").exists()
    assert {record.fingerprint for record in finished.values()} == {stage(tmp_path).fingerprint}
    assert changed.fingerprint != stage(tmp_path).fingerprint


def test_a_shard_of_another_size_is_not_reused_and_not_read(tmp_path):
    complete(stage(tmp_path))
    (tmp_path / NAMES[1]).write_bytes(b"row")
    with pytest.raises(InputError, match="3 bytes instead of 4"):
        read_manifest(str(tmp_path), "chunk")
    assert stage(tmp_path).finished() is None
    assert list(stage(tmp_path).begin(overwrite=False)) == [NAMES[0]]


def test_a_missing_shard_is_named(tmp_path):
    complete(stage(tmp_path))
    (tmp_path / NAMES[0]).unlink()
    with pytest.raises(InputError, match=NAMES[0]):
        read_manifest(str(tmp_path), "chunk")


def test_a_cut_record_does_not_count(tmp_path):
    output = stage(tmp_path)
    output.begin(overwrite=False)
    write(output, NAMES[0])
    record = tmp_path / store.INCOMPLETE / f"{NAMES[0]}.record.json"
    record.write_text(record.read_text()[:20])
    assert stage(tmp_path).begin(overwrite=False) == {}


def test_shards_that_are_no_longer_wanted_go(tmp_path):
    output = stage(tmp_path)
    output.begin(overwrite=False)
    write(output, "stale.parquet")
    write(output, NAMES[0])
    output.finish([record for record in finished_shards(output.url) if record.path == NAMES[0]], {}, {})
    assert not (tmp_path / "stale.parquet").exists()


@pytest.mark.parametrize(
    ("text", "message"), [("{}", "schema_version"), ('{"schema_version": 7}', "7"), ("garbage", "not JSON")]
)
def test_a_bad_manifest_is_one_clear_error(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(str(tmp_path), "chunk")


def test_the_manifest_of_another_stage_is_refused(tmp_path):
    complete(stage(tmp_path))
    with pytest.raises(InputError, match=r"another stage"):
        read_manifest(str(tmp_path), "embed")


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        read_manifest(str(tmp_path / "none"), "chunk")


def test_abandoning_an_empty_stage_leaves_no_directory(tmp_path):
    output = stage(tmp_path / "out")
    output.begin(overwrite=False)
    output.abandon()
    assert not (tmp_path / "out").exists()


def test_abandoning_keeps_finished_shards(tmp_path):
    output = stage(tmp_path)
    output.begin(overwrite=False)
    write(output, NAMES[0])
    output.abandon()
    assert (tmp_path / NAMES[0]).exists()
    assert len(finished_shards(str(tmp_path))) == 1


def test_inputs_in_the_same_workspace_are_relative(tmp_path):
    output = StageOutput(str(tmp_path / "embeddings"), "embed", {}, {})
    output.begin(overwrite=False)
    output.finish([], {"passages": str(tmp_path / "passages")}, {})
    text = (tmp_path / "embeddings" / "manifest.json").read_text()
    assert json.loads(text)["inputs"] == {"passages": "../passages"}


def test_a_shard_that_a_killed_run_could_not_note_goes(tmp_path):
    output = stage(tmp_path)
    output.begin(overwrite=False)
    for name in NAMES:
        write(output, name)
    (tmp_path / "passages-00003-of-00004.parquet").write_bytes(b"orphan")
    (tmp_path / "notes.txt").write_bytes(b"somebody's own")
    output.finish(finished_shards(output.url), {}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "notes.txt", *NAMES]


def test_working_files_that_a_kill_left_beside_a_manifest_go(tmp_path):
    complete(stage(tmp_path))
    (tmp_path / store.INCOMPLETE).mkdir()
    (tmp_path / store.INCOMPLETE / "x.tmp").touch()
    assert stage(tmp_path).finished() is not None
    stage(tmp_path).tidy()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", *NAMES]


def test_a_damaged_shard_is_redone_when_digests_are_compared(tmp_path):
    complete(stage(tmp_path))
    (tmp_path / NAMES[1]).write_bytes(b"rowz")
    assert stage(tmp_path).finished() is not None
    assert stage(tmp_path).finished(verify=True) is None
    output = stage(tmp_path)
    assert list(output.begin(overwrite=False, verify=True)) == [NAMES[0]]
    assert not is_finished(output.url, NAMES[1], output.fingerprint)
    assert is_finished(output.url, NAMES[0], output.fingerprint)


def test_a_job_whose_directory_another_has_taken_over_does_not_finish(tmp_path):
    """Where nothing can be locked: the second job, with other settings and --overwrite, has begun meanwhile."""
    first, second = stage(tmp_path), stage(tmp_path, words=50)
    first.begin(overwrite=False)
    write(first, NAMES[0])
    second.begin(overwrite=True)
    with pytest.raises(JobError, match="another job has taken over"):
        first.finish(finished_shards(first.url), {}, {})
    assert not (tmp_path / "manifest.json").exists()


def test_an_input_that_changes_meanwhile_is_told(tmp_path):
    complete(stage(tmp_path))
    read = read_manifest(str(tmp_path), "chunk")
    check_unchanged(str(tmp_path), read)
    stage(tmp_path, digest="d2").begin(overwrite=False)
    with pytest.raises(JobError, match=r"changed while it was read.*unfinished"):
        check_unchanged(str(tmp_path), read)

"""Files of passages' keys and values: none is wrong, none of another kind goes, and a directory keeps to its limit."""

import os
import random
import threading
from pathlib import Path

import pytest
import torch

from rag_ops.errors import JobError
from rag_ops.generation import passage_files
from rag_ops.generation.passage_files import NAME, PassageFiles
from rag_ops.storage import locks, store

TOKENS, MANY = 3, 1 << 30


def states(number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two layers that no other number has."""
    return [
        (torch.full((2, TOKENS, 4), 10.0 * number + n), torch.full((2, TOKENS, 4), -number - n)) for n in (0.0, 1.0)
    ]


def opened(directory: object, most_bytes: int = MANY, identity: str = "model") -> PassageFiles:
    return PassageFiles(str(directory), identity, "cpu", most_bytes)


def holds(files: PassageFiles, number: int) -> bool:
    """Whether there is a file of a number; what it gives must be right."""
    found = files.read([number], TOKENS)
    if found is not None:
        expected = states(number)
        assert all(
            torch.equal(a, b) for one, two in zip(found, expected, strict=True) for a, b in zip(one, two, strict=True)
        )
    return found is not None


def sizes(directory: Path) -> list[int]:
    return [path.stat().st_size for path in directory.glob("passage-*")]


@pytest.fixture
def one(tmp_path) -> tuple[PassageFiles, Path]:
    """A directory with a file, and its path."""
    files = opened(tmp_path)
    files.write([1], states(1))
    [path] = tmp_path.glob("passage-*")
    assert NAME.fullmatch(path.name)
    assert holds(files, 1)
    return files, path


def test_a_file_with_any_byte_changed_or_missing_is_none(one):
    files, path = one
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert files.read([1], TOKENS) is None, place
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert files.read([1], TOKENS) is None, length
    path.write_bytes(whole + b"\0")
    assert files.read([1], TOKENS) is None
    files.write([1], states(1))
    assert holds(files, 1)


def test_a_file_of_another_passage_model_or_length_is_none(one, tmp_path):
    files, path = one
    files.write([2], states(2))
    [other] = {*tmp_path.glob("passage-*")} - {path}
    other.write_bytes(path.read_bytes())
    assert files.read([2], TOKENS) is None
    assert opened(tmp_path, identity="another").read([1], TOKENS) is None
    assert files.read([1], TOKENS + 1) is None
    path.unlink()
    path.mkdir()
    assert files.read([1], TOKENS) is None
    with pytest.raises(JobError, match="cannot write"):
        files.write([1], states(1))


def test_those_unused_for_longest_go_and_nothing_else(one, tmp_path):
    length = one[1].stat().st_size
    (tmp_path / "passage-notes.states").write_bytes(b"x" * 10 * length)
    (tmp_path / "passages").mkdir()
    files = opened(tmp_path, 8 * length)
    for number in range(1, 8):
        files.write([number], states(number))
    for age, number in enumerate((3, 1, 5, 7, 6, 4, 2)):  # in this order they were used
        assert holds(files, number)
        os.utime(tmp_path / files._name([number]), (age, age))
    files.write([8], states(8))
    assert not files._is_full
    files.write([9], states(9))
    assert [number for number in range(1, 10) if holds(files, number)] == [2, 4, 5, 6, 7, 8, 9]
    assert (tmp_path / "passage-notes.states").stat().st_size == 10 * length
    assert {path.name for path in tmp_path.iterdir() if not NAME.fullmatch(path.name)} == {
        *("passage-notes.states", "passages", "_incomplete")
    }


def test_what_is_larger_than_the_limit_is_not_written(one, tmp_path):
    length = one[1].stat().st_size
    files = opened(tmp_path / "other", length - 1)
    files.write([1], states(1))
    assert not holds(files, 1)
    assert not [*(tmp_path / "other").glob("passage-*")]


def test_a_directory_that_cannot_be_tidied_gets_no_more(one, tmp_path, monkeypatch, caplog):
    length = one[1].stat().st_size
    for number in range(2, 7):
        one[0].write([number], states(number))

    def refuse(url: str) -> None:
        raise PermissionError(url)

    monkeypatch.setattr(store, "remove", refuse)
    files = opened(tmp_path, 5 * length)
    for number in range(10, 20):
        files.write([number], states(number))
    assert len(sizes(tmp_path)) == 6
    assert caplog.text.count("gets no more") == 1


def test_what_killed_jobs_left_half_written_goes_and_what_others_write_stays(tmp_path):
    left = tmp_path / "_incomplete" / f"{PassageFiles._name(opened(tmp_path), [5])}.0f.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    held = left.with_name("passage-held.tmp")
    with locks.temporary_file(str(held), str(tmp_path / "passage-held")):
        opened(tmp_path).write([1], states(1))
        assert held.exists()
    assert not left.exists()


def test_jobs_at_once_read_nothing_wrong_and_keep_to_the_limit_but_for_their_shares(one, tmp_path):
    length, jobs, numbers, wrong = one[1].stat().st_size, 4, 40, []
    limit, most, right = 16 * length, [0], [0]

    def work(seed: int) -> None:
        files, chosen = opened(tmp_path, limit), random.Random(seed)
        try:
            for _ in range(150):
                number = chosen.randrange(numbers)
                if holds(files, number):
                    right[0] += 1
                else:
                    files.write([number], states(number))
                most[0] = max(most[0], len([*tmp_path.glob("passage-*")]) * length)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert right[0] > 50
    share = limit * passage_files.LOOK + length  # a job's, with the file that it writes just now
    assert 8 * length < most[0] <= limit + jobs * share
    assert [*(tmp_path / "_incomplete").iterdir()] == []


def test_any_filesystem_will_do():
    url = "memory://passage-files"
    one = opened(url)
    one.write([1], states(1))
    length = store.size_bytes(store.join(url, one._name([1])))
    files = opened(url, 4 * length)
    for number in range(2, 7):
        files.write([number], states(number))
    assert [number for number in range(1, 7) if holds(files, number)] == [3, 4, 5, 6]
    store.remove(url)

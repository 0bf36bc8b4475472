"""Kill -9 at four moments of a whole run; `python -m tests.end_to_end.kills` does more."""

from tests.end_to_end import kills


def test_the_same_command_finishes_what_was_killed_to_the_same_bytes(server, tmp_path):
    done = kills.run(tmp_path, server, kills=4, seed=1)
    assert len(done) == 4
    assert [kill.differences for kill in done] == [()] * 4
    assert len({kill.stage for kill in done}) > 1

"""A checkpoint of DPR's training code is refused as what it is, wherever a model is expected, and never unpickled."""

import collections
import pickle

import pytest
import torch

from rag_ops.errors import InputError
from rag_ops.models import checkpoints, dpr_checkpoints
from tests.pipelines.workspace import fails

State = collections.namedtuple("State", "model_dict optimizer_dict scheduler_dict offset epoch encoder_params")


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def save(path, zipped: bool) -> None:
    """What DPR's trainer saves: both encoders under one dictionary, and something that must not be unpickled."""
    weights = {f"{side}_model.embeddings.weight": torch.zeros(3, 2) for side in ("question", "ctx")}
    state = State(weights, {"state": Trap()}, {}, 0, 39, {"pretrained_model_cfg": "bert-base-uncased"})
    torch.save(dict(state._asdict()), path, _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_dprs_code_is_named_with_how_to_convert_it(tmp_path, zipped):
    save(tmp_path / "dpr_biencoder.ckpt", zipped)
    for given in (tmp_path / "dpr_biencoder.ckpt", tmp_path):
        with pytest.raises(InputError, match=r"DPR's own training code.*convert_dpr_original_checkpoint_to_pytorch"):
            checkpoints.find_model(str(given))


def test_commands_say_so_in_one_line(tmp_path, capsys):
    save(tmp_path / "dpr_biencoder.ckpt", True)
    code, line = fails(capsys, "plan", "--num_passages", 10, "--encoder", tmp_path / "dpr_biencoder.ckpt")
    assert code == 2
    assert "checkpoint of DPR's own training code" in line


def test_any_other_file_is_no_directory(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "other.pt").write_bytes(pickle.dumps({"model": 1}))
    for name in ("model.safetensors", "other.pt"):
        assert not dpr_checkpoints.is_dpr_checkpoint(str(tmp_path / name))
        with pytest.raises(InputError, match=r"the model is a file: .*give the directory that it lies in"):
            checkpoints.find_model(str(tmp_path / name))
    with pytest.raises(InputError, match="the model directory has no config"):
        checkpoints.find_model(str(tmp_path))

"""DPR's own checkpoint, such as dpr_biencoder.ckpt, known by its first bytes: nothing in it is unpickled."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from rag_ops.errors import InputError

LOOKED_AT = 1 << 20  # bytes of a file: keys of the outermost dictionary stand at its beginning
KEYS = (b"model_dict", b"encoder_params")  # of DPR's CheckpointState (Karpukhin et al. 2020, dpr/utils/model_utils.py)
SUFFIXES = (".ckpt", ".cp", ".pt", ".pth", ".bin")
REMEDY = (
    "write each half of its model_dict as a Hugging Face directory with the script convert_dpr_original_checkpoint_to_"
    "pytorch of transformers 4 (--type ctx_encoder, question_encoder), or take facebook/dpr-*-single-nq-base"
)


def refuse_file(path: str, name: str) -> None:
    """Raises the error for a file that was given in place of a model directory; it names what the file is.

    Args:
        path: local path of the file.
        name: path or URL as the user gave it.

    Raises:
        InputError: always.
    """
    if is_dpr_checkpoint(path):
        raise InputError(
            "the model is a checkpoint of DPR's own training code: two encoders, without configuration or tokenizer",
            value=name,
            expected="a directory with config.json",
            remedy=REMEDY,
        )
    raise InputError(
        "the model is a file",
        value=name,
        expected="a directory with config.json, an fsspec URL of one, or a hub id",
        remedy="give the directory that it lies in",
    )


def find_in(directory: str) -> str | None:
    """A checkpoint of DPR's own code in a local directory; None if there is none."""
    paths = (os.path.join(directory, name) for name in sorted(os.listdir(directory)))
    return next((path for path in paths if os.path.isfile(path) and is_dpr_checkpoint(path)), None)


def is_dpr_checkpoint(path: str) -> bool:
    """Whether a local file is what DPR's training code saves, in torch's zip format or the one before it."""
    if not (path.endswith(SUFFIXES) or Path(path).name.startswith("dpr_")):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                start = file.read()
    except (zipfile.BadZipFile, StopIteration, OSError):
        with open(path, "rb") as file:
            start = file.read(LOOKED_AT)
    return all(key in start for key in KEYS)

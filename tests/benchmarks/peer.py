"""sentence-transformers as a peer, in a process and mostly a virtual environment of its own: a command a line on stdin.

Run by that environment's Python, so it imports nothing of this project. First it reads a JSON object: model, backend
("openvino" or "torch"), precisions ("bf16", "int8", "f32"), threads, batch, calibration (pairs that int8's scales come
from), pairs. It answers "ready", then each precision with the seconds that it took to encode all pairs; "save PRECISION
PATH" writes its vectors.
"""

import contextlib
import json
import os
import sys
import tempfile
import time

COMMANDS = sys.stdin
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print is no answer


def main() -> None:
    """Answers commands until their end."""
    settings = json.loads(COMMANDS.readline())
    import torch

    torch.set_num_threads(settings["threads"])
    with tempfile.TemporaryDirectory() as directory:
        models = {one: load(settings, one, directory) for one in settings["precisions"]}
        pairs = [tuple(pair) for pair in settings["pairs"]]
        vectors = {}
        answer("ready")
        for line in COMMANDS:
            words = line.split()
            if words[0] == "save":
                import numpy

                numpy.save(words[2], vectors[words[1]])
                answer("saved")
                continue
            started = time.perf_counter()
            vectors[words[0]] = models[words[0]].encode(
                pairs, batch_size=settings["batch"], normalize_embeddings=True, show_progress_bar=False
            )
            answer(str(time.perf_counter() - started))


def answer(line: str) -> None:
    """Writes a line."""
    print(line, file=ANSWERS, flush=True)


def load(settings: dict, precision: str, directory: str) -> object:
    """The model in one precision."""
    from sentence_transformers import SentenceTransformer

    if settings["backend"] == "torch":
        return SentenceTransformer(settings["model"], device="cpu")
    exported = os.path.join(directory, "exported")
    if not os.path.exists(exported):
        SentenceTransformer(settings["model"], backend="openvino").save_pretrained(exported)
    folder = exported
    if precision == "int8":
        folder = os.path.join(directory, "int8")
        quantise(settings, exported, folder)
    hints = {"bf16": "bf16", "int8": "bf16", "f32": "f32"}
    config = {"INFERENCE_PRECISION_HINT": hints[precision], "INFERENCE_NUM_THREADS": str(settings["threads"])}
    return SentenceTransformer(folder, backend="openvino", model_kwargs={"ov_config": config})


def quantise(settings: dict, exported: str, folder: str) -> None:
    """Static int8 by NNCF, as sentence-transformers exports it, with scales from our pairs in place of a download."""
    import shutil

    import nncf
    import openvino
    from transformers import AutoTokenizer

    shutil.copytree(exported, folder)
    path = next(
        os.path.join(place, name) for place, _, names in os.walk(folder) for name in names if name.endswith(".xml")
    )
    core = openvino.Core()
    model = core.read_model(path)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    names = {name for port in model.inputs for name in port.get_names()}

    def inputs(pair: list) -> dict:
        encoded = tokenizer(pair[0], pair[1], truncation=True, max_length=256, return_tensors="np")
        return {name: encoded[name] for name in encoded if name in names}

    data = nncf.Dataset(settings["calibration"], inputs)
    narrow = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(settings["calibration"]))
    del model
    openvino.save_model(narrow, path + ".new.xml", compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        os.replace(path + ".new" + suffix, path.removesuffix(".xml") + suffix)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()

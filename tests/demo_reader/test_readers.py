"""The table of readers, at toy size and of the demo's own reader alone: SmolLM2 comes with a package."""

import json

from pipelines.demo import command
from rag_ops.models import checkpoints
from tests.demo_reader import readers
from tests.demo_reader.reading import Sample, held_out

ANSWERS = ("Lisbon", "1812", "copper", "Ada Holt")
QUESTIONS = ("where was she born", "when was she born", "what did she study", "who was she")


def samples() -> list[Sample]:
    """Questions about articles that are held out."""
    titles = [title for title in (f"Ada Holt of {n}" for n in range(200)) if held_out(title)][:3]
    text = "Ada Holt was born in Lisbon in 1812 and studied the smelting of copper for all of her life."
    return [
        Sample(title, text, question, (answer,))
        for title in titles
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
    ]


def test_the_table_of_readers_at_toy_size(tmp_path, minilm, monkeypatch):
    asked = samples()
    dump = tmp_path / "dump.jsonl"
    dump.write_text(json.dumps({"id": "1", "title": "Ada Holt", "text": asked[0].text}) + "\n")
    questions = tmp_path / "demo.jsonl"
    questions.write_text(json.dumps({"id": "1", "question": "where was ada holt born", "answer": ["Lisbon"]}) + "\n")
    monkeypatch.setattr(command, "QUESTIONS", str(questions))
    table = readers.Table(tmp_path / "table", asked, gold=4, retrieved=3, dumps=[str(dump)])
    [own] = [one for one in readers.READERS if one.name == "own"]
    row = table.row(own)
    assert row.keys() == {"gold", "retrieved", "seconds", "demo"}
    assert 0 < row["gold"] <= 1
    assert row["demo"] == 1.0
    assert row["seconds"] > 0
    assert checkpoints.trained_sha256(str(tmp_path / "table" / "readers" / "own" / "reader" / command.MODEL))

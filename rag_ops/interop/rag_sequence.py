"""RAG-Sequence as transformers' documentation page shows it, with the import line changed.

    from rag_ops import RagSequenceForGeneration

A thin subclass of transformers' own: forward and loss are its, and `generate` gives its sequences, but encodes a
question's contexts once where that encodes them again for every hypothesis.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor

from rag_ops.errors import InputError
from rag_ops.interop.model_card import OurRagModel
from rag_ops.models import checkpoints


class RagSequenceForGeneration(OurRagModel, transformers.RagSequenceForGeneration):
    """Transformers' model, with any question encoder that ragbeam knows: the configuration says how it pools."""

    ARCHITECTURE = checkpoints.RAG_SEQUENCE

    def __init__(self, config: Any = None, question_encoder: Any = None, generator: Any = None, **options: Any):
        super().__init__(config, question_encoder, generator, **options)
        inner: Any = self.config.generator
        if not hasattr(inner, "bos_token_id"):  # a T5's, for which the loss asks
            inner.bos_token_id = None

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        context_input_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        doc_scores: Tensor | None = None,
        do_deduplication: bool | None = None,
        num_return_sequences: int | None = None,
        num_beams: int | None = None,
        n_docs: int | None = None,
        **model_kwargs: Any,
    ) -> Any:
        """Thorough decoding: the sequences of transformers' method, int64 (questions * num_return_sequences, tokens).

        Where that method goes wrong, this one doesn't: hypotheses attend to no padding, which transformers 5 lets its
        generator see, and `n_docs` counts for their scores too.

        Args:
            input_ids, attention_mask: questions, for the retriever; int64 (questions, tokens).
            context_input_ids, context_attention_mask: contexts, int64 (questions * n_docs, tokens), instead.
            doc_scores: scores of these, float (questions, n_docs).
            do_deduplication: whether a sequence is returned once; it is scored once in either case.
            num_return_sequences: sequences of each question; as the configuration has it by default, else 1.
            num_beams: beams for each passage, likewise.
            n_docs: passages of each question; by default as the configuration has it.
            model_kwargs: what the generator's own `generate` takes.

        Raises:
            InputError: there is neither a retriever for `input_ids`, nor all three of the contexts; or a question has
                fewer different hypotheses than sequences are to be returned.
        """
        n_docs = n_docs if n_docs is not None else self.config.n_docs
        unique = do_deduplication if do_deduplication is not None else self.config.do_deduplication
        count = num_return_sequences or getattr(self.config, "num_return_sequences", None) or 1
        beams = num_beams or getattr(self.config, "num_beams", None) or 1
        if context_input_ids is None and input_ids is not None and self.retriever is not None:
            found = self._retrieved(input_ids, attention_mask, n_docs)
            context_input_ids, context_attention_mask, doc_scores = found
        if context_input_ids is None or context_attention_mask is None or doc_scores is None:
            raise InputError(
                "generate has no contexts",
                expected="input_ids and a retriever, or context_input_ids, context_attention_mask and doc_scores",
                remedy="set_retriever, or give all three",
            )
        best = []
        for ids, mask, scores in _questions(context_input_ids, context_attention_mask, doc_scores, n_docs):
            given, losses, places = self._hypotheses(ids, mask, scores, beams, model_kwargs)
            ranked = losses if unique else losses[places]
            if count > len(ranked):
                raise InputError(
                    "num_return_sequences is more than a question has hypotheses",
                    value=count,
                    expected=f"at most {len(ranked)}",
                    remedy="raise num_beams",
                )
            chosen = (-ranked).topk(count)[1]
            best.append(given[chosen if unique else places[chosen]])
        inner: Any = self.config.generator
        return self._cat_and_pad(best, pad_token_id=inner.pad_token_id)

    def _retrieved(self, input_ids: Tensor, mask: Tensor | None, n_docs: int) -> tuple[Tensor, Tensor, Tensor]:
        """Contexts of questions, their mask and their scores, as `generate` takes them."""
        vectors = self.question_encoder(input_ids, attention_mask=mask)[0]
        prefix = getattr(self.generator.config, "prefix", None)
        asked = vectors.detach().to("cpu", torch.float32).numpy()
        found = self.retriever(input_ids, asked, prefix=prefix, n_docs=n_docs, return_tensors="pt")
        passages = found["retrieved_doc_embeds"].to(vectors)
        scores = torch.bmm(vectors[:, None], passages.transpose(1, 2))[:, 0]
        return found["context_input_ids"].to(input_ids), found["context_attention_mask"].to(input_ids), scores

    def _hypotheses(
        self, ids: Tensor, mask: Tensor, scores: Tensor, beams: int, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a question's passages give: the different hypotheses, their losses, and which of them each beam is.

        Args:
            ids, mask: contexts, (n_docs, tokens).
            scores: their scores, (1, n_docs).
            beams: beams for each.
            options: what the generator's `generate` takes.
        """
        read = self.generator.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True)
        states, kind = read.last_hidden_state, type(read)
        searched = self.generator.generate(
            ids,
            attention_mask=mask,
            encoder_outputs=kind(last_hidden_state=states),  # which `generate` changes
            **{**options, "num_beams": beams, "num_return_sequences": beams},
        )
        numbers: dict[tuple[int, ...], int] = {}
        places = [numbers.setdefault(tuple(row), len(numbers)) for row in searched.tolist()]
        given = searched.new_tensor(list(numbers))
        docs, several = len(ids), len(given)
        logits = self.generator(
            encoder_outputs=kind(last_hidden_state=states.repeat(several, 1, 1)),
            attention_mask=mask.repeat(several, 1),
            decoder_input_ids=given.repeat_interleave(docs, 0),
            use_cache=False,
        ).logits
        losses = self.get_nll(
            logits,
            scores.repeat(several, 1),
            given,
            epsilon=self.config.label_smoothing,
            exclude_bos_score=True,
            n_docs=docs,
        )
        return given, losses, torch.tensor(places, device=given.device)


def _questions(ids: Tensor, mask: Tensor, scores: Tensor, n_docs: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Contexts, their mask and their scores, of one question after the other."""
    for number in range(len(scores)):
        part = slice(number * n_docs, (number + 1) * n_docs)
        yield ids[part], mask[part], scores[number : number + 1]

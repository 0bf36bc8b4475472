"""How a warm-started BART learns to copy: heads that teach its encoder, from which its last cross-attention starts.

An encoder of sentences forgets in its upper layers which token a state stands on (of 100 tokens in a row a linear map
finds 68 of 100) and hardly knows the one before (12 of 100). A decoder that copies needs both, and where the answer
begins. So these are learned first, at every place of a context, by the very maps that the decoder will have.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.nn import functional

from tests.demo_reader.reading import Batch

COPY_GAIN = 40.0  # a word's embedding has length 1, the state that the copied one is added to about 10
OWN_PLACES = 1024  # of a batch, whose own token is asked for
PREVIOUS_PLACES = 24  # of a context, whose previous token is asked for
NEVER = -1e4


class PointerHeads(torch.nn.Module):
    """Maps of the encoder's states, as the last cross-attention will have them.

    Attributes:
        value: a state to the embedding of its own token.
        key: a state to what queries look for.
        token_query: a token's whitened embedding to the query for the place after it.
        start_query: the query for an answer's first token.
        span: a state to the scores of being an answer's first and last token.
    """

    def __init__(self, embeddings: torch.Tensor, heads: int):
        super().__init__()
        width = embeddings.shape[1]
        self._heads = heads
        self.value, self.key = torch.nn.Linear(width, width), torch.nn.Linear(width, width)
        self.token_query = torch.nn.Linear(width, width)
        self.start_query = torch.nn.Parameter(0.1 * torch.randn(width))
        self.span = torch.nn.Linear(width, 2)
        self._embeddings = embeddings
        self._whitened = whitened(embeddings)

    def query(self, tokens: torch.Tensor) -> torch.Tensor:
        """(…, width) of token ids (…)."""
        return self.token_query(self._whitened[tokens])

    def losses(self, states: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean cross entropies: the answer's ends by `span`, its start by `key`, a place's own and previous token."""
        hidden = batch.ids == 0
        start, _ = ends(batch)
        keys = self._split(self.key(states))
        begin = torch.einsum("hd,bnhd->bhn", self._split(self.start_query), keys) * self._scale
        told = batch.told & start.any(-1)
        return {
            "span": self.span_loss(states, batch),
            "start": _on(_distribution(begin, hidden[:, None])[told].flatten(0, 1), _each(start, self._heads)[told]),
            "previous": self._previous(keys, batch.ids),
            "own": self._own(states, batch.ids),
        }

    def span_loss(self, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean cross entropy of the answer's first and last place by `span`."""
        start, end = ends(batch)
        scores = _distribution(self.span(states).transpose(1, 2), (batch.ids == 0)[:, None])
        return (_on(scores[:, 0], start) + _on(scores[:, 1], end)) / 2

    def _own(self, states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The own tokens of some places, told from all tokens of the batch."""
        known = (ids != 0).nonzero()
        rows, places = known[torch.randperm(len(known))[:OWN_PLACES]].unbind(-1)
        among, wanted = ids[rows, places].unique(return_inverse=True)
        copied = functional.layer_norm(self.value(states[rows, places]), states.shape[-1:])
        return functional.cross_entropy((copied @ self._embeddings[among].T).float(), wanted)

    def _previous(self, keys: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The places after some tokens, told from all places of the context, by each head."""
        shortest = int((ids != 0).sum(1).min())
        before = torch.randperm(shortest - 1)[:PREVIOUS_PLACES]
        tokens = ids[:, before]
        scores = torch.einsum("bqhd,bnhd->bhqn", self._split(self.query(tokens)), keys) * self._scale
        same = functional.pad(ids[:, None, :-1] == tokens[..., None], (1, 0)) & (ids != 0)[:, None]
        log_probs = _distribution(scores, (ids == 0)[:, None, None])
        return _on(log_probs.flatten(0, 2), same[:, None].expand_as(scores).flatten(0, 2))

    def _split(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.unflatten(-1, (self._heads, -1))

    @property
    def _scale(self) -> float:
        return (self.start_query.shape[0] / self._heads) ** -0.5


def ends(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the answer begins and ends, bool (samples, places); both are the context's last place if it has none."""
    rows = torch.arange(len(batch.ids))
    final = torch.zeros_like(batch.ids, dtype=torch.bool)
    final[rows, (batch.ids != 0).sum(1) - 1] = True
    last_token = ((batch.labels != 0).sum(1) - 3).clamp_min(0)
    absent = ~batch.told[:, None]
    return (batch.looks[:, 0] | (final & absent)), (batch.looks[rows, last_token] | (final & absent))


def whitened(embeddings: torch.Tensor) -> torch.Tensor:
    """Embeddings of mean 0 and unit covariance, turned at random so that each head sees some of every direction."""
    centred = embeddings - embeddings.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(centred.T))
    turn, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(0)))
    return centred @ (vectors / values.clamp_min(1e-6).sqrt()) @ turn


class Copier:
    """The last cross-attention of a BART, which is to copy words: starts from what the heads learned; watched."""

    def __init__(self, model: Any):
        self._layer = model.model.decoder.layers[-1]
        attention = self._layer.encoder_attn
        attention.config = copy.deepcopy(model.config)
        attention.config._attn_implementation = "eager"  # the fused kernels give no weights
        attention.register_forward_hook(self._keep, with_kwargs=True)
        self.weights = self.asked = torch.empty(0)

    def _keep(self, module: Any, inputs: Any, named: Any, outputs: Any) -> None:
        self.asked, self.weights = inputs[0] if inputs else named["hidden_states"], outputs[1]

    def start(self, model: Any, heads: PointerHeads, batches: list[tuple[torch.Tensor, Batch]]) -> None:
        """Takes keys and values from the heads, and fits queries to theirs by least squares over some batches.

        Args:
            model: the BART.
            heads: as trained.
            batches: encoder states with their batch.
        """
        asked, wanted = [], []
        with torch.inference_mode():
            for states, batch in batches:
                tokens = batch.labels[:, :-1]
                logits_of(model, states.float(), batch, tokens)
                queries = heads.query(tokens)
                queries[:, 0] = heads.start_query
                here = batch.labels[:, 1:] != 0
                asked.append(self.asked[here].float())
                wanted.append(queries[here])
            features = functional.pad(torch.cat(asked), (0, 1), value=1.0)
            ridge = 0.1 * torch.eye(features.shape[1])
            fitted = torch.linalg.solve(features.T @ features + ridge, features.T @ torch.cat(wanted))
        layer, attention = self._layer, self._layer.encoder_attn
        with torch.no_grad():
            attention.q_proj.weight.copy_(fitted[:-1].T)
            attention.q_proj.bias.copy_(fitted[-1])
            attention.k_proj.load_state_dict(heads.key.state_dict())
            length = _spread(heads.value)
            attention.v_proj.weight.copy_(heads.value.weight / length)
            attention.v_proj.bias.copy_(heads.value.bias / length)
            attention.out_proj.weight.copy_(COPY_GAIN * torch.eye(len(fitted) - 1))
            attention.out_proj.bias.zero_()
            for norm in (layer.encoder_attn_layer_norm, layer.final_layer_norm):
                norm.weight.fill_(1.0)
                norm.bias.zero_()
            layer.fc2.weight.zero_()
            layer.fc2.bias.zero_()

    def loss(self, looks: torch.Tensor) -> torch.Tensor:
        """-log of the attention on the places to look at; the mean over heads, and over tokens that have such places.

        Args:
            looks: bool (samples, tokens, places).
        """
        on_place = (self.weights.float() * looks[:, None]).sum(-1)
        known = looks.any(-1)[:, None].expand_as(on_place)
        if not known.any():
            return on_place.sum() * 0
        return -(on_place[known].clamp_min(1e-7)).log().mean()


def logits_of(model: Any, states: torch.Tensor, batch: Batch, tokens: torch.Tensor) -> torch.Tensor:
    """A BART's logits, (samples, tokens, vocabulary), after each token of (samples, tokens) over encoder states."""
    return model(encoder_outputs=(states,), attention_mask=(batch.ids != 0).long(), decoder_input_ids=tokens).logits


def _spread(value: torch.nn.Linear) -> float:
    """The length of a typical value of a state of length 20 (a layer norm's), so that one is about 1 long."""
    return float(value.weight.norm()) * 20 / value.weight.shape[0] ** 0.5


def _distribution(scores: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    return scores.float().masked_fill(hidden, NEVER).log_softmax(-1)


def _each(places: torch.Tensor, heads: int) -> torch.Tensor:
    return places[:, None].expand(-1, heads, -1)


def _on(log_probs: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """-log of the probability of some places, the mean over rows that have any; both (rows, places)."""
    places = places.flatten(0, -2)
    has = places.any(-1)
    if not has.any():
        return log_probs.sum() * 0
    return -torch.logsumexp(log_probs[has].masked_fill(~places[has], NEVER), -1).mean()

"""What each passage has to do with an answer, from what each says of its tokens."""

from __future__ import annotations

import numpy as np


def posterior_of(joint: np.ndarray) -> np.ndarray:
    """p(z | x, y_1..t), float32 (T, D); a row sums to 1, or is 0 if no passage allows the token.

    Args:
        joint: log p(z|x) p(y_t | x, z, y_<t), (T, D).
    """
    most = joint.max(1, keepdims=True)
    shares = np.exp(joint - np.where(np.isfinite(most), most, 0.0))
    total = shares.sum(1, keepdims=True)
    return (shares / np.where(total > 0, total, 1.0)).astype(np.float32)


def log_probs_of(joint: np.ndarray) -> np.ndarray:
    """Logarithms of p(y_t | x, y_<t) under the mixture, float32 (T,), from the same."""
    return np.logaddexp.reduce(joint.astype(np.float64), axis=1).astype(np.float32)


def without(joint: np.ndarray, log_prior: np.ndarray) -> np.ndarray | None:
    """For each passage the score that the same tokens have under the mixture of the others, float32 (D,).

    The others' priors are made to sum to 1. Their probabilities are summed, because one minus the passage's own would
    leave nothing but rounding where it has almost all of the weight.

    Args:
        joint: log p(z|x) p(y_t | x, z, y_<t), (T, D).
        log_prior: log p(z|x), (D,); -inf for a passage that only fills up.

    Returns:
        None if there is only one passage.
    """
    if np.isfinite(log_prior).sum() < 2:
        return None
    said = _of_others(joint.astype(np.float64)).sum(0)
    return (said - len(joint) * _of_others(log_prior[None].astype(np.float64))[0]).astype(np.float32)


def _of_others(logs: np.ndarray) -> np.ndarray:
    """For each column the logarithm of the sum of the others' exponentials; float64 (T, D) to the same."""
    edge = np.full((len(logs), 1), -np.inf)
    before = np.logaddexp.accumulate(np.concatenate([edge, logs[:, :-1]], 1), axis=1)
    behind = np.logaddexp.accumulate(np.concatenate([edge, logs[:, :0:-1]], 1), axis=1)[:, ::-1]
    return np.logaddexp(before, behind)

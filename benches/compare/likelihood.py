"""Log-probabilities, and the log-likelihood of labels, in f64: what the decoders are compared by."""

import numpy as np


def log_softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def log_likelihood(log_probs, labels):
    """`ln P` of labels, by the forward recursion over blank (class 0), label, blank, ..., label, blank."""
    states = np.zeros(2 * len(labels) + 1, dtype=int)
    states[1::2] = labels
    skip = np.zeros(len(states), dtype=bool)
    skip[3::2] = states[3::2] != states[1:-2:2]
    alpha = np.full(len(states), -np.inf)
    alpha[0] = 0.0
    for frame in log_probs.astype(np.float64):
        one = np.concatenate([[-np.inf], alpha[:-1]])
        two = np.where(skip, np.concatenate([[-np.inf] * 2, alpha[:-2]])[: len(states)], -np.inf)
        alpha = np.logaddexp(np.logaddexp(alpha, one), two) + frame[states]
    return np.logaddexp(alpha[-1], alpha[-2]) if len(states) > 1 else alpha[-1]

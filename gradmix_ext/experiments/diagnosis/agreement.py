"""How well predictions agree with what was measured, pair by pair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradmix_ext.experiments.diagnosis.measure import Measurement

__all__ = ["STATISTICS", "agreement", "auc", "partial_spearman", "spearman"]

Array = NDArray[np.float64]

#: Statistic: what it says. Benefit is the negative change of the old tasks' loss.
STATISTICS = {
    "spearman": "rank correlation of score and benefit on the old training data",
    "spearman_test": "rank correlation of score and benefit on the old test data",
    "partial": "the first, with the kind of pair (both old, one old, none old) held fixed",
    "sign": "share of pairs whose score has the sign of the benefit (0 counts as helpful)",
    "auc": "chance that a helpful pair has a higher score than a harmful one",
    "reference_sign": "share of pairs whose score has the sign of the criterion `mixed` with the "
    "most samples per pair",
}


def agreement(found: Measurement) -> dict[str, dict[str, float]]:
    """Every statistic of every score: ``result[score][statistic]``.

    NaN where a statistic is not defined: a correlation with something constant, the AUC when all
    pairs help or all harm.
    """
    benefit, test_benefit = -found.train_change.numpy(), -found.test_change.numpy()
    kind = found.old.numpy()
    most = max(int(name.partition("@")[2]) for name in found.scores if "@" in name)
    reference = found.scores[f"mixed@{most}"].numpy() >= 0
    result = {}
    for name, values in found.scores.items():
        score = values.numpy()
        result[name] = {
            "spearman": spearman(score, benefit),
            "spearman_test": spearman(score, test_benefit),
            "partial": partial_spearman(score, benefit, kind),
            "sign": float(np.mean((score >= 0) == (benefit >= 0))),
            "auc": auc(score, benefit >= 0),
            "reference_sign": float(np.mean((score >= 0) == reference)),
        }
    return result


def spearman(a: Array, b: Array) -> float:
    """Spearman's rank correlation of two arrays [P]; ties share their mean rank."""
    return partial_spearman(a, b, np.zeros(len(a), dtype=np.int64))


def partial_spearman(a: Array, b: Array, group: NDArray[np.int64]) -> float:
    """Partial rank correlation of two arrays [P], given the group [P] of each entry.

    The ranks are taken over all entries and lose the mean of their group; what is left is
    correlated (the partial correlation with the group as a categorical variable).
    """
    from scipy.stats import rankdata

    rest = []
    for values in (a, b):
        rank = rankdata(values)
        _, index = np.unique(group, return_inverse=True)
        rest.append(rank - (np.bincount(index, rank) / np.bincount(index))[index])
    variances = [(r @ r).item() for r in rest]
    if min(variances) < 1e-9:
        return float("nan")
    return float(rest[0] @ rest[1] / np.sqrt(variances[0] * variances[1]))


def auc(score: Array, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; NaN when all entries are of one class."""
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return float("nan")
    return float(roc_auc_score(positive, score))

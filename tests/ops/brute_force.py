"""The ops from their definitions: float64 NumPy, one sample, one class, one pair at a time."""

from __future__ import annotations

import numpy as np


def softmax(z, allowed):
    p = np.zeros_like(z)
    e = np.exp(z[allowed] - z[allowed].max())
    p[allowed] = e / e.sum()
    return p


def soft_target(c, y, y2, lam, allowed, eps=0.0):
    q = np.zeros(c)
    q[y] += (1 - eps) * lam
    q[y2] += (1 - eps) * (1 - lam)
    q[allowed] += eps / allowed.sum()
    return q


def spread(lam, n):
    return np.broadcast_to(np.asarray(lam, dtype=np.float64).reshape(-1), (n,))


def allowed_classes(class_mask, c):
    return np.ones(c, dtype=bool) if class_mask is None else np.asarray(class_mask)


def masked_mixup(x, partner, lam, mask=None):
    lam = spread(lam, len(x))
    out = np.empty_like(x)
    for i in range(len(x)):
        mixed = mask is None or mask[i]
        out[i] = lam[i] * x[i] + (1 - lam[i]) * x[partner[i]] if mixed else x[i]
    return out


def augmented(image, noise, padding, hflip):
    """The padded image [ch, H, W], cut out, then mirrored."""
    _, h, w = image.shape
    if noise is None:
        return image
    top, left = (min(int(np.float32(r) * (2 * padding + 1)), 2 * padding) for r in noise[:2])
    image = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    image = image[:, top : top + h, left : left + w]
    return image[:, :, ::-1] if hflip and noise[2] < 0.5 else image


def gather_augment_mixup(
    images, index, partner_index=None, lam=1.0, mask=None, *, mean, std, padding=0, hflip=False,
    noise=None, layout="chw", **_,
):  # fmt: skip
    if layout == "hwc":
        images = images.transpose(0, 3, 1, 2)
    n, mean, std = len(index), np.reshape(mean, (-1, 1, 1)), np.reshape(std, (-1, 1, 1))
    lam, out = spread(1.0 if lam is None else lam, n), np.empty((n, *images.shape[1:]))

    def normalised(position, which):
        draw = None if noise is None else noise[i, which]
        return (augmented(images[position], draw, padding, hflip) / 255 - mean) / std

    for i in range(n):
        out[i] = normalised(index[i], 0)
        if partner_index is not None and (mask is None or mask[i]):
            out[i] = lam[i] * out[i] + (1 - lam[i]) * normalised(partner_index[i], 1)
    return out


def mixup_cross_entropy(
    z, y, y2, lam, class_mask=None, label_smoothing=0.0, reduction="mean", sample_weight=None
):
    n, c = z.shape
    lam, allowed = spread(lam, n), allowed_classes(class_mask, c)
    loss = np.zeros(n)
    for i in range(n):
        q = soft_target(c, y[i], y2[i], lam[i], allowed, label_smoothing)
        log_p = z[i][allowed] - z[i][allowed].max()
        log_p = log_p - np.log(np.exp(log_p).sum())
        loss[i] = -(q[allowed] * log_p).sum() * (1 if sample_weight is None else sample_weight[i])
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.mean() if n else np.float64("nan")


def residuals(z, y, y2, lam, class_mask):
    n, c = z.shape
    lam, allowed = spread(1.0 if lam is None else lam, n), allowed_classes(class_mask, c)
    y2 = y if y2 is None else y2
    delta = np.zeros((n, c))
    for i in range(n):
        delta[i] = softmax(z[i], allowed) - soft_target(c, y[i], y2[i], lam[i], allowed)
    return delta


def class_gradients(
    h, z, y, partner_target=None, lam=None, groups=None, num_groups=None, class_mask=None,
    reduction="mean",
):  # fmt: skip
    (n, c), d = z.shape, h.shape[1]
    groups = y if groups is None else groups
    k = c if num_groups is None else num_groups
    delta = residuals(z, y, partner_target, lam, class_mask)
    weight, bias, count = np.zeros((k, c, d)), np.zeros((k, c)), np.zeros(k, dtype=np.int64)
    for i in range(n):
        weight[groups[i]] += np.outer(delta[i], h[i])
        bias[groups[i]] += delta[i]
        count[groups[i]] += 1
    if reduction == "mean":
        size = np.maximum(count, 1)
        weight, bias = weight / size[:, None, None], bias / size[:, None]
    return weight, bias, count


def class_gram(h, z, y, algorithm="auto", **options):
    weight, bias, _ = class_gradients(h, z, y, **options)
    k = len(bias)
    gram = np.zeros((k, k))
    for a in range(k):
        for b in range(k):
            gram[a, b] = (weight[a] * weight[b]).sum() + (bias[a] * bias[b]).sum()
    return gram


def sample_scores(h, z, y, y2, lam, weight, bias, class_mask=None):
    delta = residuals(z, y, y2, lam, class_mask)
    return np.array(
        [(np.outer(delta[i], h[i]) * weight).sum() + delta[i] @ bias for i in range(len(y))]
    )


def pair_scores(h, z, y, y2, lam, weight, bias, num_classes, class_mask=None):
    value = sample_scores(h, z, y, y2, lam, weight, bias, class_mask)
    total = np.zeros((num_classes, num_classes))
    count = np.zeros((num_classes, num_classes), dtype=np.int64)
    for i in range(len(y)):
        for a, b in {(y[i], y2[i]), (y2[i], y[i])}:
            total[a, b] += value[i]
            count[a, b] += 1
    return total, count


def linear_scores(h, z, y, held, bias=True, class_mask=None):
    c, first = z.shape[1], len(y) - held
    last = h[first:], z[first:], y[first:]
    group = np.zeros(held, dtype=np.int64)
    weight, offset, _ = class_gradients(*last, groups=group, num_groups=1, class_mask=class_mask)
    value = sample_scores(h, z, y, y, None, weight[0], offset[0] * bias, class_mask)
    mean = {k: value[y == k].mean() for k in set(y.tolist())}
    scores, scored = np.zeros((c, c)), np.zeros((c, c), dtype=bool)
    for a in mean:
        for b in mean:
            scores[a, b], scored[a, b] = (mean[a] + mean[b]) / 2, True
    return scores, scored


def draw_partners(y, allowed, policy="redraw", noise=None, exploration=0.0):
    n = len(y)
    partner, mask = np.arange(n), np.zeros(n, dtype=bool)
    permutation = np.argsort(noise, kind="stable")
    for i in range(n):
        if noise[i] < exploration:
            partner[i], mask[i] = int(noise[i] / exploration * n), True
            continue
        if policy == "skip":
            partner[i], mask[i] = permutation[i], allowed[y[i], y[permutation[i]]]
            continue
        candidates = sorted((y[j], j) for j in range(n) if allowed[y[i], y[j]])
        if candidates:
            rest = (noise[i] - exploration) / (1 - exploration)
            position = min(int(rest * len(candidates)), len(candidates) - 1)
            partner[i], mask[i] = candidates[position][1], True
    return partner, mask


def draw_softly(y, preference, noise):
    """Classes side by side on [0, 1), as wide as likely; their samples share them evenly."""
    n = len(y)
    partner, mask = np.arange(n), np.zeros(n, dtype=bool)
    present = sorted(set(y.tolist()))
    for i in range(n):
        row = preference[y[i], present]
        if np.isnan(row).any() or not np.isfinite(row.max()):
            continue
        law = np.exp(row - row.max())
        end = np.cumsum(law / law.sum())
        k = min(int((end <= noise[i]).sum()), int(np.flatnonzero(law)[-1]))
        members = np.flatnonzero(y == present[k])
        within = (noise[i] - (end[k - 1] if k else 0)) / (law[k] / law.sum())
        partner[i] = members[min(int(within * len(members)), len(members) - 1)]
        mask[i] = True
    return partner, mask


def mix_labels(y, partner, mask, lam_x, lam_y, strength=1.0, balance=0.0):
    n = len(y)
    used = [np.ones(n), np.ones(n)]
    for out, lam in zip(used, (lam_x, lam_y), strict=True):
        out[mask] = 1 - strength * (1 - np.broadcast_to(lam, n)[mask])
    weight = np.array([float((y == label).sum()) ** -balance for label in y])
    return y[partner], *used, weight / weight.mean() if n else weight


def mix_batch(
    x, y, pairs, policy, index=None, lam_x=None, lam_y=None, *, noise, exploration=0.0, **shares
):
    n = len(y)
    if lam_x is None:
        lam_x = lam_y = noise[n:].astype(np.float32).astype(float)
    if policy == "soft":
        partner, mask = draw_softly(y, pairs, noise[:n])
    else:
        partner, mask = draw_partners(y, pairs, policy, noise[:n], exploration)
    label, lam_x, lam_y, weight = mix_labels(y, partner, mask, lam_x, lam_y, **shares)
    batch = x if index is None else x[index]
    return masked_mixup(batch, partner, lam_x, mask), partner, mask, label, lam_x, lam_y, weight


def pair_preferences(scores, scored, temperature):
    known = scores[scored]
    preference = np.zeros(scores.shape)
    if len(set(known.tolist())) > 1:
        preference[scored] = (known - known.mean()) / (temperature * known.std())
    return preference


def blend_scores(scores, scored, allowed, value, y, y2, momentum, threshold):
    for pair in {frozenset(pair) for pair in zip(y.tolist(), y2.tolist(), strict=True)}:
        mean = value[
            [frozenset(p) == pair for p in zip(y.tolist(), y2.tolist(), strict=True)]
        ].mean()
        a, b = min(pair), max(pair)
        now = momentum * scores[a, b] + (1 - momentum) * mean if scored[a, b] else mean
        for k, m in ((a, b), (b, a)):
            scores[k, m], scored[k, m], allowed[k, m] = now, True, now >= threshold

// mixup_cross_entropy and its gradient, one row at a time; compiled once per instruction set by foreach_level.h.

#include "row_softmax.h"

template <class A>
struct Labels {
  int64_t first, second;
  A first_weight, second_weight;  // (1 - eps) lam and (1 - eps) (1 - lam)
  A rest;                         // eps / |A|, for every allowed class
};

template <class A>
GRADMIX_INLINE Labels<A> labels_of(const CrossEntropyParams& p, int64_t i) {
  const A lam = static_cast<const A*>(p.lam)[i * p.lam_stride];
  const A keep = static_cast<A>(1.0 - p.smoothing);
  return {p.target[i], p.partner_target[i], keep * lam, keep * (A(1) - lam),
          static_cast<A>(p.smoothing / static_cast<double>(p.allowed))};
}

template <class A>
GRADMIX_INLINE A weight_of(const CrossEntropyParams& p, int64_t i) {
  return p.sample_weight != nullptr ? static_cast<const A*>(p.sample_weight)[i] : A(1);
}

// -log p_c = log_sum - (z_c - top), weighted by q.
template <class T, bool Masked>
GRADMIX_INLINE acc_t<T> row_loss(const CrossEntropyParams& p, const T* z, const Labels<acc_t<T>>& q, acc_t<T> top, acc_t<T> sum) {
  using A = acc_t<T>;
  const A log_sum = log_of(sum);
  // A label without weight has no say, even where its logit is -inf.
  A loss = 0;
  if (q.first_weight != 0) loss += q.first_weight * (log_sum - (widen(z[q.first]) - top));
  if (q.second_weight != 0) loss += q.second_weight * (log_sum - (widen(z[q.second]) - top));
  if (p.smoothing != 0) {
    const A* blocked = static_cast<const A*>(p.blocked);
    loss += q.rest * (static_cast<A>(p.allowed) * log_sum - row_shifted_sum<T, Masked>(z, blocked, p.classes, top));
  }
  return loss;
}

template <class T, bool Masked>
void loss_rows(const CrossEntropyParams& p, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const A* blocked = static_cast<const A*>(p.blocked);
  for (int64_t i = begin; i < end; ++i) {
    const T* z = static_cast<const T*>(p.logits) + i * p.row_stride;
    const A top = row_max<T, Masked>(z, blocked, p.classes);
    const A sum = row_exp_sum<T, Masked, false>(z, blocked, p.classes, top, nullptr);
    static_cast<A*>(p.loss)[i] = weight_of<A>(p, i) * row_loss<T, Masked>(p, z, labels_of<A>(p, i), top, sum);
  }
}

// g_c = scale (e_c / sum - q_c): the terms e_c wait in `scratch`, a row that stays in the cache, and the result is written once. The
// loss comes along where it is asked for.
template <class T, bool Masked>
void gradient_rows(const CrossEntropyParams& p, int64_t begin, int64_t end, void* memory) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>;
  A* scratch = static_cast<A*>(memory);
  const A* blocked = static_cast<const A*>(p.blocked);
  for (int64_t i = begin; i < end; ++i) {
    const T* z = static_cast<const T*>(p.logits) + i * p.row_stride;
    T* out = static_cast<T*>(p.grad_logits) + i * p.classes;
    const Labels<A> q = labels_of<A>(p, i);
    const A top = row_max<T, Masked>(z, blocked, p.classes);
    const A sum = row_exp_sum<T, Masked, true>(z, blocked, p.classes, top, scratch);
    const A weight = weight_of<A>(p, i);
    if (p.loss != nullptr) static_cast<A*>(p.loss)[i] = weight * row_loss<T, Masked>(p, z, q, top, sum);
    const A scale = weight * static_cast<const A*>(p.grad_loss)[i * p.grad_stride] * static_cast<A>(p.grad_scale);
    const vec_t<A> factor = splat<A>(scale / sum), rest = splat<A>(scale * q.rest);
    scratch[q.first] -= q.first_weight * sum;
    scratch[q.second] -= q.second_weight * sum;
    int64_t j = 0;
    for (; j + w <= p.classes; j += w) {
      vec_t<A> g = load(scratch + j) * factor - rest;
      if (Masked) g = load(blocked + j) != vec_t<A>{} ? vec_t<A>{} : g;
      store(out + j, g);
    }
    if (j < p.classes) {
      const int left = static_cast<int>(p.classes - j);
      vec_t<A> g = load_part(scratch + j, left, A(0)) * factor - rest;
      if (Masked) g = load_part(blocked + j, left, A(0)) != vec_t<A>{} ? vec_t<A>{} : g;
      store_part(out + j, g, left);
    }
  }
}

template <class T>
void loss_dispatch(const CrossEntropyParams& p, int64_t begin, int64_t end) {
  return p.blocked != nullptr ? loss_rows<T, true>(p, begin, end) : loss_rows<T, false>(p, begin, end);
}
template <class T>
void gradient_dispatch(const CrossEntropyParams& p, int64_t begin, int64_t end, void* scratch) {
  return p.blocked != nullptr ? gradient_rows<T, true>(p, begin, end, scratch)
                              : gradient_rows<T, false>(p, begin, end, scratch);
}

void cross_entropy(const CrossEntropyParams& p, int64_t begin, int64_t end) {
  GRADMIX_BY_DTYPE(p.dtype, loss_dispatch, p, begin, end)
}

void cross_entropy_backward(const CrossEntropyParams& p, int64_t begin, int64_t end, void* scratch) {
  GRADMIX_BY_DTYPE(p.dtype, gradient_dispatch, p, begin, end, scratch)
}

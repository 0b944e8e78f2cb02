// delta = softmax(z) - q over the allowed classes, and the conversion of feature rows; compiled once per level by foreach_level.h.

#include "row_softmax.h"

// Copies a row of `columns` elements into row r of every panel, zero beyond the last column.
template <class A>
GRADMIX_INLINE void to_panels(const A* row, int64_t columns, int64_t r, const Panels& panels, A* out) {
  for (int64_t k = 0; k < panels.count; ++k) {
    A* to = out + (k * panels.rows + r) * panels.width;
    const int64_t first = k * panels.width, left = columns - first < panels.width ? columns - first : panels.width;
    for (int64_t j = 0; j < left; ++j) to[j] = row[first + j];
    for (int64_t j = left; j < panels.width; ++j) to[j] = A(0);
  }
}

template <class T>
void residual_rows(const ResidualParams& p, int64_t begin, int64_t end, void* scratch) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>;
  A* delta = static_cast<A*>(scratch);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t i = p.order != nullptr ? p.order[r] : r;
    convert_row(static_cast<const T*>(p.logits) + i * p.row_stride, p.columns, p.classes, delta);
    const A top = row_max<A, false>(delta, nullptr, p.classes);
    const A factor = A(1) / row_exp_sum<A, false, true>(delta, nullptr, p.classes, top, delta);
    int64_t c = 0;
    for (; c + w <= p.classes; c += w) store(delta + c, load(delta + c) * splat<A>(factor));
    for (; c < p.classes; ++c) delta[c] *= factor;
    const A lam = p.partner_target != nullptr ? static_cast<const A*>(p.lam)[i * p.lam_stride] : A(1);
    delta[p.target[i]] -= lam;
    if (p.partner_target != nullptr) delta[p.partner_target[i]] -= A(1) - lam;
    to_panels(delta, p.classes, r, p.panels, static_cast<A*>(p.delta));
  }
}

// The rows lie anywhere: the hardware waits for each of them at its start.
template <class T>
GRADMIX_INLINE void ask_for_row(const T* row, int64_t elements) {
  for (int64_t j = 0; j < elements; j += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + j);
}

template <class T>
void gather_rows_of(const GatherParams& p, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  constexpr int64_t ahead = 8;
  const T* const base = static_cast<const T*>(p.source);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t i = p.order != nullptr ? p.order[r] : r;
    const T* source = base + i * p.row_stride;
    if (p.order != nullptr && r + ahead < end) ask_for_row(base + p.order[r + ahead] * p.row_stride, p.panels.width);
    for (int64_t k = 0; k < p.panels.count; ++k) {
      A* out = static_cast<A*>(p.out) + (k * p.panels.rows + r) * p.panels.width;
      const int64_t first = k * p.panels.width, left = p.columns - first, width = p.panels.width;
      const int64_t inside = left < 0 ? 0 : left < width ? left : width;
      convert_row(source + first, nullptr, inside, out);
      for (int64_t j = inside; j < width; ++j) out[j] = A(0);
    }
  }
}

void residual(const ResidualParams& p, int64_t begin, int64_t end, void* scratch) {
  GRADMIX_BY_DTYPE(p.dtype, residual_rows, p, begin, end, scratch)
}

void gather_rows(const GatherParams& p, int64_t begin, int64_t end) {
  GRADMIX_BY_DTYPE(p.dtype, gather_rows_of, p, begin, end)
}

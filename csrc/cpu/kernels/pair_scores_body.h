// v_i = delta_i^T (D_W h_i + D_b) for mixed samples; compiled once per instruction set by foreach_level.h.

#include "row_softmax.h"
#include "tile.h"

// rows x [V vectors of columns] of h D_W^T.
template <class A, int R, int V>
GRADMIX_INLINE void project_tile(const A* h, int64_t h_stride, const A* panel, int64_t depth, A* out, int64_t out_stride) {
  constexpr int w = lanes<A>;
  vec_t<A> sum[R][V];
  clear<A, R, V>(sum);
  panel_tile<A, R, V>(h, h_stride, 1, panel, V * w, depth, sum);
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(out + r * out_stride + v * w, sum[r][v]);
}

template <class A, int V>
void project_panel(const A* h, int64_t h_stride, const A* panel, int64_t depth, A* out, int64_t out_stride, int64_t rows) {
  int64_t r = 0;
  for (; r + tile_rows <= rows; r += tile_rows)
    project_tile<A, tile_rows, V>(h + r * h_stride, h_stride, panel, depth, out + r * out_stride, out_stride);
  for (; r < rows; ++r) project_tile<A, 1, V>(h + r * h_stride, h_stride, panel, depth, out + r * out_stride, out_stride);
}

// value_i from the logits of sample i and its projected features u, whose first `classes` elements count. `terms` may be where z is.
template <class T, class A>
GRADMIX_INLINE void score_row(const PairScoreParams& p, int64_t i, const T* z, const A* u, A* terms) {
  constexpr int w = lanes<A>;
  const A* bias = static_cast<const A*>(p.bias);
  const A top = row_max<T, false>(z, nullptr, p.classes);
  const A sum = row_exp_sum<T, false, true>(z, nullptr, p.classes, top, terms);
  vec_t<A> dot = {};
  for (int64_t c = 0; c < p.classes; c += w) {
    const int rest = p.classes - c < w ? static_cast<int>(p.classes - c) : w;
    dot += load_part(terms + c, rest, A(0)) * (load(u + c) + load(bias + c));
  }
  const int64_t a = p.target[i], b = p.partner_target[i];
  const A lam = static_cast<const A*>(p.lam)[i * p.lam_stride];
  static_cast<A*>(p.value)[i] = sum_lanes<A>(dot) / sum - lam * (u[a] + bias[a]) - (A(1) - lam) * (u[b] + bias[b]);
}

// Half precision is converted block by block: whole copies would go through memory.
template <class T>
constexpr bool converted = sizeof(T) < sizeof(acc_t<T>);

template <class T>
int64_t pair_scores_scratch_of(const PairScoreParams& p) {
  return (p.block + 1) * p.padded_classes + (converted<T> ? p.block * p.depth : 0);
}

// The panels of D_W^T follow each other: full ones of tile_vectors vectors, then one of what is left.
template <class T>
void pair_score_rows(const PairScoreParams& p, int64_t begin, int64_t end, void* memory) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>, full = tile_vectors * w;
  A* projected = static_cast<A*>(memory);
  A* terms = projected + p.block * p.padded_classes;
  A* copy = terms + p.padded_classes;
  const A* panels = static_cast<const A*>(p.panels);
  for (int64_t first = begin; first < end; first += p.block) {
    const int64_t rows = end - first < p.block ? end - first : p.block;
    const T* features = static_cast<const T*>(p.features) + first * p.feature_stride;
    const A* h;
    int64_t h_stride;
    if constexpr (converted<T>) {
      for (int64_t r = 0; r < rows; ++r) convert_row(features + r * p.feature_stride, nullptr, p.depth, copy + r * p.depth);
      h = copy;
      h_stride = p.depth;
    } else {
      h = features;
      h_stride = p.feature_stride;
    }
    int64_t c = 0;
    for (; c + full <= p.padded_classes; c += full)
      project_panel<A, tile_vectors>(h, h_stride, panels + c * p.depth, p.depth, projected + c, p.padded_classes, rows);
    const int64_t left = (p.padded_classes - c) / w;
    if (left == 2) project_panel<A, 2>(h, h_stride, panels + c * p.depth, p.depth, projected + c, p.padded_classes, rows);
    if (left == 1) project_panel<A, 1>(h, h_stride, panels + c * p.depth, p.depth, projected + c, p.padded_classes, rows);
    for (int64_t r = 0; r < rows; ++r) {
      const T* z = static_cast<const T*>(p.logits) + (first + r) * p.logit_stride;
      const A* u = projected + r * p.padded_classes;
      if (p.columns != nullptr) {
        convert_row(z, p.columns, p.classes, terms);
        score_row<A, A>(p, first + r, terms, u, terms);
      } else {
        score_row<T, A>(p, first + r, z, u, terms);
      }
    }
  }
}

// D_W [classes, depth] transposed into panels of `full` columns; D_b likewise, of depth 1.
template <class T>
void pack_panels_of(const PanelParams& p) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>, full = tile_vectors * w;
  for (int64_t c = 0; c < p.padded_rows; c += full) {
    const int64_t width = p.padded_rows - c < full ? p.padded_rows - c : full;
    for (int64_t k = 0; k < width; ++k) {
      A* out = static_cast<A*>(p.out) + c * p.depth + k;
      if (c + k >= p.rows) {
        for (int64_t j = 0; j < p.depth; ++j) out[j * width] = A(0);
        continue;
      }
      const T* row = static_cast<const T*>(p.source) + (p.columns != nullptr ? p.columns[c + k] : c + k) * p.row_stride;
      for (int64_t j = 0; j < p.depth; j += w) {
        const int count = p.depth - j < w ? static_cast<int>(p.depth - j) : w;
        A part[w];
        store(part, count == w ? load(row + j) : load_part(row + j, count, A(0)));
        for (int i = 0; i < count; ++i) out[(j + i) * width] = part[i];
      }
    }
  }
}

int vector_lanes(bool wide) { return wide ? lanes<double> : lanes<float>; }

void pack_panels(const PanelParams& p) {
  GRADMIX_BY_DTYPE(p.dtype, pack_panels_of, p)
}

int64_t pair_scores_scratch(const PairScoreParams& p) {
  GRADMIX_BY_DTYPE(p.dtype, pair_scores_scratch_of, p)
}

void pair_scores(const PairScoreParams& p, int64_t begin, int64_t end, void* scratch) {
  GRADMIX_BY_DTYPE(p.dtype, pair_score_rows, p, begin, end, scratch)
}

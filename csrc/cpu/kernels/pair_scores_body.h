// v_i = delta_i^T (D_W h_i + D_b) for mixed samples; compiled once per instruction set by foreach_level.h.

#include "row_softmax.h"
#include "tile.h"

// rows x [V vectors of columns] of h D_W^T.
template <class A, int R, int V>
GRADMIX_INLINE void project_tile(const A* h, int64_t h_stride, const A* panel, int64_t depth, A* out, int64_t out_stride) {
  constexpr int w = lanes<A>;
  vec_t<A> sum[R][V] = {};
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

// The panels of D_W^T follow each other: full ones of tile_vectors vectors, then one of what is left.
template <class A>
void pair_score_rows(const PairScoreParams& p, int64_t begin, int64_t end, void* memory) {
  constexpr int w = lanes<A>, full = tile_vectors * w;
  A* projected = static_cast<A*>(memory);
  A* terms = projected + p.block * p.padded_classes;
  const A* features = static_cast<const A*>(p.features);
  const A* panels = static_cast<const A*>(p.panels);
  const A* bias = static_cast<const A*>(p.bias);
  for (int64_t first = begin; first < end; first += p.block) {
    const int64_t rows = end - first < p.block ? end - first : p.block;
    const A* h = features + first * p.feature_stride;
    int64_t c = 0;
    for (; c + full <= p.padded_classes; c += full)
      project_panel<A, tile_vectors>(h, p.feature_stride, panels + c * p.depth, p.depth, projected + c, p.padded_classes, rows);
    const int64_t left = (p.padded_classes - c) / w;
    if (left == 2)
      project_panel<A, 2>(h, p.feature_stride, panels + c * p.depth, p.depth, projected + c, p.padded_classes, rows);
    if (left == 1)
      project_panel<A, 1>(h, p.feature_stride, panels + c * p.depth, p.depth, projected + c, p.padded_classes, rows);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = first + r;
      const A* z = static_cast<const A*>(p.logits) + i * p.logit_stride;
      const A* u = projected + r * p.padded_classes;
      const A top = row_max<A, false>(z, nullptr, p.classes);
      const A sum = row_exp_sum<A, false, true>(z, nullptr, p.classes, top, terms);
      vec_t<A> dot = {};
      for (c = 0; c < p.classes; c += w) {
        const int rest = p.classes - c < w ? static_cast<int>(p.classes - c) : w;
        dot += load_part(terms + c, rest, A(0)) * (load(u + c) + load(bias + c));
      }
      const int64_t a = p.target[i], b = p.partner_target[i];
      const A lam = static_cast<const A*>(p.lam)[i * p.lam_stride];
      static_cast<A*>(p.value)[i] =
          sum_lanes<A>(dot) / sum - lam * (u[a] + bias[a]) - (A(1) - lam) * (u[b] + bias[b]);
    }
  }
}

// D_W [classes, depth] transposed into panels of `full` columns, zero beyond the last class.
template <class A>
void pack_panels_of(const PanelParams& p) {
  constexpr int w = lanes<A>, full = tile_vectors * w;
  const A* source = static_cast<const A*>(p.source);
  A* out = static_cast<A*>(p.out);
  for (int64_t c = 0; c < p.padded_rows; c += full) {
    const int64_t width = p.padded_rows - c < full ? p.padded_rows - c : full;
    for (int64_t k = 0; k < width; ++k) {
      const bool inside = c + k < p.rows;
      const A* row = inside ? source + (p.columns != nullptr ? p.columns[c + k] : c + k) * p.row_stride : nullptr;
      for (int64_t j = 0; j < p.depth; ++j) out[c * p.depth + j * width + k] = inside ? row[j] : A(0);
    }
  }
}

int vector_lanes(bool wide) { return wide ? lanes<double> : lanes<float>; }
void pack_panels(const PanelParams& p) { p.wide ? pack_panels_of<double>(p) : pack_panels_of<float>(p); }
void pair_scores(const PairScoreParams& p, int64_t begin, int64_t end, void* scratch) {
  p.wide ? pair_score_rows<double>(p, begin, end, scratch) : pair_score_rows<float>(p, begin, end, scratch);
}

// Per-group gradients of the last layer and their Gram matrix; compiled once per instruction set by foreach_level.h.

#include "tile.h"

// out[r][j] = scale * sum over the samples s of delta[s][r] * h[s][j] for R classes and V vectors of features.
template <class A, int R, int V>
GRADMIX_INLINE void outer_tile(const A* delta, int64_t delta_stride, const A* h, int64_t h_stride, int64_t samples, A scale,
                               A* out, int64_t out_stride, int64_t width) {
  constexpr int w = lanes<A>;
  vec_t<A> sum[R][V] = {};
  panel_tile<A, R, V>(delta, 1, delta_stride, h, h_stride, samples, sum);
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) {
      const vec_t<A> value = sum[r][v] * splat<A>(scale);
      const int64_t left = width - v * w;
      if (left >= w)
        store(out + r * out_stride + v * w, value);
      else
        store_part(out + r * out_stride + v * w, value, static_cast<int>(left > 0 ? left : 0));
    }
}

// The same for any number of features; h may be read up to the next whole vector.
template <class A, int R>
GRADMIX_INLINE void outer_rows(const A* delta, int64_t delta_stride, const A* h, int64_t h_stride, int64_t samples, A scale,
                               A* out, int64_t out_stride, int64_t width) {
  constexpr int w = lanes<A>;
  int64_t j = 0;
  for (; j + 2 * w < width; j += 3 * w)
    outer_tile<A, R, 3>(delta, delta_stride, h + j, h_stride, samples, scale, out + j, out_stride, width - j);
  if (j + w < width)
    outer_tile<A, R, 2>(delta, delta_stride, h + j, h_stride, samples, scale, out + j, out_stride, width - j);
  else if (j < width)
    outer_tile<A, R, 1>(delta, delta_stride, h + j, h_stride, samples, scale, out + j, out_stride, width - j);
}

template <class A>
void outer_block(const A* delta, int64_t delta_stride, const A* h, int64_t h_stride, int64_t samples, A scale, A* out,
                 int64_t out_stride, int64_t classes, int64_t width) {
  int64_t c = 0;
  for (; c + tile_rows <= classes; c += tile_rows)
    outer_rows<A, tile_rows>(delta + c, delta_stride, h, h_stride, samples, scale, out + c * out_stride, out_stride, width);
  for (; c + 2 <= classes; c += 2)
    outer_rows<A, 2>(delta + c, delta_stride, h, h_stride, samples, scale, out + c * out_stride, out_stride, width);
  for (; c < classes; ++c)
    outer_rows<A, 1>(delta + c, delta_stride, h, h_stride, samples, scale, out + c * out_stride, out_stride, width);
}

template <class A>
void group_gradients_of(const GroupGradientParams& p, int64_t begin, int64_t end) {
  const GroupedParams& in = p.in;
  for (int64_t g = begin; g < end; ++g) {
    const int64_t first = in.offsets[g], samples = in.offsets[g + 1] - first;
    const A* delta = static_cast<const A*>(in.delta) + first * in.delta_stride;
    const A* h = static_cast<const A*>(in.features) + first * in.feature_stride;
    const A scale = static_cast<const A*>(in.group_scale)[g];
    A* weight = static_cast<A*>(p.weight) + p.group_index[g] * p.all_classes * in.depth;
    A* bias = static_cast<A*>(p.bias) + p.group_index[g] * p.all_classes;
    // Runs of neighbouring classes are one block of the result.
    for (int64_t c = 0; c < in.classes;) {
      const int64_t row = p.class_index != nullptr ? p.class_index[c] : c;
      int64_t run = p.class_index != nullptr ? 1 : in.classes;
      while (p.class_index != nullptr && c + run < in.classes && p.class_index[c + run] == row + run) ++run;
      outer_block<A>(delta + c, in.delta_stride, h, in.feature_stride, samples, scale, weight + row * in.depth, in.depth, run,
                     in.depth);
      for (int64_t k = 0; k < run; ++k) bias[row + k] = A(0);
      for (int64_t s = 0; s < samples; ++s)
        for (int64_t k = 0; k < run; ++k) bias[row + k] += delta[s * in.delta_stride + c + k];
      for (int64_t k = 0; k < run; ++k) bias[row + k] *= scale;
      c += run;
    }
  }
}

// ---- by classes -----------------------------------------------------------------------------------------------------
// The gradients' [C, d] coordinates are worked through in blocks of block_classes classes by block_features features. A block of every
// group is formed in the cache from delta and h, and its product with itself is added to the Gram matrix. The bias takes part as one
// more feature, which is 1 in every sample. Sizes: a block of 100 groups, and the piece of h it comes from, share a 1 MiB L2 cache.

constexpr int64_t block_classes = 32;
template <class A>
constexpr int64_t block_features = 192 / static_cast<int64_t>(sizeof(A));

GRADMIX_INLINE int64_t class_blocks(const GroupedParams& p) { return (p.classes + block_classes - 1) / block_classes; }

template <class A>
int64_t classwise_tasks_of(const GroupedParams& p) {
  return class_blocks(p) * ((p.depth + block_features<A> - 1) / block_features<A>);
}

// An odd number of cache lines, so that the rows that a tile reads do not share cache sets.
template <class A>
GRADMIX_INLINE int64_t block_stride() {
  return block_classes * block_features<A> + 64 / static_cast<int64_t>(sizeof(A));
}

template <class A>
int64_t classwise_scratch_of(const GroupedParams& p) {
  return (p.groups + dot_rows) * block_stride<A>();
}

// The upper tiles of rows rows^T; `strip` rows at a time stay in the cache while all rows above them pass by.
template <class A>
void add_self_product(const A* rows, int64_t stride, int64_t groups, int64_t length, A* gram) {
  constexpr int64_t strip = 20 * dot_rows;
  constexpr int count = dot_rows * dot_rows;
  for (int64_t begin = 0; begin < groups; begin += strip) {
    const int64_t end = groups - begin < strip ? groups : begin + strip;
    for (int64_t k = 0; k < end; k += dot_rows)
      for (int64_t l = k > begin ? k : begin; l < end; l += dot_rows) {
        vec_t<A> sum[count] = {};
        dot_tile<A>(rows + k * stride, rows + l * stride, stride, length, sum);
        A totals[(count / lanes<A> + 2) * lanes<A>];
        sum_each<A, count>(sum, totals);
        const int64_t height = groups - k < dot_rows ? groups - k : dot_rows;
        const int64_t width = groups - l < dot_rows ? groups - l : dot_rows;
        for (int64_t r = 0; r < height; ++r)
          for (int64_t s = 0; s < width; ++s) gram[(k + r) * groups + l + s] += totals[r * dot_rows + s];
      }
  }
}

template <class A>
void gram_classwise_of(const GroupedParams& p, int64_t begin, int64_t end, A* gram, A* block) {
  constexpr int w = lanes<A>;
  const int64_t stride = block_stride<A>();
  for (int64_t k = p.groups * stride; k < (p.groups + dot_rows) * stride; ++k) block[k] = A(0);  // rows that fill the last tile
  for (int64_t t = begin; t < end; ++t) {
    const int64_t c = t % class_blocks(p) * block_classes, j = t / class_blocks(p) * block_features<A>;
    const int64_t classes = p.classes - c < block_classes ? p.classes - c : block_classes;
    const int64_t left = (p.depth - j + w - 1) / w * w;
    const int64_t width = left < block_features<A> ? left : block_features<A>;
    for (int64_t g = 0; g < p.groups; ++g) {
      const int64_t first = p.offsets[g];
      outer_block<A>(static_cast<const A*>(p.delta) + first * p.delta_stride + c, p.delta_stride,
                     static_cast<const A*>(p.features) + first * p.feature_stride + j, p.feature_stride,
                     p.offsets[g + 1] - first, static_cast<const A*>(p.group_scale)[g], block + g * stride, width, classes,
                     width);
    }
    add_self_product<A>(block, stride, p.groups, classes * width, gram);
  }
}

// ---- by pairs of samples --------------------------------------------------------------------------------------------
// A panel of samples is laid out as columns (delta and h apart) and meets every sample up to the end of its own panel:
// (delta_i . delta_j) (h_i . h_j + 1), summed over i within its group. Pairs inside the panel are met in both orders and weigh half.

template <class A>
constexpr int64_t panel_width = tile_vectors * lanes<A>;

template <class A>
int64_t pairwise_scratch_of(const GroupedParams& p) {
  return (p.classes + p.depth + p.groups) * panel_width<A>;
}

template <class A>
void transpose_panel(const A* rows, int64_t stride, int64_t count, int64_t columns, A* out) {
  for (int64_t j = 0; j < panel_width<A>; ++j)
    for (int64_t k = 0; k < columns; ++k) out[k * panel_width<A> + j] = j < count ? rows[j * stride + k] : A(0);
}

template <class A, int R>
GRADMIX_INLINE void pair_tile(const GroupedParams& p, int64_t i, const A* delta_panel, const A* feature_panel, A weight,
                              const int64_t* group_of, A* sums) {
  constexpr int w = lanes<A>;
  vec_t<A> by_delta[R][tile_vectors] = {}, by_features[R][tile_vectors];
  panel_tile<A, R, tile_vectors>(static_cast<const A*>(p.delta) + i * p.delta_stride, p.delta_stride, 1, delta_panel,
                                 panel_width<A>, p.classes, by_delta);
  A kept[R * tile_vectors * w];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < tile_vectors; ++v) {
      store(kept + (r * tile_vectors + v) * w, by_delta[r][v]);
      by_features[r][v] = splat<A>(A(1));
    }
  panel_tile<A, R, tile_vectors>(static_cast<const A*>(p.features) + i * p.feature_stride, p.feature_stride, 1, feature_panel,
                                 panel_width<A>, p.depth, by_features);
  for (int r = 0; r < R; ++r) {
    A* sum = sums + group_of[i + r] * panel_width<A>;
    for (int v = 0; v < tile_vectors; ++v)
      store(sum + v * w, load(sum + v * w) + load(kept + (r * tile_vectors + v) * w) * by_features[r][v] * splat<A>(weight));
  }
}

template <class A>
void pair_rows(const GroupedParams& p, int64_t begin, int64_t end, const A* delta_panel, const A* feature_panel, A weight,
               const int64_t* group_of, A* sums) {
  int64_t i = begin;
  for (; i + tile_rows <= end; i += tile_rows)
    pair_tile<A, tile_rows>(p, i, delta_panel, feature_panel, weight, group_of, sums);
  for (; i < end; ++i) pair_tile<A, 1>(p, i, delta_panel, feature_panel, weight, group_of, sums);
}

template <class A>
void gram_pairwise_of(const GroupedParams& p, int64_t begin, int64_t end, A* gram, A* scratch) {
  A* delta_panel = scratch;
  A* feature_panel = delta_panel + p.classes * panel_width<A>;
  A* sums = feature_panel + p.depth * panel_width<A>;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t * panel_width<A>;
    const int64_t last = p.samples - first < panel_width<A> ? p.samples : first + panel_width<A>;
    transpose_panel<A>(static_cast<const A*>(p.delta) + first * p.delta_stride, p.delta_stride, last - first, p.classes,
                       delta_panel);
    transpose_panel<A>(static_cast<const A*>(p.features) + first * p.feature_stride, p.feature_stride, last - first, p.depth,
                       feature_panel);
    const int64_t groups_met = p.group_of[last - 1] + 1;
    for (int64_t k = 0; k < groups_met * panel_width<A>; ++k) sums[k] = A(0);
    pair_rows<A>(p, 0, first, delta_panel, feature_panel, A(1), p.group_of, sums);
    pair_rows<A>(p, first, last, delta_panel, feature_panel, A(0.5), p.group_of, sums);
    for (int64_t g = 0; g < groups_met; ++g)
      for (int64_t j = first; j < last; ++j) {
        const int64_t h = p.group_of[j];
        gram[g * p.groups + h] +=
            sums[g * panel_width<A> + j - first] * static_cast<const A*>(p.group_scale)[g] * static_cast<const A*>(p.group_scale)[h];
      }
  }
}

void group_gradients(const GroupGradientParams& p, int64_t begin, int64_t end) {
  p.in.wide ? group_gradients_of<double>(p, begin, end) : group_gradients_of<float>(p, begin, end);
}

int64_t classwise_tasks(const GroupedParams& p) { return p.wide ? classwise_tasks_of<double>(p) : classwise_tasks_of<float>(p); }
int64_t classwise_scratch(const GroupedParams& p) {
  return p.wide ? classwise_scratch_of<double>(p) : classwise_scratch_of<float>(p);
}
void gram_classwise(const GroupedParams& p, int64_t begin, int64_t end, void* gram, void* scratch) {
  if (p.wide)
    gram_classwise_of<double>(p, begin, end, static_cast<double*>(gram), static_cast<double*>(scratch));
  else
    gram_classwise_of<float>(p, begin, end, static_cast<float*>(gram), static_cast<float*>(scratch));
}

int64_t pairwise_panel(bool wide) { return wide ? panel_width<double> : panel_width<float>; }
int64_t pairwise_scratch(const GroupedParams& p) {
  return p.wide ? pairwise_scratch_of<double>(p) : pairwise_scratch_of<float>(p);
}
void gram_pairwise(const GroupedParams& p, int64_t begin, int64_t end, void* gram, void* scratch) {
  if (p.wide)
    gram_pairwise_of<double>(p, begin, end, static_cast<double*>(gram), static_cast<double*>(scratch));
  else
    gram_pairwise_of<float>(p, begin, end, static_cast<float*>(gram), static_cast<float*>(scratch));
}

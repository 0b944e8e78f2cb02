// Per-group gradients of the last layer and their Gram matrix; compiled once per instruction set by foreach_level.h.

#include "tile.h"

// ---- gradients of a group -------------------------------------------------------------------------------------------
// delta_k^T h_k for the samples of one group, from panels of `class_panel` classes of delta and `feature_panel` features of h: what a
// tile reads of a group is one piece of memory each, whatever C and d are.

template <class A>
constexpr int64_t feature_panel_of = tile_vectors * lanes<A>;
// A multiple of half a tile. As many classes as give the blocks of the Gram matrix below their length, in equal shares.
template <class A>
constexpr int64_t most_classes = 4608 / (feature_panel_of<A> * static_cast<int64_t>(sizeof(A)));
template <class A>
int64_t class_panel_of(int64_t classes) {
  constexpr int64_t most = most_classes<A>, half = tile_rows / 2;
  const int64_t blocks = classes > most ? (classes + most - 1) / most : 1;
  const int64_t share = (classes + blocks - 1) / blocks;
  return share > 0 ? (share + half - 1) / half * half : half;
}

// Where the gradients of a group go. Vector v of class c is at `out + c * class_step + v * vector_step`; of the last vectors only what
// lies within `width` is written.
template <class A>
struct OuterTarget {
  A* out;
  const int64_t* class_index;  // in place of c; null: c itself
  int64_t class_step;
  int64_t vector_step;
  int64_t width;
  A scale;
};

// R classes from `c` on by V vectors of features, of which `classes` are written.
template <class A, int R, int V>
GRADMIX_INLINE void outer_tile(const A* delta, int64_t class_panel, const A* h, int64_t samples, int64_t c, int64_t classes,
                               const OuterTarget<A>& to) {
  constexpr int w = lanes<A>;
  vec_t<A> sum[R][V];
  clear<A, R, V>(sum);
  panel_tile<A, R, V>(delta, 1, class_panel, h, feature_panel_of<A>, samples, sum);
  if (to.scale != A(1))
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sum[r][v] *= splat<A>(to.scale);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    if (r >= classes) return;
    A* row = to.out + (to.class_index != nullptr ? to.class_index[c + r] : c + r) * to.class_step;
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      const int64_t left = to.width - v * w;
      if (left >= w)
        store(row + v * to.vector_step, sum[r][v]);
      else
        store_part(row + v * to.vector_step, sum[r][v], static_cast<int>(left));
    }
  }
}

// One panel of classes, which is the first of them `c`, by one panel of features.
template <class A, int V>
void outer_panel(const A* delta, int64_t class_panel, const A* h, int64_t samples, int64_t c, int64_t classes,
                 const OuterTarget<A>& to) {
  constexpr int half = tile_rows / 2;
  int64_t r = 0;
  for (; classes - r > half; r += tile_rows)
    outer_tile<A, tile_rows, V>(delta + r, class_panel, h, samples, c + r, classes - r, to);
  if (r < classes) outer_tile<A, half, V>(delta + r, class_panel, h, samples, c + r, classes - r, to);
}

// The same for the samples of group g in the panels (class_block, feature_block).
template <class A>
GRADMIX_INLINE void outer_block(const GroupedParams& p, int64_t g, int64_t class_block, int64_t feature_block, const OuterTarget<A>& to) {
  static_assert(tile_vectors == 3);
  const int64_t panel = p.delta_panels.width, first = p.offsets[g], samples = p.offsets[g + 1] - first;
  const int64_t c = class_block * panel, classes = p.classes - c < panel ? p.classes - c : panel;
  const A* delta = static_cast<const A*>(p.delta) + (class_block * p.samples + first) * panel;
  const A* h = static_cast<const A*>(p.features) + (feature_block * p.samples + first) * feature_panel_of<A>;
  if (to.width > 2 * lanes<A>)
    outer_panel<A, 3>(delta, panel, h, samples, c, classes, to);
  else if (to.width > lanes<A>)
    outer_panel<A, 2>(delta, panel, h, samples, c, classes, to);
  else
    outer_panel<A, 1>(delta, panel, h, samples, c, classes, to);
}

// delta summed over the samples of group g for a panel of classes: the gradient of the bias.
template <class A>
GRADMIX_INLINE void sum_delta(const GroupedParams& p, int64_t g, int64_t class_block, A (&sum)[most_classes<A> + tile_rows]) {
  const int64_t panel = p.delta_panels.width;
  const A* delta = static_cast<const A*>(p.delta) + (class_block * p.samples + p.offsets[g]) * panel;
  for (int64_t c = 0; c < panel; ++c) sum[c] = A(0);
  for (int64_t s = p.offsets[g]; s < p.offsets[g + 1]; ++s, delta += panel)
    for (int64_t c = 0; c < panel; ++c) sum[c] += delta[c];
}

template <class A>
void group_gradients_of(const GroupGradientParams& p) {
  const GroupedParams& in = p.in;
  const int64_t panel = in.delta_panels.width;
  const A scale = *static_cast<const A*>(in.group_scale);
  for (int64_t b = 0; b < in.delta_panels.count; ++b) {
    for (int64_t first = 0, j = 0; first < in.depth; first += feature_panel_of<A>, ++j) {
      const int64_t left = in.depth - first;
      outer_block<A>(in, 0, b, j,
                     {static_cast<A*>(p.weight) + first, p.class_index, p.weight_stride, lanes<A>,
                      left < feature_panel_of<A> ? left : feature_panel_of<A>, scale});
    }
    if (p.bias == nullptr) continue;
    A sum[most_classes<A> + tile_rows];
    sum_delta<A>(in, 0, b, sum);
    for (int64_t c = b * panel; c < in.classes && c < (b + 1) * panel; ++c)
      static_cast<A*>(p.bias)[p.class_index != nullptr ? p.class_index[c] : c] = sum[c - b * panel] * scale;
  }
}

// ---- by classes -----------------------------------------------------------------------------------------------------
// The gradients' [C, d] coordinates are worked through in blocks of one panel of classes by one panel of features. A block of every
// group is formed in the cache from delta and h, and its product with itself is added to the Gram matrix. The gradients of the bias
// follow, [C] a group: a feature that is 1 in every sample would take a whole vector of a block for each class.
//
// Sizes. In the block, the `dot_rows` groups of a tile are interleaved vector by vector, so that a tile of the product reads two
// streams. A group has up to 4608 bytes of a block: with 5 groups in a tile, the two streams share a 48 KiB L1 cache and the left one
// stays there while all others pass by; 100 groups are 450 KiB of a 1 MiB L2 cache.

template <class A>
int64_t classwise_tasks_of(const GroupedParams& p) {
  return p.delta_panels.count * p.feature_panels.count;
}

// Elements of the block of `dot_rows` groups.
template <class A>
GRADMIX_INLINE int64_t strip_elements(const GroupedParams& p) {
  return dot_rows * p.delta_panels.width * feature_panel_of<A>;
}

template <class A>
int64_t classwise_scratch_of(const GroupedParams& p) {
  return (p.groups + dot_rows - 1) / dot_rows * strip_elements<A>(p);
}

// The upper tiles of the product; `strips` of them at a time stay in the cache while all strips before them pass by.
template <class A>
void add_self_product(const A* block, int64_t strip_size, int64_t groups, int64_t vectors, A* gram) {
  constexpr int64_t kept = 20;
  constexpr int count = dot_rows * dot_rows;
  const int64_t strips = (groups + dot_rows - 1) / dot_rows;
  for (int64_t begin = 0; begin < strips; begin += kept) {
    const int64_t end = strips - begin < kept ? strips : begin + kept;
    for (int64_t k = 0; k < end; ++k)
      for (int64_t l = k > begin ? k : begin; l < end; ++l) {
        vec_t<A> sum[count];
        clear<A, count>(sum);
        dot_tile<A>(block + k * strip_size, block + l * strip_size, vectors, sum);
        A totals[(count / lanes<A> + 2) * lanes<A>];
        sum_each<A, count>(sum, totals);
        const int64_t row = k * dot_rows, column = l * dot_rows;
        const int64_t height = groups - row < dot_rows ? groups - row : dot_rows;
        const int64_t width = groups - column < dot_rows ? groups - column : dot_rows;
        for (int64_t r = 0; r < height; ++r)
          for (int64_t s = 0; s < width; ++s) gram[(row + r) * groups + column + s] += totals[r * dot_rows + s];
      }
  }
}

// The panels of classes from `begin` to `end` with the one panel of features that p has.
template <class A>
void gram_classwise_of(const GroupedParams& p, int64_t begin, int64_t end, A* gram, A* block) {
  constexpr int w = lanes<A>;
  const int64_t vectors = (p.depth + w - 1) / w;
  const int64_t strip = strip_elements<A>(p), elements = classwise_scratch_of<A>(p);
  if (p.groups % dot_rows != 0)  // groups that only fill the last strip
    for (int64_t k = elements - strip; k < elements; ++k) block[k] = A(0);
  for (int64_t b = begin; b < end; ++b) {
    const int64_t c = b * p.delta_panels.width;
    for (int64_t g = 0; g < p.groups; ++g) {
      A* own = block + g / dot_rows * strip + g % dot_rows * w - c * vectors * dot_rows * w;
      outer_block<A>(p, g, b, 0, {own, nullptr, vectors * dot_rows * w, dot_rows * w, vectors * w, A(1)});
    }
    const int64_t classes = p.classes - c < p.delta_panels.width ? p.classes - c : p.delta_panels.width;
    add_self_product<A>(block, strip, p.groups, classes * vectors, gram);
  }
}

// The gradients of the bias side by side, as many classes at a time as a block has room for.
template <class A>
void gram_of_bias_of(const GroupedParams& p, A* gram, A* block) {
  constexpr int w = lanes<A>;
  const int64_t panel = p.delta_panels.width, strip = strip_elements<A>(p), elements = classwise_scratch_of<A>(p);
  const int64_t at_once = strip / (dot_rows * panel);  // panels of classes
  for (int64_t first = 0; first < p.delta_panels.count; first += at_once) {
    const int64_t last = p.delta_panels.count - first < at_once ? p.delta_panels.count : first + at_once;
    for (int64_t k = 0; k < elements; ++k) block[k] = A(0);
    for (int64_t g = 0; g < p.groups; ++g) {
      A* own = block + g / dot_rows * strip + g % dot_rows * w;
      for (int64_t b = first; b < last; ++b) {
        A sum[most_classes<A> + tile_rows];
        sum_delta<A>(p, g, b, sum);
        for (int64_t c = 0; c < panel; ++c) {
          const int64_t at = (b - first) * panel + c;
          own[at / w * dot_rows * w + at % w] = sum[c];
        }
      }
    }
    add_self_product<A>(block, strip, p.groups, ((last - first) * panel + w - 1) / w, gram);
  }
}

// ---- by pairs of samples --------------------------------------------------------------------------------------------
// A panel of samples is laid out as columns (delta and h apart) and meets every sample up to the end of its own panel:
// (delta_i . delta_j) (h_i . h_j + 1), summed over i within its group. Samples are sorted by group, so that i <= j is in a group up to
// that of j: the sums are the upper half of the Gram matrix. Within one group both orders count. Inside the panel both are met; a pair
// with an earlier sample is met once and counts twice, which can only be in the group that the panel begins with.
//
// Panels are taken from the end. The one that is not full is then the first one, which meets the fewest samples, and all panels begin
// at whole tiles of rows.

template <class A>
constexpr int64_t panel_width = tile_vectors * lanes<A>;

template <class A>
int64_t pairwise_scratch_of(const GroupedParams& p) {
  return (p.classes + p.depth + p.groups) * panel_width<A>;
}

GRADMIX_INLINE int64_t whole_tiles(const GroupedParams& p) {
  return (p.samples + tile_rows - 1) / tile_rows * tile_rows;
}

template <class A>
int64_t pairwise_tasks_of(const GroupedParams& p) {
  return (whole_tiles(p) + panel_width<A> - 1) / panel_width<A>;
}

// A vector's length of columns at a time: what is written to meanwhile stays in the L1 cache.
template <class A>
void transpose_panel(const A* rows, int64_t stride, int64_t count, int64_t columns, A* out) {
  constexpr int64_t width = panel_width<A>, step = lanes<A>;
  int64_t k = 0;
  for (; k + step <= columns; k += step)
    for (int64_t j = 0; j < count; ++j)
      for (int64_t s = k; s < k + step; ++s) out[s * width + j] = rows[j * stride + s];
  for (; k < columns; ++k)
    for (int64_t j = 0; j < count; ++j) out[k * width + j] = rows[j * stride + k];
  if (count < width)
    for (k = 0; k < columns; ++k)
      for (int64_t j = count; j < width; ++j) out[k * width + j] = A(0);
}

template <class A, int R>
GRADMIX_INLINE void pair_tile(const GroupedParams& p, int64_t i, const A* delta_panel, const A* feature_panel,
                              A* sums) {
  constexpr int w = lanes<A>;
  vec_t<A> by_delta[R][tile_vectors], by_features[R][tile_vectors];
  clear<A, R, tile_vectors>(by_delta);
  panel_tile<A, R, tile_vectors>(static_cast<const A*>(p.delta) + i * p.delta_panels.width, p.delta_panels.width, 1, delta_panel,
                                 panel_width<A>, p.classes, by_delta);
  A kept[R * tile_vectors * w];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < tile_vectors; ++v) {
      store(kept + (r * tile_vectors + v) * w, by_delta[r][v]);
      by_features[r][v] = splat<A>(A(1));
    }
  panel_tile<A, R, tile_vectors>(static_cast<const A*>(p.features) + i * p.feature_panels.width, p.feature_panels.width, 1, feature_panel,
                                 panel_width<A>, p.depth, by_features);
  for (int r = 0; r < R; ++r) {
    A* sum = sums + p.group_of[i + r] * panel_width<A>;
    for (int v = 0; v < tile_vectors; ++v)
      store(sum + v * w, load(sum + v * w) + load(kept + (r * tile_vectors + v) * w) * by_features[r][v]);
  }
}

template <class A>
void pair_rows(const GroupedParams& p, int64_t begin, int64_t end, const A* delta_panel, const A* feature_panel, A* sums) {
  int64_t i = begin;
  for (; i + tile_rows <= end; i += tile_rows) pair_tile<A, tile_rows>(p, i, delta_panel, feature_panel, sums);
  for (; i < end; ++i) pair_tile<A, 1>(p, i, delta_panel, feature_panel, sums);
}

template <class A>
void gram_pairwise_of(const GroupedParams& p, int64_t begin, int64_t end, A* gram, A* scratch) {
  constexpr int64_t width = panel_width<A>;
  A* delta_panel = scratch;
  A* feature_panel = delta_panel + p.classes * width;
  A* sums = feature_panel + p.depth * width;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t stop = whole_tiles(p) - t * width, first = stop > width ? stop - width : 0;
    const int64_t last = stop < p.samples ? stop : p.samples;
    transpose_panel<A>(static_cast<const A*>(p.delta) + first * p.delta_panels.width, p.delta_panels.width, last - first, p.classes,
                       delta_panel);
    transpose_panel<A>(static_cast<const A*>(p.features) + first * p.feature_panels.width, p.feature_panels.width, last - first, p.depth,
                       feature_panel);
    const int64_t begins_with = p.group_of[first], groups_met = p.group_of[last - 1] + 1;
    for (int64_t k = 0; k < groups_met * width; ++k) sums[k] = A(0);
    pair_rows<A>(p, 0, first, delta_panel, feature_panel, sums);
    for (int64_t j = first; j < last && p.group_of[j] == begins_with; ++j) sums[begins_with * width + j - first] *= A(2);
    pair_rows<A>(p, first, last, delta_panel, feature_panel, sums);
    for (int64_t h = begins_with; h < groups_met; ++h) {
      const int64_t from = p.offsets[h] > first ? p.offsets[h] : first, to = p.offsets[h + 1] < last ? p.offsets[h + 1] : last;
      for (int64_t g = 0; g <= h; ++g) {
        A sum = 0;
        for (int64_t j = from; j < to; ++j) sum += sums[g * width + j - first];
        gram[g * p.groups + h] += sum;
      }
    }
  }
}

void group_gradients(const GroupGradientParams& p) { p.in.wide ? group_gradients_of<double>(p) : group_gradients_of<float>(p); }

int64_t class_panel(int64_t classes, bool wide) {
  return wide ? class_panel_of<double>(classes) : class_panel_of<float>(classes);
}
int64_t feature_panel(bool wide) { return wide ? feature_panel_of<double> : feature_panel_of<float>; }
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

void gram_of_bias(const GroupedParams& p, void* gram, void* scratch) {
  if (p.wide)
    gram_of_bias_of<double>(p, static_cast<double*>(gram), static_cast<double*>(scratch));
  else
    gram_of_bias_of<float>(p, static_cast<float*>(gram), static_cast<float*>(scratch));
}

int64_t pairwise_tasks(const GroupedParams& p) { return p.wide ? pairwise_tasks_of<double>(p) : pairwise_tasks_of<float>(p); }
int64_t pairwise_scratch(const GroupedParams& p) {
  return p.wide ? pairwise_scratch_of<double>(p) : pairwise_scratch_of<float>(p);
}
void gram_pairwise(const GroupedParams& p, int64_t begin, int64_t end, void* gram, void* scratch) {
  if (p.wide)
    gram_pairwise_of<double>(p, begin, end, static_cast<double*>(gram), static_cast<double*>(scratch));
  else
    gram_pairwise_of<float>(p, begin, end, static_cast<float*>(gram), static_cast<float*>(scratch));
}

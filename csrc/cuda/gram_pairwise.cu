// class_gram from pairs of samples: <g_i, g_j> = (delta_i . delta_j)(h_i . h_j + 1). A block multiplies a tile of both factors, takes
// their product and sums it over the groups in the tile. Samples are sorted by group, so these are few; each tile has cells of its own
// for them, which a second kernel adds in order: no atomics, and the products of all pairs are nowhere.
#include "cuda/row_tile.h"

namespace gradmix::cuda {
namespace {

template <class A>
struct PairTile {
  union {
    typename RowTile<A>::Buffers buffers;
    A product[tile_side][tile_side + 1];
  };
  int64_t row_sample[tile_side], column_sample[tile_side];
  int64_t row_key[tile_side], column_key[tile_side];  // -1 where there is no sample
};

// What a launch works on, and how many column tiles that are.
struct PairPanel {
  PairwiseParams params;
  int64_t columns;
};

__device__ bool starts(const int64_t (&key)[tile_side], int t) { return key[t] >= 0 && (t == 0 || key[t - 1] != key[t]); }

template <class T>
__global__ void __launch_bounds__(RowTile<acc_t<T>>::threads) gram_pairs(PairPanel panel) {
  using A = acc_t<T>;
  using Tile = RowTile<A>;
  GRADMIX_SHARED(PairTile<A>, tile);
  const PairwiseParams& p = panel.params;
  const GroupedParams& in = p.in;
  const int64_t row_in_panel = blockIdx.x / panel.columns, column_in_panel = blockIdx.x % panel.columns;
  const int64_t first_row = (p.first_row_tile + row_in_panel) * tile_side;
  const int64_t first_column = (p.first_column_tile + column_in_panel) * tile_side;
  const int64_t valid = in.offsets[in.groups];
  if (first_row > first_column || first_column >= valid) return;  // a whole block

  if (threadIdx.x < 2 * tile_side) {
    const int t = threadIdx.x % tile_side;
    const bool column = threadIdx.x >= tile_side;
    const int64_t at = (column ? first_column : first_row) + t;
    (column ? tile.column_key : tile.row_key)[t] = at < valid ? in.key[at] : -1;
    (column ? tile.column_sample : tile.row_sample)[t] = at < valid ? in.order[at] : 0;
  }
  __syncthreads();

  const A* delta = static_cast<const A*>(in.delta);
  const T* features = static_cast<const T*>(in.features);
  typename Tile::Sum of_delta{}, of_features{};
  Tile::multiply(
      of_delta, in.classes, [&](int t) { return tile.row_key[t] >= 0 ? delta + (first_row + t) * in.classes : nullptr; },
      [&](int t) { return tile.column_key[t] >= 0 ? delta + (first_column + t) * in.classes : nullptr; }, tile.buffers);
  Tile::multiply(
      of_features, in.depth,
      [&](int t) { return tile.row_key[t] >= 0 ? features + tile.row_sample[t] * in.feature_stride : nullptr; },
      [&](int t) { return tile.column_key[t] >= 0 ? features + tile.column_sample[t] * in.feature_stride : nullptr; },
      tile.buffers);
#pragma unroll
  for (int i = 0; i < Tile::results; ++i) of_delta.value[i] *= of_features.value[i] + A(1);
  Tile::each(of_delta, [&](int row, int column, A result) { tile.product[row][column] = result; });
  __syncthreads();

  // Over the columns of each group, into the first of them: a row belongs to one thread.
  if (threadIdx.x < tile_side) {
    A(&row)[tile_side + 1] = tile.product[threadIdx.x];
    A sum = row[0];
    int first = 0;
#pragma unroll 8
    for (int c = 1; c < tile_side; ++c) {
      const A value = row[c];  // 0 where there is no sample
      const bool next_group = starts(tile.column_key, c);
      if (next_group) row[first] = sum, first = c;
      sum = next_group ? value : sum + value;
    }
    row[first] = sum;
  }
  __syncthreads();

  // Over the rows of each group, one thread for each pair of groups.
  A* partial = static_cast<A*>(p.partial);
  const int64_t width = p.panel_tiles + in.groups;
  for (int cell = threadIdx.x; cell < tile_side * tile_side; cell += Tile::threads) {
    const int r = cell / tile_side, c = cell % tile_side;
    if (!starts(tile.row_key, r) || !starts(tile.column_key, c)) continue;
    A sum = tile.product[r][c];
    for (int next = r + 1; next < tile_side && tile.row_key[next] == tile.row_key[r]; ++next) sum += tile.product[next][c];
    partial[(row_in_panel + tile.row_key[r]) * width + column_in_panel + tile.column_key[c]] = sum;
  }
}

// The tiles of a panel that hold samples of a group.
struct TileRange {
  int64_t first, count;
  __device__ TileRange(const GroupedParams& in, int64_t group, int64_t first_tile, int64_t panel_tiles) {
    const int64_t begin = in.offsets[group], end = in.offsets[group + 1];
    first = begin / tile_side > first_tile ? begin / tile_side : first_tile;
    const int64_t stop = (end + tile_side - 1) / tile_side, panel_end = first_tile + panel_tiles;
    const int64_t last = stop < panel_end ? stop : panel_end;
    count = begin < end && last > first ? last - first : 0;
  }
};

// A warp for each pair of groups.
template <class A>
__global__ void __launch_bounds__(tile_threads) sum_pairs(PairwiseParams p) {
  const GroupedParams& in = p.in;
  const int64_t at = int64_t{blockIdx.x} * (tile_threads / warp_lanes) + threadIdx.y;
  const int64_t k = at / in.groups, l = at % in.groups;
  if (k >= in.groups || k > l) return;  // a whole warp
  const TileRange rows(in, k, p.first_row_tile, p.panel_tiles), columns(in, l, p.first_column_tile, p.panel_tiles);
  const int64_t width = p.panel_tiles + in.groups;
  A sum = 0;
  for (int64_t cell = threadIdx.x; cell < rows.count * columns.count; cell += warp_lanes) {
    const int64_t row = rows.first + cell / columns.count, column = columns.first + cell % columns.count;
    if (row > column) continue;  // the mirror image of a tile that was computed
    const A value = static_cast<const A*>(
        p.partial)[(row - p.first_row_tile + k) * width + column - p.first_column_tile + l];
    sum += k == l && row < column ? A(2) * value : value;
  }
  sum = warp_sum(sum);
  if (threadIdx.x != 0) return;
  if (in.mean && rows.count > 0 && columns.count > 0)
    sum /= static_cast<A>(in.offsets[k + 1] - in.offsets[k]) * static_cast<A>(in.offsets[l + 1] - in.offsets[l]);
  A* gram = static_cast<A*>(p.gram);
  if (p.add) sum += gram[k * in.groups + l];
  gram[k * in.groups + l] = sum;
  gram[l * in.groups + k] = sum;
}

}  // namespace

cudaError_t launch_gram_pairs(const PairwiseParams& p, cudaStream_t stream) {
  const int64_t tiles = tiles_of(p.in.samples);
  const auto in_panel = [&](int64_t first) { return tiles - first < p.panel_tiles ? tiles - first : p.panel_tiles; };
  const PairPanel panel{p, in_panel(p.first_column_tile)};
  return with_dtype(p.in.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(gram_pairs<T>, in_panel(p.first_row_tile) * panel.columns, dim3(RowTile<acc_t<T>>::threads), panel, stream);
  });
}
cudaError_t launch_sum_pairs(const PairwiseParams& p, cudaStream_t stream) {
  const int per_block = tile_threads / warp_lanes;
  return with_acc(p.in.dtype == DType::f64, [&](auto zero) {
    return launch(sum_pairs<decltype(zero)>, blocks_for(p.in.groups * p.in.groups, per_block), dim3(warp_lanes, per_block), p,
                  stream);
  });
}

}  // namespace gradmix::cuda

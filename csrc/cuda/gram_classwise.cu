// class_gram from the gradients themselves: the products of their rows, half of them by symmetry. The depth is cut into slices that
// blocks work on side by side; a second kernel adds the slices in order.
#include "cuda/row_tile.h"

namespace gradmix::cuda {
namespace {

// Where the tile (row tile <= column tile) of a slice is kept.
__host__ __device__ int64_t pairs_of(int64_t side) { return side * (side + 1) / 2; }
__device__ int64_t place(int64_t row_tile, int64_t column_tile) { return pairs_of(column_tile) + row_tile; }

template <class A>
__global__ void __launch_bounds__(RowTile<A>::threads) row_products(ProductParams p) {
  using Tile = RowTile<A>;
  GRADMIX_SHARED(typename Tile::Buffers, buffers);
  const int64_t side = (p.groups + tile_side - 1) / tile_side;
  const int64_t tile = blockIdx.x % (side * side), slice = blockIdx.x / (side * side);
  const int64_t row_tile = tile / side, column_tile = tile % side;
  if (row_tile > column_tile) return;  // a whole block

  const int64_t share = (p.length + p.slices * strip_depth - 1) / (p.slices * strip_depth) * strip_depth;
  const int64_t begin = slice * share < p.length ? slice * share : p.length;
  const int64_t depth = p.length - begin < share ? p.length - begin : share;
  const A* rows = static_cast<const A*>(p.rows) + begin;
  const auto of_tile = [&](int64_t tile_index) {
    return [=](int row) {
      const int64_t group = tile_index * tile_side + row;
      return group < p.groups ? rows + group * p.length : nullptr;
    };
  };
  typename Tile::Sum sum{};
  Tile::multiply(sum, depth, of_tile(row_tile), of_tile(column_tile), buffers);

  A* out = static_cast<A*>(p.partial) + (slice * pairs_of(side) + place(row_tile, column_tile)) * (tile_side * tile_side);
  Tile::each(sum, [&](int row, int column, A result) { out[row * tile_side + column] = result; });
}

template <class A>
__global__ void __launch_bounds__(tile_threads) sum_slices(ProductParams p) {
  const int64_t at = int64_t{blockIdx.x} * tile_threads + threadIdx.x;
  const int64_t row = at / p.groups, column = at % p.groups;
  if (row >= p.groups || row > column) return;
  const int64_t side = (p.groups + tile_side - 1) / tile_side, stride = pairs_of(side) * (tile_side * tile_side);
  const A* partial = static_cast<const A*>(p.partial) + place(row / tile_side, column / tile_side) * (tile_side * tile_side) +
                     row % tile_side * tile_side + column % tile_side;
  A* gram = static_cast<A*>(p.gram);
  A sum = p.add ? gram[row * p.groups + column] : A(0);
#pragma unroll 16  // loads in flight; the order of the sum stays
  for (int64_t slice = 0; slice < p.slices; ++slice) sum += partial[slice * stride];
  gram[row * p.groups + column] = sum;
  gram[column * p.groups + row] = sum;
}

}  // namespace

cudaError_t launch_row_products(const ProductParams& p, cudaStream_t stream) {
  const int64_t side = tiles_of(p.groups);
  return with_acc(p.wide, [&](auto zero) {
    using A = decltype(zero);
    return launch(row_products<A>, side * side * p.slices, dim3(RowTile<A>::threads), p, stream);
  });
}
cudaError_t launch_sum_slices(const ProductParams& p, cudaStream_t stream) {
  return with_acc(p.wide, [&](auto zero) {
    return launch(sum_slices<decltype(zero)>, blocks_for(p.groups * p.groups, tile_threads), dim3(tile_threads), p, stream);
  });
}

}  // namespace gradmix::cuda

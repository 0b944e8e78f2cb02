// The product of features and direction for pair_scores. An own one: the libraries' product of float32 matrices follows the TF32
// setting of the process, and an error of 3e-4 flips the signs of small scores.
#include "cuda/row_tile.h"

namespace gradmix::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(RowTile<acc_t<T>>::threads) project_features(ProjectParams p) {
  using A = acc_t<T>;
  using Tile = RowTile<A>;
  GRADMIX_SHARED(typename Tile::Buffers, buffers);
  const auto class_tiles = static_cast<unsigned>((p.classes + tile_side - 1) / tile_side);  // no more than blocks
  const int64_t first_sample = int64_t{blockIdx.x / class_tiles} * tile_side;
  const int64_t first_class = int64_t{blockIdx.x % class_tiles} * tile_side;
  const T* features = static_cast<const T*>(p.features) + first_sample * p.feature_stride;
  const A* direction = static_cast<const A*>(p.direction) + first_class * p.depth;
  typename Tile::Sum sum{};
  Tile::multiply(
      sum, p.depth, [&](int row) { return first_sample + row < p.samples ? features + row * p.feature_stride : nullptr; },
      [&](int row) { return first_class + row < p.classes ? direction + row * p.depth : nullptr; }, buffers);
  Tile::each(sum, [&](int row, int column, A result) {
    const int64_t sample = first_sample + row, c = first_class + column;
    if (sample < p.samples && c < p.classes) static_cast<A*>(p.projected)[sample * p.classes + c] = result;
  });
}

}  // namespace

cudaError_t launch_project_features(const ProjectParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(project_features<T>, tiles_of(p.samples) * tiles_of(p.classes), dim3(RowTile<acc_t<T>>::threads), p, stream);
  });
}

}  // namespace gradmix::cuda

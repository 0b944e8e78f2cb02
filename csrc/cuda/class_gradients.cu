// class_gradients: for each group one product of its residuals and features, a tile of (classes x features) a block. The features get
// one more, which is 1: its gradient is that of the bias.
#include "cuda/tile.h"

namespace gradmix::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(tile_threads, sizeof(T) == 4 ? 4 : 1) class_gradients(GradientParams p) {
  using A = acc_t<T>;
  GRADMIX_SHARED(TileBuffers<A>, buffers);
  const GroupedParams& in = p.in;
  const int64_t class_tiles = (p.class_count + tile_side - 1) / tile_side, feature_tiles = (in.depth + tile_side) / tile_side;
  const int64_t tile = blockIdx.x % (class_tiles * feature_tiles), group = blockIdx.x / (class_tiles * feature_tiles);
  const int64_t first_class = tile / feature_tiles * tile_side, first_feature = tile % feature_tiles * tile_side;
  const int64_t begin = in.offsets[group], end = in.offsets[group + 1];

  const A* delta = static_cast<const A*>(in.delta) + begin * in.classes + p.first_class;
  const auto left = [&](int row, int64_t i) {
    const int64_t c = first_class + row;
    return c < p.class_count ? delta[i * in.classes + c] : A(0);
  };
  const auto right = [&](int row, int64_t i) {
    const int64_t f = first_feature + row;
    if (f >= in.depth) return A(f == in.depth ? 1 : 0);
    return static_cast<A>(to_acc(static_cast<const T*>(in.features)[in.order[begin + i] * in.feature_stride + f]));
  };
  A sum[tile_results][tile_results] = {};
  multiply_tiles<Contiguous::along_rows>(sum, end - begin, left, right, buffers);

  const A scale = in.mean && end > begin ? A(1) / static_cast<A>(end - begin) : A(1);
  each_row(sum, [&](int row, int column, const A(&result)[tile_results]) {
    const int64_t c = first_class + row, f = first_feature + column;
    if (c >= p.class_count) return;
    const int64_t at = group * p.class_count + c;
    // At once where that may be: single elements of neighbouring threads would not combine, being a packet apart.
    using V = Packet<A, tile_results>;
    A* weight = static_cast<A*>(p.weight) + at * p.weight_stride + f;
    if (f + tile_results <= in.depth && reinterpret_cast<uintptr_t>(weight) % sizeof(V) == 0) {
      V packet;
#pragma unroll
      for (int s = 0; s < tile_results; ++s) packet.v[s] = result[s] * scale;
      *reinterpret_cast<V*>(weight) = packet;
      return;
    }
#pragma unroll
    for (int s = 0; s < tile_results; ++s) {
      if (f + s < in.depth)
        weight[s] = result[s] * scale;
      else if (f + s <= in.depth + p.padding)
        static_cast<A*>(p.bias)[at * p.bias_stride + f + s - in.depth] = result[s] * scale;
    }
  });
}

}  // namespace

cudaError_t launch_class_gradients(const GradientParams& p, cudaStream_t stream) {
  const int64_t blocks = p.in.groups * tiles_of(p.class_count) * tiles_of(p.in.depth + 1);
  return with_dtype(p.in.dtype, [&](auto zero) {
    return launch(class_gradients<decltype(zero)>, blocks, dim3(tile_threads), p, stream);
  });
}

}  // namespace gradmix::cuda

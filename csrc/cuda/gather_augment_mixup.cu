// gather_augment_mixup: reads the bytes of one or two images a sample, writes the batch. Nothing else touches memory.
#include "cuda/mixup_grid.h"

namespace gradmix::cuda {
namespace {

// An image as a sample sees it, shifted and mirrored.
struct View {
  const uint8_t* image;  // null: black
  int dy, dx;
  bool flip;

  __device__ View(const GatherAugmentMixupParams& p, int64_t at, int64_t sample, int role)
      : image(at >= 0 && at < p.count ? p.images + at * p.image_stride : nullptr), dy(0), dx(0), flip(false) {
    if (p.noise == nullptr) return;
    const float* noise = p.noise + (sample * p.roles + role) * 3;
    dy = shift(noise[0], p.padding, p.height);
    dx = shift(noise[1], p.padding, p.width);
    flip = p.hflip && noise[2] < 0.5f;
  }
  // A shift by the size or more leaves nothing of the image.
  __device__ static int shift(float noise, int64_t padding, int size) {
    const int64_t by = position_of(noise, 2 * padding + 1) - padding;
    return by < -size ? -size : by > size ? size : static_cast<int>(by);
  }
  __device__ int at(const GatherAugmentMixupParams& p, int c, int y, int x) const {
    const int row = y + dy, column = (flip ? p.width - 1 - x : x) + dx;
    const bool inside = image != nullptr && row >= 0 && row < p.height && column >= 0 && column < p.width;
    return inside ? image[c * p.channel_stride + row * p.row_stride + column * p.column_stride] : 0;
  }
};

// (u / 255 - mean) / std = scale u + shift
template <class A>
struct Channel {
  A scale, shift;
  __device__ Channel(const GatherAugmentMixupParams& p, int c) {
    const A one_over_std = reciprocal(value_at<A>(p.std, c));
    scale = one_over_std * A(1.0 / 255);
    shift = -value_at<A>(p.mean, c) * one_over_std;
  }
};

// A thread makes P elements at a time, which are in one row of the output.
template <class T, int P, bool Interleaved>
__global__ void __launch_bounds__(mixup_threads) gather_augment_mixup(GatherAugmentMixupParams p) {
  using A = acc_t<T>;
  const unsigned line = p.width * (Interleaved ? p.channels : 1);
  const int64_t packets = int64_t{line} * p.height * (Interleaved ? 1 : p.channels) / P;
  const MixupTasks tasks(p.samples, packets, 1);
  for (int64_t task = blockIdx.x; task < tasks.count; task += gridDim.x) {
    const int64_t i = tasks.sample(task), packet = tasks.first(task);
    if (i >= p.samples || packet >= packets) continue;
    const int64_t j = p.partner_index != nullptr ? p.partner_index[i] : -1;
    const bool mixed = j >= 0 && j < p.count && (p.mask == nullptr || p.mask[i] != 0);
    const View own(p, p.index[i], i, 0), partner = mixed ? View(p, j, i, 1) : own;
    const A a = mixed ? value_at<A>(p.lam, i) : A(1), b = mixed ? A(1) - a : A(0);

    const unsigned first = static_cast<unsigned>(packet) * P, row = first / line, column = first % line;
    const int y = Interleaved ? row : row % p.height;
    int c = Interleaved ? column % p.channels : row / p.height;
    int x = Interleaved ? column / p.channels : column;
    Channel<A> channel(p, c);
    Packet<T, P> result;
#pragma unroll
    for (int e = 0; e < P; ++e) {
      const A value = a * static_cast<A>(own.at(p, c, y, x)) + (mixed ? b * static_cast<A>(partner.at(p, c, y, x)) : A(0));
      result.v[e] = from_acc<T>(channel.scale * value + channel.shift);
      if (!Interleaved || ++c == p.channels) {
        ++x;
        if (Interleaved) c = 0;
      }
      if (Interleaved && e + 1 < P) channel = Channel<A>(p, c);
    }
    static_cast<Packet<T, P>*>(p.out)[i * packets + packet] = result;
  }
}

template <class T, int P>
cudaError_t launch_packets(const GatherAugmentMixupParams& p, cudaStream_t stream) {
  const int64_t packets = int64_t{p.width} * p.height * p.channels / P;
  const MixupGrid grid = mixup_grid(p.samples, packets, 1);
  return launch(p.channels_last ? gather_augment_mixup<T, P, true> : gather_augment_mixup<T, P, false>, grid.blocks, grid.threads, p,
                stream);
}

}  // namespace

cudaError_t launch_gather_augment_mixup(const GatherAugmentMixupParams& p, cudaStream_t stream) {
  if (p.samples == 0 || p.channels == 0 || p.height == 0 || p.width == 0) return cudaSuccess;
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int wide = packet_size<T>;
    const int64_t line = int64_t{p.width} * (p.channels_last ? p.channels : 1);
    return aligned(p.out) && line % wide == 0 ? launch_packets<T, wide>(p, stream) : launch_packets<T, 1>(p, stream);
  });
}

}  // namespace gradmix::cuda

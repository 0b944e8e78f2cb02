// gather_augment_mixup: prepares how each sample sees its images; the kernel does the rest.
#include "common/binding.h"

#include "../common/image_batch.h"
#include "binding.h"
#include "kernels/kernels.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "gather_augment_mixup";
constexpr int64_t block = sizeof(ByteTap::control);
constexpr int64_t grain_bytes = 64 << 10;

// The taps of a line of the output for each (shift, flip), made when first asked for. All lines of all images share them.
class Columns {
 public:
  struct Line {
    std::vector<ByteTap> taps;
    int64_t per_block = 0;
  };

  explicit Columns(const ImageBatch& batch)
      : interleaved_(batch.channels_last ? batch.channels : 1),
        width_(batch.width),
        column_stride_(batch.column_stride),
        channel_stride_(batch.channel_stride),
        lines_(2 * (2 * batch.width + 1)) {}

  int64_t line() const { return width_ * interleaved_; }
  int64_t span() const { return (width_ - 1) * column_stride_ + (interleaved_ - 1) * channel_stride_ + 1; }

  const Line& at(int64_t shift, bool flip) {
    shift = std::clamp(shift, -width_, width_);  // already all black
    Line& made = lines_[2 * (shift + width_) + (flip ? 1 : 0)];
    if (made.per_block == 0) make(made, shift, flip);
    return made;
  }

 private:
  void make(Line& made, int64_t shift, bool flip) const {
    std::vector<std::vector<ByteTap>> blocks;
    for (int64_t first = 0; first < line(); first += block) {
      std::array<int64_t, block> from;  // the byte that each element of the block is, or -1
      for (int64_t e = 0; e < block; ++e) {
        const int64_t column = (first + e) / interleaved_, x = (flip ? width_ - 1 - column : column) + shift;
        const bool inside = first + e < line() && x >= 0 && x < width_;
        from[e] = inside ? x * column_stride_ + (first + e) % interleaved_ * channel_stride_ : -1;
      }
      blocks.push_back(cover(from));
      made.per_block = std::max(made.per_block, static_cast<int64_t>(blocks.back().size()));
    }
    for (std::vector<ByteTap>& taps : blocks) {
      taps.resize(made.per_block, nothing());
      made.taps.insert(made.taps.end(), taps.begin(), taps.end());
    }
  }

  // At least one tap; none reads beyond the line.
  std::vector<ByteTap> cover(std::array<int64_t, block> from) const {
    std::vector<ByteTap> taps;
    do {
      ByteTap tap = nothing();
      int64_t lowest = span();
      for (const int64_t byte : from)
        if (byte >= 0) lowest = std::min(lowest, byte);
      tap.offset = std::max<int64_t>(0, std::min(lowest, span() - block));
      for (int64_t e = 0; e < block; ++e)
        if (from[e] >= 0 && from[e] < tap.offset + block) {
          tap.control[e] = static_cast<uint8_t>(from[e] - tap.offset);
          from[e] = -1;
        }
      taps.push_back(tap);
    } while (std::any_of(from.begin(), from.end(), [](int64_t byte) { return byte >= 0; }));
    return taps;
  }

  static ByteTap nothing() {
    ByteTap tap{};
    std::fill_n(tap.control, block, no_byte);
    return tap;
  }

  int64_t interleaved_, width_, column_stride_, channel_stride_;
  std::vector<Line> lines_;
};

Column<int64_t> read_index(const Tensor& t, const ImageBatch& batch, const char* name) {
  Column<int64_t> index(t, batch.samples, op, name);
  for (int64_t i = 0; i < batch.samples; ++i)
    check(index[i] >= 0 && index[i] < batch.images, op, ": ", name, "[", i, "] = ", index[i], " is out of range for ", batch.images,
          " images");
  return index;
}

Tensor gather_augment_mixup(const Tensor& images, const Tensor& index, const std::optional<Tensor>& partner_index,
                            const std::optional<Tensor>& lam, const std::optional<Tensor>& mask, const Tensor& mean, const Tensor& std,
                            int64_t padding, bool hflip, const std::optional<Tensor>& noise_given, std::string layout, ScalarType type,
                            MemoryFormat format) {
  check_cpu(images, op, "images");
  const ImageBatch batch(images, index, layout, type, format, padding, op);
  const int64_t samples = batch.samples, roles = partner_index ? 2 : 1;
  const Column<int64_t> own = read_index(index, batch, "index");
  const Column<int64_t> partner = partner_index ? read_index(*partner_index, batch, "partner_index") : Column<int64_t>();
  check(lam.has_value() == partner_index.has_value(), op, ": partner_index and lam come together");
  check(!mask || partner_index, op, ": mask needs partner_index");
  const PerSample weight = lam ? PerSample(*lam, samples, batch.dtype, op) : PerSample();
  const Column<uint8_t> mixed = mask ? Column<uint8_t>(*mask, samples, op, "mask") : Column<uint8_t>();
  batch.check_channels(mean, op, "mean");
  batch.check_channels(std, op, "std");
  const PerSample means(mean, batch.channels, DType::f64, op, "mean"), stds(std, batch.channels, DType::f64, op, "std");
  for (int64_t c = 0; c < batch.channels; ++c) check(stds.at<double>(c) != 0, op, ": std[", c, "] is zero");
  std::optional<Tensor> noise;
  if (padding > 0 || hflip)
    noise = batch.readable_noise(noise_given ? *noise_given : fill_uniform(empty({samples, roles, 3}, ScalarType::Float)), roles, op);

  const std::vector<int64_t> sizes = batch.sizes(), strides = batch.strides();
  const Tensor out = empty_strided(Shape(sizes.data(), sizes.size()), Shape(strides.data(), strides.size()), type);
  const int64_t sample_bytes = batch.sample_size() * element_bytes(batch.dtype);
  if (samples * sample_bytes == 0) return out;
  advise_huge_pages(out.mutable_data_ptr(), samples * sample_bytes);

  Columns columns(batch);
  const float* random = noise ? static_cast<const float*>(noise->const_data_ptr()) : nullptr;
  const auto view = [&](int64_t image, int64_t i, int64_t role, double weight_of) {
    const float* draw = random + (i * roles + role) * 3;
    const auto shift = [&](int k) { return random != nullptr ? position_of(draw[k], 2 * padding + 1) - padding : 0; };
    const Columns::Line& line = columns.at(shift(1), hflip && draw[2] < 0.5f);
    return ImageView{static_cast<const uint8_t*>(images.const_data_ptr()) + image * batch.image_stride, line.taps.data(), line.per_block,
                     shift(0), weight_of};
  };
  std::vector<ImageView> views(2 * samples);
  for (int64_t i = 0; i < samples; ++i) {
    const bool mix = partner_index && (!mask || mixed[i] != 0);
    const double share = mix ? weight.at<double>(i) : 1;
    ImageView* pair = &views[2 * i];
    pair[0] = view(own[i], i, 0, share);
    // A sample that stays alone has itself for a partner, without weight.
    pair[1] = mix ? view(partner[i], i, 1, 1 - share) : pair[0];
    if (!mix) pair[1].weight = 0;
  }

  with_acc(batch.dtype, [&](auto zero) {
    using A = decltype(zero);
    // (u / 255 - mean) / std = scale u + shift
    const int64_t planes = batch.channels_last ? 1 : batch.channels;
    const int64_t coefficients = batch.channels_last ? columns.line() + block : planes * block;
    std::vector<A> scale(coefficients), shift(coefficients);
    for (int64_t e = 0; e < coefficients; ++e) {
      const int64_t c = batch.channels_last ? e % batch.channels : e / block;
      scale[e] = static_cast<A>(1 / (255 * stds.at<double>(c)));
      shift[e] = static_cast<A>(-means.at<double>(c) / stds.at<double>(c));
    }
    const GatherAugmentMixupParams params{views.data(),
                                          planes,
                                          batch.height,
                                          columns.line(),
                                          columns.span(),
                                          batch.channel_stride,
                                          batch.row_stride,
                                          scale.data(),
                                          shift.data(),
                                          batch.channels_last,
                                          out.mutable_data_ptr(),
                                          batch.dtype};
    parallel(samples, std::max<int64_t>(1, grain_bytes / sample_bytes),
             [&](int64_t begin, int64_t end) { kernels::gather_augment_mixup(params, begin, end); });
  });
  return out;
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) {
  m.impl("gather_augment_mixup", TORCH_BOX(&gradmix::cpu::gather_augment_mixup));
}

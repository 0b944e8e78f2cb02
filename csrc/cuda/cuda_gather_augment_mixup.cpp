// gather_augment_mixup on CUDA tensors.
#include "common/binding.h"

#include "common/image_batch.h"
#include "cuda/binding.h"

namespace gradmix::cuda {
namespace {

constexpr const char* op = "gather_augment_mixup";

Tensor gather_augment_mixup(const Tensor& images, const Tensor& index, const std::optional<Tensor>& partner_index,
                            const std::optional<Tensor>& lam, const std::optional<Tensor>& mask_given, const Tensor& mean,
                            const Tensor& std, int64_t padding, bool hflip, const std::optional<Tensor>& noise_given,
                            std::string layout, ScalarType type, MemoryFormat format) {
  check_device(images, op, "images");
  const DeviceScope scope(images);
  const ImageBatch batch(images, index, layout, type, format, padding, op);
  const int64_t samples = batch.samples, roles = partner_index ? 2 : 1;
  check(batch.sample_size() < int64_t{1} << 31, op, ": an image must have fewer than 2^31 elements");
  const Column own = indices(index, images, samples, op, "index");
  const Column partner = partner_index ? indices(*partner_index, images, samples, op, "partner_index") : Column();
  check(lam.has_value() == partner_index.has_value(), op, ": partner_index and lam come together");
  check(!mask_given || partner_index, op, ": mask needs partner_index");
  const Column mask = flags(mask_given, images, samples, op, "mask");
  if (noise_given) check_device(*noise_given, images, op, "noise");
  batch.check_channels(mean, op, "mean");
  batch.check_channels(std, op, "std");
  std::optional<Tensor> noise;
  if (padding > 0 || hflip)
    noise = batch.readable_noise(noise_given ? *noise_given : fill_uniform(empty(images, {samples, roles, 3}, ScalarType::Float)), roles, op);

  const std::vector<int64_t> sizes = batch.sizes(), strides = batch.strides();
  const Tensor out = empty_strided(images, Shape(sizes.data(), sizes.size()), Shape(strides.data(), strides.size()), type);
  const GatherAugmentMixupParams params{static_cast<const uint8_t*>(images.const_data_ptr()),
                                        batch.image_stride,
                                        batch.channel_stride,
                                        batch.row_stride,
                                        batch.column_stride,
                                        batch.images,
                                        static_cast<int>(batch.channels),
                                        static_cast<int>(batch.height),
                                        static_cast<int>(batch.width),
                                        own.indices(),
                                        partner.indices(),
                                        lam ? per_sample(*lam, images, samples, op, "lam") : PerSample{},
                                        mask.flags(),
                                        per_sample(mean, images, batch.channels, op, "mean"),
                                        per_sample(std, images, batch.channels, op, "std"),
                                        noise ? static_cast<const float*>(noise->const_data_ptr()) : nullptr,
                                        static_cast<int>(roles),
                                        padding,
                                        hflip,
                                        samples,
                                        out.mutable_data_ptr(),
                                        batch.channels_last,
                                        batch.dtype};
  check_launch(launch_gather_augment_mixup(params, scope.stream()), op);
  return out;
}

}  // namespace
}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) { m.impl("gather_augment_mixup", TORCH_BOX(&gradmix::cuda::gather_augment_mixup)); }

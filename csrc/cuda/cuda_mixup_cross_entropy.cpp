// mixup_cross_entropy and its gradient on CUDA tensors.
#include "common/binding.h"

#include "cuda/cuda_last_layer.h"

namespace gradmix::cuda {
namespace {

constexpr const char* op = "mixup_cross_entropy";

CrossEntropyParams checked(const LabelledLogits& in, double smoothing, const std::string& reduction,
                           const std::optional<Tensor>& sample_weight) {
  check(smoothing >= 0 && smoothing <= 1, op, ": label_smoothing must be in [0, 1], got ", smoothing);
  check(reduction == "mean" || reduction == "sum" || reduction == "none", op,
        ": reduction must be mean, sum or none, got ", reduction);
  CrossEntropyParams params{};
  params.in = in.params;
  params.smoothing = smoothing;
  params.final_type = reduction == "none";
  if (sample_weight) {
    check_dim(*sample_weight, 1, op, "sample_weight");
    check(sample_weight->size(0) == in.samples, op, ": sample_weight must have ", in.samples, " elements, got ", sample_weight->size(0));
    params.sample_weight = per_sample(*sample_weight, in.logits, in.samples, op, "sample_weight");
  }
  params.grad_scale = reduction == "mean" ? 1.0 / static_cast<double>(in.samples) : 1.0;
  return params;
}

Tensor mixup_cross_entropy(const Tensor& logits, const Tensor& target, const Tensor& partner_target, const Tensor& lam,
                           const std::optional<Tensor>& class_mask, double label_smoothing, std::string reduction,
                           const std::optional<Tensor>& sample_weight) {
  check_device(logits, op, "logits");
  const DeviceScope scope(logits);
  const LabelledLogits in(op, logits, target, partner_target, lam, class_mask);
  CrossEntropyParams params = checked(in, label_smoothing, reduction, sample_weight);
  Tensor loss = empty(logits, {in.samples}, params.final_type ? scalar_type(in.dtype) : acc_scalar_type(in.dtype));
  params.loss = loss.mutable_data_ptr();
  check_launch(launch_cross_entropy(params, scope.stream()), op);
  if (params.final_type) return loss;
  Tensor result = empty(logits, {}, scalar_type(in.dtype));
  check_launch(launch_loss_sum({loss.const_data_ptr(), in.samples, reduction == "mean", result.mutable_data_ptr(), in.dtype},
                               scope.stream()),
               op);
  return result;
}

Tensor mixup_cross_entropy_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& target,
                                    const Tensor& partner_target, const Tensor& lam,
                                    const std::optional<Tensor>& class_mask, double label_smoothing,
                                    std::string reduction, const std::optional<Tensor>& sample_weight) {
  check_device(logits, op, "logits");
  const DeviceScope scope(logits);
  const LabelledLogits in(op, logits, target, partner_target, lam, class_mask);
  CrossEntropyParams params = checked(in, label_smoothing, reduction, sample_weight);
  check(params.final_type ? grad_loss.dim() == 1 && grad_loss.size(0) == in.samples : grad_loss.numel() == 1, op,
        ": grad_loss must have the shape of the loss");
  params.grad_loss = per_sample(grad_loss, logits, in.samples, op, "grad_loss");
  Tensor grad = empty(logits, {in.samples, in.classes}, scalar_type(in.dtype));
  params.grad_logits = grad.mutable_data_ptr();
  check_launch(launch_cross_entropy_backward(params, scope.stream()), op);
  return grad;
}

}  // namespace
}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) {
  m.impl("mixup_cross_entropy", TORCH_BOX(&gradmix::cuda::mixup_cross_entropy));
  m.impl("mixup_cross_entropy_backward", TORCH_BOX(&gradmix::cuda::mixup_cross_entropy_backward));
}

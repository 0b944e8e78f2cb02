// mixup_cross_entropy and its gradient: no [N, C] temporary, the logits are read once each way.
#include "common/binding.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>

#include "binding.h"
#include "kernels/kernels.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "mixup_cross_entropy";
constexpr int64_t grain_elements = 16 << 10;

enum class Reduction { mean, sum, none };

// The checked inputs of both directions; the parameters point into them.
struct Problem {
  Problem(const Tensor& given, const Tensor& target_given, const Tensor& partner_given, const Tensor& lam_given,
          const std::optional<Tensor>& class_mask, double smoothing, const std::string& reduction_name,
          const std::optional<Tensor>& weight_given)
      : logits(given), mask(checked_mask(given, class_mask)) {
    dtype = data_type(logits, op, "logits");
    samples = logits.size(0);
    classes = logits.size(1);
    target = Column<int64_t>(target_given, samples, op, "target");
    partner_target = Column<int64_t>(partner_given, samples, op, "partner_target");
    lam = PerSample(lam_given, samples, dtype, op);
    if (weight_given) {
      check_dim(*weight_given, 1, op, "sample_weight");
      sample_weight = PerSample(*weight_given, samples, dtype, op, "sample_weight");
      check(weight_given->size(0) == samples, op, ": sample_weight must have ", samples, " elements, got ", weight_given->size(0));
    }
    check(smoothing >= 0 && smoothing <= 1, op, ": label_smoothing must be in [0, 1], got ", smoothing);
    check(reduction_name == "mean" || reduction_name == "sum" || reduction_name == "none", op,
          ": reduction must be mean, sum or none, got ", reduction_name);
    reduction = reduction_name == "mean" ? Reduction::mean : reduction_name == "sum" ? Reduction::sum : Reduction::none;
    check_labels(target, samples, classes, mask, op, "target");
    check_labels(partner_target, samples, classes, mask, op, "partner_target");
    if (logits.numel() > 0 && classes > 1 && logits.stride(1) != 1) logits = make_contiguous(logits);
    if (mask.given) {
      // as the accumulation type, so that a vector of it lines up with a vector of logits
      with_acc(dtype, [&](auto zero) {
        blocked.resize(classes);
        auto* flags = reinterpret_cast<decltype(zero)*>(blocked.data());
        for (int64_t c = 0; c < classes; ++c) flags[c] = mask.flags[c] != 0 ? 0 : 1;
      });
    }
    params.logits = logits.const_data_ptr();
    params.row_stride = logits.stride(0);
    params.target = target.data();
    params.partner_target = partner_target.data();
    params.lam = lam.data();
    params.lam_stride = lam.stride();
    params.sample_weight = weight_given ? sample_weight.data() : nullptr;
    params.blocked = mask.given ? blocked.data() : nullptr;
    params.classes = classes;
    params.allowed = mask.allowed;
    params.smoothing = smoothing;
    params.dtype = dtype;
  }

  static ClassMask checked_mask(const Tensor& logits, const std::optional<Tensor>& class_mask) {
    check_cpu(logits, op, "logits");
    check_dim(logits, 2, op, "logits");
    return ClassMask(class_mask, logits.size(1), op);
  }
  int64_t grain() const { return std::max<int64_t>(1, grain_elements / std::max<int64_t>(classes, 1)); }

  Tensor logits;
  ClassMask mask;
  DType dtype;
  int64_t samples;
  int64_t classes;
  Column<int64_t> target, partner_target;
  PerSample lam, sample_weight;
  Reduction reduction;
  std::vector<double> blocked;  // room for either accumulation type
  CrossEntropyParams params{};
};

// The losses of the samples, reduced. One sum in one order, whatever the number of threads.
Tensor reduced(const Problem& problem, const Tensor& losses) {
  if (problem.reduction == Reduction::none) return to_dtype(losses, scalar_type(problem.dtype));
  const Tensor result = empty({}, acc_scalar_type(problem.dtype));
  with_acc(problem.dtype, [&](auto zero) {
    using A = decltype(zero);
    const A* values = static_cast<const A*>(losses.const_data_ptr());
    double sum = 0;
    for (int64_t i = 0; i < problem.samples; ++i) sum += static_cast<double>(values[i]);
    if (problem.reduction == Reduction::mean) sum = problem.samples > 0 ? sum / static_cast<double>(problem.samples) : NAN;
    *static_cast<A*>(result.mutable_data_ptr()) = static_cast<A>(sum);
  });
  return to_dtype(result, scalar_type(problem.dtype));
}

// The gradient for the upstream gradient that problem.params tell of.
Tensor gradient(Problem& problem) {
  const Tensor grad = empty({problem.samples, problem.classes}, scalar_type(problem.dtype));
  const int64_t bytes = problem.samples * problem.classes * element_bytes(problem.dtype);
  if (bytes == 0) return grad;
  advise_huge_pages(grad.mutable_data_ptr(), bytes);
  CrossEntropyParams& p = problem.params;
  p.grad_scale = problem.reduction == Reduction::mean ? 1.0 / static_cast<double>(problem.samples) : 1.0;
  p.grad_logits = grad.mutable_data_ptr();
  parallel(problem.samples, problem.grain(), [&](int64_t begin, int64_t end) {
    Scratch<double> row(problem.classes);
    kernels::cross_entropy_backward(p, begin, end, row.data());
  });
  return grad;
}

Tensor mixup_cross_entropy(const Tensor& logits, const Tensor& target, const Tensor& partner_target, const Tensor& lam,
                           const std::optional<Tensor>& class_mask, double label_smoothing, std::string reduction,
                           const std::optional<Tensor>& sample_weight) {
  Problem problem(logits, target, partner_target, lam, class_mask, label_smoothing, reduction, sample_weight);
  const Tensor losses = empty({problem.samples}, acc_scalar_type(problem.dtype));
  problem.params.loss = losses.mutable_data_ptr();
  parallel(problem.samples, problem.grain(),
           [&](int64_t begin, int64_t end) { kernels::cross_entropy(problem.params, begin, end); });
  return reduced(problem, losses);
}

// Both at once: the gradient is that of the loss itself (of each loss, without a reduction).
std::tuple<Tensor, Tensor> mixup_cross_entropy_with_gradient(const Tensor& logits, const Tensor& target, const Tensor& partner_target,
                                                             const Tensor& lam, const std::optional<Tensor>& class_mask,
                                                             double label_smoothing, std::string reduction,
                                                             const std::optional<Tensor>& sample_weight) {
  Problem problem(logits, target, partner_target, lam, class_mask, label_smoothing, reduction, sample_weight);
  const Tensor losses = empty({problem.samples}, acc_scalar_type(problem.dtype));
  const float one = 1;
  const double wide_one = 1;
  problem.params.loss = losses.mutable_data_ptr();
  problem.params.grad_loss = is_wide(problem.dtype) ? static_cast<const void*>(&wide_one) : &one;
  const Tensor grad = gradient(problem);
  return {reduced(problem, losses), grad};
}

bool is_one(const Tensor& t) {
  const void* p = t.const_data_ptr();
  switch (data_type(t, op, "factor")) {
    case DType::f32:
      return *static_cast<const float*>(p) == 1;
    case DType::f64:
      return *static_cast<const double*>(p) == 1;
    case DType::bf16:
      return static_cast<const bf16*>(p)->bits == 0x3f80;
    default:
      return false;
  }
}

// gradient *= factor, which costs nothing for the usual factor, a single 1.
void mixup_cross_entropy_scale(Tensor gradient, const Tensor& factor) {
  check_cpu(gradient, op, "gradient");
  check_cpu(factor, op, "factor");
  if (factor.numel() == 1 && is_one(factor)) return;
  std::array<StableIValue, 2> stack{torch::stable::detail::from(gradient), torch::stable::detail::from(factor)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mul_", "Tensor", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // the result's handle is ours to release
}

Tensor mixup_cross_entropy_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& target,
                                    const Tensor& partner_target, const Tensor& lam,
                                    const std::optional<Tensor>& class_mask, double label_smoothing,
                                    std::string reduction, const std::optional<Tensor>& sample_weight) {
  Problem problem(logits, target, partner_target, lam, class_mask, label_smoothing, reduction, sample_weight);
  check_cpu(grad_loss, op, "grad_loss");
  const bool each = problem.reduction == Reduction::none;
  check(each ? grad_loss.dim() == 1 && grad_loss.size(0) == problem.samples : grad_loss.numel() == 1, op,
        ": grad_loss must have the shape of the loss");
  data_type(grad_loss, op, "grad_loss");
  const Tensor upstream = make_contiguous(to_dtype(grad_loss, acc_scalar_type(problem.dtype)));

  problem.params.grad_loss = upstream.const_data_ptr();
  problem.params.grad_stride = each ? 1 : 0;
  return gradient(problem);
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) {
  m.impl("mixup_cross_entropy", TORCH_BOX(&gradmix::cpu::mixup_cross_entropy));
  m.impl("mixup_cross_entropy_with_gradient", TORCH_BOX(&gradmix::cpu::mixup_cross_entropy_with_gradient));
  m.impl("mixup_cross_entropy_scale", TORCH_BOX(&gradmix::cpu::mixup_cross_entropy_scale));
  m.impl("mixup_cross_entropy_backward", TORCH_BOX(&gradmix::cpu::mixup_cross_entropy_backward));
}

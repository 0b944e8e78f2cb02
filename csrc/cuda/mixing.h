// The ops that mixing a batch is made of.
#pragma once

#include <string>
#include <tuple>

#include "cuda/binding.h"

namespace gradmix::cuda {

std::tuple<Tensor, Tensor> draw_softly(const Tensor& target, const Tensor& preference, const std::optional<Tensor>& noise);
std::tuple<Tensor, Tensor> draw_partners(const Tensor& target, const Tensor& allowed, std::string policy,
                                         const std::optional<Tensor>& noise, double exploration);
std::tuple<Tensor, Tensor, Tensor, Tensor> mix_labels(const Tensor& target, const Tensor& partner, const Tensor& mask, const Tensor& lam_x,
                                                      const Tensor& lam_y, double strength, double balance);
// masked_mixup of x, or of the rows of x at an index.
Tensor mixed_samples(const Tensor& x, const std::optional<Tensor>& index, const Tensor& partner, const Tensor& lam, const Tensor& mask);

}  // namespace gradmix::cuda

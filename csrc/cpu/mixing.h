// The steps of mixing a batch, on arguments that have been read: each is most of an op, and mix_batch takes all of them.
#pragma once

#include <string>

#include "binding.h"

namespace gradmix::cpu {

// A draw of partners [N], and who is mixed [N].
struct Drawing {
  const char* op;
  const char* pairs_name;
  const int64_t* target;
  const double* noise;
  int64_t samples, classes;
  int64_t* partner;
  uint8_t* mask;
};

// Reads what every draw needs, and has room for its result. `pairs` [K, K] is checked by shape alone. Of the noise the first numbers,
// one per sample, are for the draw; there may be as many for something else behind them.
class PartnerDraw : public Drawing {
 public:
  PartnerDraw(const char* op, const Tensor& target, const Tensor& pairs, const char* pairs_name, const std::optional<Tensor>& noise,
              int64_t numbers_per_sample = 1);
  Tensor partners, masks;

 private:
  Column<int64_t> target_;
  Column<double> noise_;
};

void soft_partners(const Drawing& draw, const Tensor& preference);
void hard_partners(const Drawing& draw, const Tensor& allowed, const std::string& policy, double exploration);

// What mix_labels gives: of the type in which λ are used, which the numbers given have too. Partners are samples of the batch.
struct LabelTerms {
  Tensor partner_target, used_x, used_y, weight;
};
LabelTerms label_terms(const char* op, int64_t samples, DType used, const PerSample& lam_x, const PerSample& lam_y, double strength, double balance,
                       const int64_t* target, const int64_t* partner, const uint8_t* mask);

// The type that both λ are used in.
DType lam_type(const Tensor& lam_x, const Tensor& lam_y, const char* op);

// What masked_mixup makes of x, or of the rows of x at an index. Partners are samples of the batch.
Tensor mixed_samples(const char* op, const Tensor& x, const std::optional<Tensor>& index, const int64_t* partner, const Tensor& lam,
                     const uint8_t* mask);

}  // namespace gradmix::cpu

// masked_mixup, its out= form and its adjoint.
#include "common/binding.h"

#include <algorithm>
#include <array>
#include <utility>

#include "binding.h"
#include "kernels/kernels.h"
#include "mixing.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "masked_mixup";

// A sample is handled in equal chunks of at most this many bytes, chunk by chunk over the whole batch: x[i] and x[partner[i]] of one
// chunk stay in the caches until both were used. A small rest of a sample would be all latency.
constexpr int64_t chunk_bytes = 24 << 10;
constexpr int64_t line_bytes = 64;
// From here on the output is written around the cache, which saves reading it first, and the samples are visited along chains of
// partners. Below, what is written is still in the cache when it is used next; and with chunks shorter than the second number, jumping
// about costs more.
constexpr int64_t stream_bytes = 4 << 20;
constexpr int64_t stream_chunk_bytes = 2 << 10;
constexpr int64_t grain_bytes = 64 << 10;

struct Batch {
  const char* op;  // the one that was called
  Tensor x;  // held: data points into it
  const int64_t* rows;  // which rows of x; null: all
  std::vector<int64_t> strides;
  int64_t samples;
  int64_t sample_size;
  DType dtype;
  int64_t bytes() const { return samples * sample_size * element_bytes(dtype); }
};

Batch read_batch(const Tensor& x, const char* caller, const char* name) {
  check_cpu(x, caller, name);
  const DType dtype = data_type(x, caller, name);
  check(x.dim() >= 1, caller, ": ", name, " must have a batch dimension");
  Batch batch{caller, x, nullptr, batch_strides(x), x.size(0), 0, dtype};
  batch.sample_size = batch.samples > 0 ? x.numel() / batch.samples : 0;
  if (x.numel() > 0 && !same_layout(x, batch.strides)) batch.x = make_contiguous(x);
  return batch;
}

// aten::index_select along the first dimension.
Tensor rows_of(const Tensor& t, const Tensor& index) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(t), torch::stable::detail::from(int64_t{0}),
                                    torch::stable::detail::from(index)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::index_select", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Column<int64_t> read_index(const Tensor& index, int64_t rows, const char* caller) {
  check_dim(index, 1, caller, "index");
  Column<int64_t> column(index, index.size(0), caller, "index");
  for (int64_t i = 0; i < index.size(0); ++i)
    check(column[i] >= 0 && column[i] < rows, caller, ": index[", i, "] = ", column[i], " is out of range for ", rows, " rows");
  return column;
}

Column<int64_t> read_partner(const Tensor& partner, int64_t samples) {
  Column<int64_t> column(partner, samples, op, "partner");
  for (int64_t i = 0; i < samples; ++i)
    check(column[i] >= 0 && column[i] < samples, op, ": partner[", i, "] = ", column[i],
          " is out of range for a batch of ", samples, " samples");
  return column;
}

// The samples along chains i -> next(i), so that what is read as the next one is still in the cache at its own turn.
template <class Next>
std::vector<int64_t> chain_order(int64_t samples, const Next& next) {
  std::vector<int64_t> order;
  order.reserve(samples);
  std::vector<char> seen(samples, 0);
  for (int64_t start = 0; start < samples; ++start)
    for (int64_t i = start; i >= 0 && seen[i] == 0; i = next(i)) {
      seen[i] = 1;
      order.push_back(i);
    }
  return order;
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a batch is cut and written.
struct Plan {
  int64_t chunk;
  int64_t tasks;
  int64_t grain;
  bool stream;
};

Plan make_plan(const Batch& batch) {
  const int64_t size = element_bytes(batch.dtype), line = line_bytes / size;
  Plan plan{};
  const int64_t pieces = divide_up(batch.sample_size * size, chunk_bytes);
  plan.chunk = std::min(batch.sample_size, divide_up(divide_up(batch.sample_size, pieces), line) * line);
  plan.tasks = batch.samples * divide_up(batch.sample_size, plan.chunk);
  plan.grain = std::max<int64_t>(1, grain_bytes / (plan.chunk * size));
  plan.stream = batch.bytes() >= stream_bytes && plan.chunk * size >= stream_chunk_bytes;
  return plan;
}

void mix(const Batch& batch, const int64_t* partner, const Tensor& lam, const uint8_t* mask, void* out) {
  const PerSample weight(lam, batch.samples, batch.dtype, batch.op);
  if (batch.bytes() == 0) return;
  const Plan plan = make_plan(batch);
  std::vector<int64_t> order;
  if (plan.stream) order = chain_order(batch.samples, [&](int64_t i) { return partner[i]; });
  const MixupParams params{batch.x.const_data_ptr(),
                           out,
                           partner,
                           weight.data(),
                           weight.stride(),
                           mask,
                           batch.samples,
                           batch.sample_size,
                           plan.stream ? order.data() : nullptr,
                           plan.chunk,
                           batch.dtype,
                           plan.stream,
                           batch.rows};
  parallel(plan.tasks, plan.grain, [&](int64_t begin, int64_t end) { kernels::masked_mixup(params, begin, end); });
}

void mix(const Batch& batch, const Tensor& partner, const Tensor& lam, const std::optional<Tensor>& mask, void* out) {
  const Column<int64_t> index = read_partner(partner, batch.samples);
  const Column<uint8_t> mixed = mask ? Column<uint8_t>(*mask, batch.samples, op, "mask") : Column<uint8_t>();
  mix(batch, index.data(), lam, mixed.data(), out);
}

Tensor result_for(const Batch& batch) {
  std::vector<int64_t> sizes(batch.x.sizes().begin(), batch.x.sizes().end());
  sizes[0] = batch.samples;
  Tensor out = empty_strided(Shape(sizes.data(), sizes.size()), Shape(batch.strides.data(), batch.strides.size()), scalar_type(batch.dtype));
  advise_huge_pages(out.mutable_data_ptr(), batch.bytes());
  return out;
}

}  // namespace

Tensor mixed_samples(const char* caller, const Tensor& x, const std::optional<Tensor>& index, const int64_t* partner, const Tensor& lam,
                     const uint8_t* mask) {
  const Column<int64_t> rows = index ? read_index(*index, x.size(0), caller) : Column<int64_t>();
  // What is not dense is copied, of a whole data set only the rows wanted.
  if (index && !same_layout(x, batch_strides(x))) return mixed_samples(caller, rows_of(x, *index), std::nullopt, partner, lam, mask);
  Batch batch = read_batch(x, caller, "x");
  if (index) {
    batch.rows = rows.data();
    batch.samples = index->size(0);
  }
  const Tensor out = result_for(batch);
  mix(batch, partner, lam, mask, out.mutable_data_ptr());
  return out;
}

namespace {

Tensor masked_mixup(const Tensor& x, const Tensor& partner, const Tensor& lam, const std::optional<Tensor>& mask) {
  const Batch batch = read_batch(x, op, "x");
  const Tensor out = result_for(batch);
  mix(batch, partner, lam, mask, out.mutable_data_ptr());
  return out;
}

void masked_mixup_out(const Tensor& x, const Tensor& partner, const Tensor& lam, const std::optional<Tensor>& mask,
                      Tensor out) {
  const Batch batch = read_batch(x, op, "x");
  check_cpu(out, op, "out");
  check(out.scalar_type() == scalar_type(batch.dtype), op, ": out must have the dtype of x");
  const auto want = x.sizes(), have = out.sizes();
  check(std::equal(want.begin(), want.end(), have.begin(), have.end()), op, ": out must have the shape of x");
  check(batch.bytes() == 0 || same_layout(out, batch.strides), op, ": out must have the strides of the result");
  void* destination = out.mutable_data_ptr();
  check_apart(destination, batch.bytes(), batch.x, op, "x");
  check_apart(destination, batch.bytes(), partner, op, "partner");
  check_apart(destination, batch.bytes(), lam, op, "lam");
  if (mask) check_apart(destination, batch.bytes(), *mask, op, "mask");
  mix(batch, partner, lam, mask, destination);
}

Tensor masked_mixup_backward(const Tensor& grad, const Tensor& partner, const Tensor& lam,
                             const std::optional<Tensor>& mask) {
  const Batch batch = read_batch(grad, op, "grad");
  const int64_t samples = batch.samples;
  const Column<int64_t> index = read_partner(partner, samples);
  const PerSample weight(lam, samples, batch.dtype, op);
  const Column<uint8_t> mixed = mask ? Column<uint8_t>(*mask, samples, op, "mask") : Column<uint8_t>();
  const Tensor out = result_for(batch);
  if (batch.bytes() == 0) return out;

  // The adjoint of a gather is a scatter; sorting the samples by partner turns it into a gather again: no atomics, one order of sums.
  const auto is_mixed = [&](int64_t i) { return mixed.data() == nullptr || mixed[i] != 0; };
  std::vector<int64_t> offsets(samples + 1, 0), sources;
  for (int64_t i = 0; i < samples; ++i)
    if (is_mixed(i)) ++offsets[index[i] + 1];
  for (int64_t j = 0; j < samples; ++j) offsets[j + 1] += offsets[j];
  sources.resize(offsets[samples]);
  std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
  for (int64_t i = 0; i < samples; ++i)
    if (is_mixed(i)) sources[next[index[i]]++] = i;

  const Plan plan = make_plan(batch);
  std::vector<int64_t> order;
  if (plan.stream)
    order = chain_order(samples, [&](int64_t j) { return offsets[j] < offsets[j + 1] ? sources[offsets[j]] : -1; });
  with_acc(batch.dtype, [&](auto zero) {
    using A = decltype(zero);
    std::vector<A> own(samples), given(samples);
    for (int64_t i = 0; i < samples; ++i) {
      const A a = weight.at<A>(i);
      own[i] = is_mixed(i) ? a : A(1);
      given[i] = A(1) - a;
    }
    const MixupBackwardParams params{batch.x.const_data_ptr(),
                                     out.mutable_data_ptr(),
                                     own.data(),
                                     given.data(),
                                     sources.data(),
                                     offsets.data(),
                                     samples,
                                     batch.sample_size,
                                     plan.stream ? order.data() : nullptr,
                                     plan.chunk,
                                     batch.dtype,
                                     plan.stream};
    parallel(plan.tasks, plan.grain,
             [&](int64_t begin, int64_t end) { kernels::masked_mixup_backward(params, begin, end); });
  });
  return out;
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) {
  m.impl("masked_mixup", TORCH_BOX(&gradmix::cpu::masked_mixup));
  m.impl("masked_mixup.out", TORCH_BOX(&gradmix::cpu::masked_mixup_out));
  m.impl("masked_mixup_backward", TORCH_BOX(&gradmix::cpu::masked_mixup_backward));
}

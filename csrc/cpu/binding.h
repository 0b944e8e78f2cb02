// What the CPU bindings need beyond common/binding.h: small inputs read on the host, scratch memory, the thread pool.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "../common/binding.h"

namespace gradmix::cpu {

// Calls f with a float or a double, the accumulation type of dtype.
template <class F>
decltype(auto) with_acc(DType dtype, F&& f) {
  return is_wide(dtype) ? f(double{}) : f(float{});
}

void check_cpu(const Tensor& t, const char* op, const char* name);

// A one-dimensional argument as an array: in place where it is contiguous, else copied.
template <class T>
class Column {
 public:
  // [expected] elements of int64, of float64 or of bool (as uint8_t).
  Column(const Tensor& t, int64_t expected, const char* op, const char* name);
  Column() = default;
  Column(Column&&) = default;  // not copied: data() points into the copy held
  Column& operator=(Column&&) = default;
  const T* data() const { return data_; }
  T operator[](int64_t i) const { return data_[i]; }

 private:
  std::optional<Tensor> held_;
  std::vector<T> copy_;
  const T* data_ = nullptr;
};

// One number for the batch (stride 0) or one per sample (stride 1), such as lam, as floats or doubles. In place where it has that type
// and is contiguous, else converted.
class PerSample {
 public:
  PerSample() = default;
  PerSample(const Tensor& t, int64_t samples, DType dtype, const char* op, const char* name = "lam");
  explicit PerSample(const double* numbers) : data_(numbers), stride_(1), wide_(true) {}
  PerSample(PerSample&&) = default;  // not copied: data() may point into what is held
  PerSample& operator=(PerSample&&) = default;
  const void* data() const { return data_; }
  int64_t stride() const { return stride_; }
  template <class A>
  A at(int64_t i) const {
    const int64_t k = i * stride_;
    return static_cast<A>(wide_ ? static_cast<const double*>(data_)[k] : static_cast<double>(static_cast<const float*>(data_)[k]));
  }

 private:
  std::optional<Tensor> held_;
  std::vector<float> floats_;
  std::vector<double> doubles_;
  const void* data_ = nullptr;
  int64_t stride_ = 0;
  bool wide_ = false;
};

// class_mask [C] in the forms that kernels use.
struct ClassMask {
  ClassMask(const std::optional<Tensor>& mask, int64_t classes, const char* op);
  bool given = false;
  int64_t allowed;                // how many classes are
  Column<uint8_t> flags;          // empty where no mask is given
  std::vector<int64_t> columns;   // the allowed classes in order, where a mask is given
  std::vector<int64_t> position;  // of each class among them
};

// Every label is in [0, bound) and, with a mask, an allowed class.
void check_labels(const Column<int64_t>& label, int64_t samples, int64_t bound, const ClassMask& mask, const char* op,
                  const char* name);

// Uninitialised memory on a cache-line boundary.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes > 0 ? bytes : 64)));
    if (data_ == nullptr) throw std::bad_alloc();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

Tensor empty_strided(Shape sizes, Shape strides, ScalarType dtype);
Tensor empty(std::initializer_list<int64_t> sizes, ScalarType dtype);
Tensor zeros(std::initializer_list<int64_t> sizes, ScalarType dtype);

// Runs f(begin, end) over parts of [0, tasks), each of at least `grain` tasks; in this thread when there is only one part.
template <class F>
void parallel(int64_t tasks, int64_t grain, const F& f) {
  if (tasks <= 0) return;
  if (tasks <= grain)
    f(int64_t{0}, tasks);
  else
    torch::stable::parallel_for(0, tasks, grain, f);
}

// Asks for huge pages behind a new output, if it is large: with 4 KiB pages the page faults cost more than the kernel.
void advise_huge_pages(void* data, int64_t bytes);

}  // namespace gradmix::cpu

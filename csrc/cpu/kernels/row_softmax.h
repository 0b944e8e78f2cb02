// Softmax pieces over one row of logits. Part of a kernel body: included inside the namespace of a level.

// A row, or the given columns of it, in the accumulation type.
template <class T>
GRADMIX_INLINE void convert_row(const T* source, const int64_t* columns, int64_t count, acc_t<T>* out) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>;
  if (columns != nullptr) {
    for (int64_t j = 0; j < count; ++j) out[j] = widen(source[columns[j]]);
    return;
  }
  int64_t j = 0;
  for (; j + w <= count; j += w) store(out + j, load(source + j));
  for (; j < count; ++j) out[j] = widen(source[j]);
}

// Logits as vectors, -inf where a class is blocked, whatever its logit is.
template <class T, bool Masked>
GRADMIX_INLINE vec_t<acc_t<T>> logits_at(const T* z, const acc_t<T>* blocked, int64_t j) {
  using A = acc_t<T>;
  const vec_t<A> v = load(z + j);
  if (!Masked) return v;
  return load(blocked + j) != vec_t<A>{} ? splat<A>(-static_cast<A>(__builtin_inf())) : v;
}
template <class T, bool Masked>
GRADMIX_INLINE vec_t<acc_t<T>> logits_part(const T* z, const acc_t<T>* blocked, int64_t j, int rest) {
  using A = acc_t<T>;
  const vec_t<A> low = splat<A>(-static_cast<A>(__builtin_inf()));
  const vec_t<A> v = load_part(z + j, rest, -static_cast<A>(__builtin_inf()));
  if (!Masked) return v;
  return load_part(blocked + j, rest, A(0)) != vec_t<A>{} ? low : v;
}

template <class T, bool Masked>
GRADMIX_INLINE acc_t<T> row_max(const T* z, const acc_t<T>* blocked, int64_t count) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>;
  vec_t<A> best[4];
  for (int k = 0; k < 4; ++k) best[k] = splat<A>(-static_cast<A>(__builtin_inf()));
  int64_t j = 0;
  if (Masked) {
    for (; j + 4 * w <= count; j += 4 * w)
      for (int k = 0; k < 4; ++k) best[k] = max_of(best[k], logits_at<T, Masked>(z, blocked, j + k * w));
  } else {
    constexpr int size = group_size<T>, v = group_vectors<T>;  // the order does not matter for a maximum
    for (; j + 4 / v * size <= count; j += 4 / v * size) {
      vec_t<A> part[4];
      for (int k = 0; k < 4 / v; ++k) load_group(z + j + k * size, part + k * v);
      for (int k = 0; k < 4; ++k) best[k] = max_of(best[k], part[k]);
    }
  }
  for (; j + w <= count; j += w) best[0] = max_of(best[0], logits_at<T, Masked>(z, blocked, j));
  if (j < count) best[1] = max_of(best[1], logits_part<T, Masked>(z, blocked, j, static_cast<int>(count - j)));
  return max_lanes<A>(max_of(max_of(best[0], best[1]), max_of(best[2], best[3])));
}

// sum of e^(z - top) over the row; the terms are kept where `terms` is given.
template <class T, bool Masked, bool Keep>
GRADMIX_INLINE acc_t<T> row_exp_sum(const T* z, const acc_t<T>* blocked, int64_t count, acc_t<T> top, acc_t<T>* terms) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>;
  vec_t<A> sum[2] = {};
  int64_t j = 0;
  for (; j + 2 * w <= count; j += 2 * w)
    for (int k = 0; k < 2; ++k) {
      const vec_t<A> e = exp_nonpositive(logits_at<T, Masked>(z, blocked, j + k * w) - splat<A>(top));
      if (Keep) store(terms + j + k * w, e);
      sum[k] += e;
    }
  for (; j < count; j += w) {
    const int rest = count - j < w ? static_cast<int>(count - j) : w;
    const vec_t<A> e = exp_nonpositive(logits_part<T, Masked>(z, blocked, j, rest) - splat<A>(top));
    if (Keep) store_part(terms + j, e, rest);
    sum[0] += e;
  }
  return sum_lanes<A>(sum[0] + sum[1]);
}

// Sum of the allowed logits, each minus top so that large logits lose no digits.
template <class T, bool Masked>
GRADMIX_INLINE acc_t<T> row_shifted_sum(const T* z, const acc_t<T>* blocked, int64_t count, acc_t<T> top) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>;
  vec_t<A> sum = {};
  for (int64_t j = 0; j < count; j += w) {
    const int rest = count - j < w ? static_cast<int>(count - j) : w;
    vec_t<A> v = load_part(z + j, rest, top) - splat<A>(top);
    if (Masked) v = load_part(blocked + j, rest, A(0)) != vec_t<A>{} ? vec_t<A>{} : v;
    sum += v;
  }
  return sum_lanes<A>(sum);
}

// ln(sum); a row of -inf or NaN gives NaN as it does in PyTorch. A sum of exponentials is 1 at least: for floats
// sum = 2^n m, ln m = 2 atanh((m - 1) / (m + 1)) by its series, in line and to 1e-11, which a call of the library cannot match.
GRADMIX_INLINE double log_of(double v) { return __builtin_log(v); }
GRADMIX_INLINE float log_of(float v) {
  if (!(v >= 1.0f && v < __builtin_inff())) return static_cast<float>(__builtin_log(static_cast<double>(v)));
  const uint32_t bits = float_to_bits(v), above = bits - 0x3f3504f3u;  // m in [sqrt(1/2), sqrt(2))
  const double n = static_cast<double>(static_cast<int32_t>(above) >> 23);
  const double m = static_cast<double>(bits_to_float((above & 0x007fffffu) + 0x3f3504f3u));
  const double s = (m - 1.0) / (m + 1.0), t = s * s;
  const double series = 1.0 + t * (1.0 / 3 + t * (1.0 / 5 + t * (1.0 / 7 + t * (1.0 / 9 + t * (1.0 / 11)))));
  return static_cast<float>(n * 0.6931471805599453 + 2.0 * s * series);
}

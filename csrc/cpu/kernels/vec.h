// One vector register of floats or doubles, for the instruction set that foreach_level.h has selected. Included once per level,
// inside that level's namespace, so it has no include guard and uses nothing from the standard library: a template of the
// standard library compiled here could be shared by the linker with code for smaller machines.

#define GRADMIX_INLINE static inline __attribute__((always_inline))
#define GRADMIX_MEMBER inline __attribute__((always_inline))

using vf = float __attribute__((vector_size(GRADMIX_VECTOR_BYTES)));
using vd = double __attribute__((vector_size(GRADMIX_VECTOR_BYTES)));
using vi = int32_t __attribute__((vector_size(GRADMIX_VECTOR_BYTES)));
using vu = uint32_t __attribute__((vector_size(GRADMIX_VECTOR_BYTES)));
using vul = uint64_t __attribute__((vector_size(GRADMIX_VECTOR_BYTES)));
using vh = uint16_t __attribute__((vector_size(GRADMIX_VECTOR_BYTES / 2)));

template <class A>
struct VecOf;
template <>
struct VecOf<float> {
  using type = vf;
};
template <>
struct VecOf<double> {
  using type = vd;
};
template <class A>
using vec_t = typename VecOf<A>::type;
template <class A>
constexpr int lanes = GRADMIX_VECTOR_BYTES / static_cast<int>(sizeof(A));

template <class A>
GRADMIX_INLINE vec_t<A> splat(A value) {
  return value - vec_t<A>{};
}

// ---- conversions of one element -------------------------------------------------------------------------------------

GRADMIX_INLINE float bits_to_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
GRADMIX_INLINE uint32_t float_to_bits(float value) { return __builtin_bit_cast(uint32_t, value); }

GRADMIX_INLINE float widen(float v) { return v; }
GRADMIX_INLINE double widen(double v) { return v; }
GRADMIX_INLINE float widen(bf16 v) { return bits_to_float(static_cast<uint32_t>(v.bits) << 16); }
GRADMIX_INLINE float widen(f16 v) {
  // Exponent and mantissa moved into place; the multiplication rescales the exponent and normalises subnormal numbers.
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(v.bits & 0x7fffu) << 13;
  if (magnitude >= 0x0f800000u) return bits_to_float(sign | magnitude | 0x7f800000u);  // inf, NaN
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude) * 0x1p112f));
}

GRADMIX_INLINE void narrow(float v, float* out) { *out = v; }
GRADMIX_INLINE void narrow(double v, double* out) { *out = v; }
GRADMIX_INLINE void narrow(float v, bf16* out) {
  const uint32_t bits = float_to_bits(v);
  out->bits = v != v ? 0x7fc0u : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
GRADMIX_INLINE void narrow(float v, f16* out) {
  const uint32_t sign = (float_to_bits(v) >> 16) & 0x8000u;
  const uint32_t magnitude = float_to_bits(v) & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or more
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 rounds to the spacing of subnormal halves
    half = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  out->bits = static_cast<uint16_t>(sign | half);
}

// ---- whole vectors --------------------------------------------------------------------------------------------------

GRADMIX_INLINE vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
GRADMIX_INLINE vd load(const double* p) {
  vd v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
GRADMIX_INLINE vf load(const bf16* p) {
  vh half;
  __builtin_memcpy(&half, p, sizeof half);
#if GRADMIX_VECTOR_BYTES == 64  // one instruction, where GCC makes four of the conversion
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)half), 16);
#elif GRADMIX_VECTOR_BYTES == 32
  return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)half), 16);
#else
  return (vf)(__builtin_convertvector(half, vu) << 16);
#endif
}
GRADMIX_INLINE vf load(const f16* p) {
#if GRADMIX_VECTOR_BYTES == 64
  __m256i half;
  __builtin_memcpy(&half, p, sizeof half);
  return (vf)_mm512_cvtph_ps(half);
#elif GRADMIX_VECTOR_BYTES == 32
  __m128i half;
  __builtin_memcpy(&half, p, sizeof half);
  return (vf)_mm256_cvtph_ps(half);
#else
  vf v;
  for (int i = 0; i < lanes<float>; ++i) v[i] = widen(p[i]);
  return v;
#endif
}

GRADMIX_INLINE void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
GRADMIX_INLINE void store(double* p, vd v) { __builtin_memcpy(p, &v, sizeof v); }
// Rounded to nearest even; the result is in the upper 16 bits.
GRADMIX_INLINE vu round_bf16(vf v) {
  const vu bits = (vu)v;
  const vu rounded = bits + (((bits >> 16) & 1u) + 0x7fffu);
  return v != v ? vu{} + 0x7fc00000u : rounded;
}
GRADMIX_INLINE void store(bf16* p, vf v) {
  const vh half = __builtin_convertvector(round_bf16(v) >> 16, vh);
  __builtin_memcpy(p, &half, sizeof half);
}
GRADMIX_INLINE void store(f16* p, vf v) {
#if GRADMIX_VECTOR_BYTES == 64
  const __m256i half = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __builtin_memcpy(p, &half, sizeof half);
#elif GRADMIX_VECTOR_BYTES == 32
  const __m128i half = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __builtin_memcpy(p, &half, sizeof half);
#else
  for (int i = 0; i < lanes<float>; ++i) narrow(v[i], p + i);
#endif
}

// ---- stores that go around the cache: p is aligned to the register --------------------------------------------------

#if defined(__x86_64__)
#if GRADMIX_VECTOR_BYTES == 64
GRADMIX_INLINE void stream_register(void* p, vi v) { _mm512_stream_si512(static_cast<__m512i*>(p), (__m512i)v); }
#elif GRADMIX_VECTOR_BYTES == 32
GRADMIX_INLINE void stream_register(void* p, vi v) { _mm256_stream_si256(static_cast<__m256i*>(p), (__m256i)v); }
#else
GRADMIX_INLINE void stream_register(void* p, vi v) { _mm_stream_si128(static_cast<__m128i*>(p), (__m128i)v); }
#endif
GRADMIX_INLINE void stream_fence() { _mm_sfence(); }
#else
GRADMIX_INLINE void stream_register(void* p, vi v) { __builtin_memcpy(p, &v, sizeof v); }
GRADMIX_INLINE void stream_fence() {}
#endif

// ---- part of a vector -----------------------------------------------------------------------------------------------

template <class T>
GRADMIX_INLINE vec_t<acc_t<T>> load_part(const T* p, int count, acc_t<T> fill) {
  vec_t<acc_t<T>> v = splat<acc_t<T>>(fill);
  for (int i = 0; i < count; ++i) v[i] = widen(p[i]);
  return v;
}
template <class T>
GRADMIX_INLINE void store_part(T* p, vec_t<acc_t<T>> v, int count) {
  for (int i = 0; i < count; ++i) narrow(v[i], p + i);
}
#if GRADMIX_VECTOR_BYTES == 64
template <>
inline __attribute__((always_inline)) vf load_part<float>(const float* p, int count, float fill) {
  return (vf)_mm512_mask_loadu_ps((__m512)splat<float>(fill), static_cast<__mmask16>((1u << count) - 1u), p);
}
template <>
inline __attribute__((always_inline)) vd load_part<double>(const double* p, int count, double fill) {
  return (vd)_mm512_mask_loadu_pd((__m512d)splat<double>(fill), static_cast<__mmask8>((1u << count) - 1u), p);
}
GRADMIX_INLINE __mmask16 first_of(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
template <>
inline __attribute__((always_inline)) vf load_part<bf16>(const bf16* p, int count, float fill) {
  const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_of(count), p)), 16);
  return (vf)_mm512_mask_mov_ps((__m512)splat<float>(fill), first_of(count), (__m512)wide);
}
template <>
inline __attribute__((always_inline)) vf load_part<f16>(const f16* p, int count, float fill) {
  const __m256i half = _mm256_maskz_loadu_epi16(first_of(count), p);
  return (vf)_mm512_mask_cvtph_ps((__m512)splat<float>(fill), first_of(count), half);
}
template <>
inline __attribute__((always_inline)) void store_part<bf16>(bf16* p, vf v, int count) {
  const vh half = __builtin_convertvector(round_bf16(v) >> 16, vh);
  _mm256_mask_storeu_epi16(p, first_of(count), (__m256i)half);
}
template <>
inline __attribute__((always_inline)) void store_part<f16>(f16* p, vf v, int count) {
  const __m256i half = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_mask_storeu_epi16(p, first_of(count), half);
}
template <>
inline __attribute__((always_inline)) void store_part<float>(float* p, vf v, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1u), (__m512)v);
}
template <>
inline __attribute__((always_inline)) void store_part<double>(double* p, vd v, int count) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << count) - 1u), (__m512d)v);
}
#endif

// ---- one register of stored elements --------------------------------------------------------------------------------
// A register of half-precision elements widens to two vectors, in whatever order is cheapest: bf16 splits into its even and its odd
// elements, which takes a shift and a mask instead of shuffles. For element-wise arithmetic the order does not matter.

template <class T>
constexpr int group_vectors = static_cast<int>(sizeof(acc_t<T>) / sizeof(T));
template <class T>
constexpr int group_size = GRADMIX_VECTOR_BYTES / static_cast<int>(sizeof(T));

GRADMIX_INLINE void load_group(const float* p, vf* v) { v[0] = load(p); }
GRADMIX_INLINE void load_group(const double* p, vd* v) { v[0] = load(p); }
GRADMIX_INLINE void load_group(const f16* p, vf* v) {
  v[0] = load(p);
  v[1] = load(p + lanes<float>);
}
GRADMIX_INLINE void load_group(const bf16* p, vf* v) {
  vu both;
  __builtin_memcpy(&both, p, sizeof both);
  v[0] = (vf)(both << 16);
  v[1] = (vf)(both & 0xffff0000u);
}

GRADMIX_INLINE vi pack_group(const float*, const vf* v) { return (vi)v[0]; }
GRADMIX_INLINE vi pack_group(const double*, const vd* v) { return (vi)v[0]; }
GRADMIX_INLINE vi pack_group(const bf16*, const vf* v) {
  return (vi)((round_bf16(v[0]) >> 16) | (round_bf16(v[1]) & 0xffff0000u));
}
GRADMIX_INLINE vi pack_group(const f16*, const vf* v) {
#if GRADMIX_VECTOR_BYTES == 64
  constexpr int rounding = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m512i low = _mm512_castsi256_si512(_mm512_cvtps_ph((__m512)v[0], rounding));
  return (vi)_mm512_inserti64x4(low, _mm512_cvtps_ph((__m512)v[1], rounding), 1);
#elif GRADMIX_VECTOR_BYTES == 32
  constexpr int rounding = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m256i low = _mm256_castsi128_si256(_mm256_cvtps_ph((__m256)v[0], rounding));
  return (vi)_mm256_inserti128_si256(low, _mm256_cvtps_ph((__m256)v[1], rounding), 1);
#else
  f16 half[group_size<f16>];
  store(half, v[0]);
  store(half + lanes<float>, v[1]);
  vi packed;
  __builtin_memcpy(&packed, half, sizeof packed);
  return packed;
#endif
}

// With `stream`, p is aligned to the register and the store goes around the cache.
template <class T>
GRADMIX_INLINE void store_group(T* p, const vec_t<acc_t<T>>* v, bool stream) {
  const vi packed = pack_group(p, v);
  if (stream)
    stream_register(p, packed);
  else
    __builtin_memcpy(p, &packed, sizeof packed);
}

// ---- reductions over the lanes --------------------------------------------------------------------------------------

#if GRADMIX_VECTOR_BYTES == 64
template <int By>
GRADMIX_INLINE vf rotate(vf v) {
  return __builtin_shufflevector(v, v, (0 + By) % 16, (1 + By) % 16, (2 + By) % 16, (3 + By) % 16, (4 + By) % 16, (5 + By) % 16, (6 + By) % 16, (7 + By) % 16,
                                  (8 + By) % 16, (9 + By) % 16, (10 + By) % 16, (11 + By) % 16, (12 + By) % 16, (13 + By) % 16, (14 + By) % 16, (15 + By) % 16);
}
template <int By>
GRADMIX_INLINE vd rotate(vd v) {
  return __builtin_shufflevector(v, v, (0 + By) % 8, (1 + By) % 8, (2 + By) % 8, (3 + By) % 8, (4 + By) % 8, (5 + By) % 8, (6 + By) % 8, (7 + By) % 8);
}
#elif GRADMIX_VECTOR_BYTES == 32
template <int By>
GRADMIX_INLINE vf rotate(vf v) {
  return __builtin_shufflevector(v, v, (0 + By) % 8, (1 + By) % 8, (2 + By) % 8, (3 + By) % 8, (4 + By) % 8, (5 + By) % 8, (6 + By) % 8, (7 + By) % 8);
}
template <int By>
GRADMIX_INLINE vd rotate(vd v) {
  return __builtin_shufflevector(v, v, (0 + By) % 4, (1 + By) % 4, (2 + By) % 4, (3 + By) % 4);
}
#else
template <int By>
GRADMIX_INLINE vf rotate(vf v) {
  return __builtin_shufflevector(v, v, (0 + By) % 4, (1 + By) % 4, (2 + By) % 4, (3 + By) % 4);
}
template <int By>
GRADMIX_INLINE vd rotate(vd v) {
  return __builtin_shufflevector(v, v, (0 + By) % 2, (1 + By) % 2);
}
#endif

// One instruction. A NaN may be passed over: what it is needed for, a softmax, meets it again in the sum of the exponentials.
GRADMIX_INLINE vf max_of(vf a, vf b) {
#if GRADMIX_VECTOR_BYTES == 64
  return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif GRADMIX_VECTOR_BYTES == 32
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}
GRADMIX_INLINE vd max_of(vd a, vd b) {
#if GRADMIX_VECTOR_BYTES == 64
  return (vd)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif GRADMIX_VECTOR_BYTES == 32
  return (vd)_mm256_max_pd((__m256d)a, (__m256d)b);
#else
  return a > b ? a : b;
#endif
}

// The sum or the maximum of the lanes, in halving steps.
template <class A, bool Max, int By>
GRADMIX_INLINE vec_t<A> fold(vec_t<A> v) {
  const vec_t<A> other = rotate<By>(v);
  const vec_t<A> both = Max ? max_of(v, other) : v + other;
  if constexpr (By > 1)
    return fold<A, Max, By / 2>(both);
  else
    return both;
}
template <class A>
GRADMIX_INLINE A sum_lanes(vec_t<A> v) {
  return fold<A, false, lanes<A> / 2>(v)[0];
}
template <class A>
GRADMIX_INLINE A max_lanes(vec_t<A> v) {
  return fold<A, true, lanes<A> / 2>(v)[0];
}

// ---- exp ------------------------------------------------------------------------------------------------------------
// x = n ln 2 + r with |r| <= ln 2 / 2, e^x = 2^n e^r. Adding 1.5 * 2^23 (2^52) rounds to an integer and leaves it in the low bits.
// Arguments are at most 0 (logits minus their maximum) or NaN; results below the normal numbers become 0.

GRADMIX_INLINE vf exp_nonpositive(vf x) {
  const vf shifted = x * 1.44269504088896341f + 12582912.0f;
  const vf n = shifted - 12582912.0f;
  const vf r = (x - n * 0.693145751953125f) - n * 1.428606820309417e-06f;
  // least-squares fit of (e^r - 1 - r) / r^2 on the Chebyshev nodes
  vf p = r * 1.9823118294873588e-04f + 1.394567312734378e-03f;
  p = p * r + 8.333435745298958e-03f;
  p = p * r + 4.16662765427258e-02f;
  p = p * r + 1.6666666141794262e-01f;
  p = p * r + 5.000000075514119e-01f;
  p = (p * r) * r + r + 1.0f;
  const vf scale = (vf)(((vu)shifted + 127u) << 23);
  return x < -87.33654f ? vf{} : p * scale;
}
GRADMIX_INLINE vd exp_nonpositive(vd x) {
  const vd shifted = x * 1.4426950408889634074 + 6755399441055744.0;
  const vd n = shifted - 6755399441055744.0;
  const vd r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  // Taylor: the remainder r^14 / 14! is below 5e-18
  vd p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = (p * r) * r + r + 1.0;
  const vd scale = (vd)(((vul)shifted + 1023u) << 52);
  return x < -708.39641853226408 ? vd{} : p * scale;
}

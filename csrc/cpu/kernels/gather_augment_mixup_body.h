// gather_augment_mixup; compiled once per instruction set by foreach_level.h.
//
// The output is made in blocks of 16 elements. Crop and flip are the same for every line of an image, so where a block's 16 bytes come
// from is prepared once (ByteTap), and one byte shuffle per block shifts, mirrors and blackens.

constexpr int block = 16;
using vb = uint8_t __attribute__((vector_size(block)));

#define GRADMIX_MEMBER inline __attribute__((always_inline))

GRADMIX_INLINE vb load_bytes(const uint8_t* p) {
  vb bytes;
  __builtin_memcpy(&bytes, p, block);
  return bytes;
}
GRADMIX_INLINE vb load_bytes(const uint8_t* p, int64_t available) {
  uint8_t bytes[block] = {};
  for (int64_t i = 0; i < available; ++i) bytes[i] = p[i];
  return load_bytes(bytes);
}

// bytes[control], 0 where control is no_byte.
GRADMIX_INLINE vb pick(vb bytes, vb control) {
#if GRADMIX_VECTOR_BYTES >= 32
  return (vb)_mm_shuffle_epi8((__m128i)bytes, (__m128i)control);
#else
  uint8_t source[2 * block] = {}, result[block];
  __builtin_memcpy(source, &bytes, block);
  for (int i = 0; i < block; ++i) result[i] = source[control[i] % (2 * block)];
  return load_bytes(result);
#endif
}

template <class A>
constexpr int block_vectors = block / lanes<A>;

// 16 bytes as vectors of floats or doubles.
GRADMIX_INLINE void widen_bytes(vb bytes, vf* v) {
#if GRADMIX_VECTOR_BYTES == 64
  v[0] = (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)bytes));
#elif GRADMIX_VECTOR_BYTES == 32
  v[0] = (vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32((__m128i)bytes));
  v[1] = (vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128((__m128i)bytes, 8)));
#else
  for (int k = 0; k < block_vectors<float>; ++k)
    v[k] = __builtin_convertvector(vi{bytes[4 * k], bytes[4 * k + 1], bytes[4 * k + 2], bytes[4 * k + 3]}, vf);
#endif
}
GRADMIX_INLINE void widen_bytes(vb bytes, vd* v) {
  vf floats[block_vectors<float>];  // hold every byte exactly
  widen_bytes(bytes, floats);
  for (int k = 0; k < block_vectors<float>; ++k) {
    const vf f = floats[k];
#if GRADMIX_VECTOR_BYTES == 64
    v[2 * k] = (vd)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)f));
    v[2 * k + 1] = (vd)_mm512_cvtps_pd((__m256)_mm512_extractf64x4_pd((__m512d)f, 1));
#elif GRADMIX_VECTOR_BYTES == 32
    v[2 * k] = (vd)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)f));
    v[2 * k + 1] = (vd)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)f, 1));
#else
    v[2 * k] = vd{f[0], f[1]};
    v[2 * k + 1] = vd{f[2], f[3]};
#endif
  }
}

// The first `count` elements of a block.
template <class T, class V>
GRADMIX_INLINE void store_first(T* p, const V* v, int count) {
  constexpr int w = lanes<acc_t<T>>;
  for (int k = 0; k * w < count; ++k) store_part(p + k * w, v[k], count - k * w < w ? count - k * w : w);
}

// One line of an image, seen through the crop and flip of its view. Whole: every block is one tap, and a line has 16 bytes at least.
template <class A, bool Whole>
struct ViewLine {
  const uint8_t* bytes;
  const ByteTap* taps;
  int64_t taps_per_block;
  int64_t span;
  A weight;  // 0 for a line outside of the image: what is read in its place does not count

  GRADMIX_MEMBER ViewLine(const GatherAugmentMixupParams& p, const ImageView& view, int64_t plane, int64_t y)
      : taps(view.taps), taps_per_block(view.taps_per_block), span(p.span) {
    const int64_t row = y + view.shift;
    const bool inside = row >= 0 && row < p.rows;
    bytes = view.image + plane * p.plane_stride + (inside ? row : 0) * p.row_stride;
    weight = inside ? static_cast<A>(view.weight) : A(0);
  }
  GRADMIX_MEMBER vb read(int64_t b) const {
    if constexpr (Whole) {
      return pick(load_bytes(bytes + taps[b].offset), load_bytes(taps[b].control));
    } else {
      vb result{};
      for (const ByteTap* tap = taps + b * taps_per_block; tap < taps + (b + 1) * taps_per_block; ++tap)
        result |= pick(span < block ? load_bytes(bytes, span) : load_bytes(bytes + tap->offset), load_bytes(tap->control));
      return result;
    }
  }
};

template <class T, bool Whole>
void mix_views(const GatherAugmentMixupParams& p, const ImageView& own_view, const ImageView& partner_view, const ImageView* next,
               T* out) {
  using A = acc_t<T>;
  constexpr int v = block_vectors<A>;
  const T* const sample_end = out + p.planes * p.rows * p.line;
  for (int64_t plane = 0; plane < p.planes; ++plane)
    for (int64_t y = 0; y < p.rows; ++y, out += p.line) {
      for (int role = 0; role < 2; ++role) __builtin_prefetch(next[role].image + plane * p.plane_stride + y * p.row_stride);
      const ViewLine<A, Whole> own(p, own_view, plane, y), partner(p, partner_view, plane, y);
      const A* scale = static_cast<const A*>(p.scale) + (p.interleaved ? 0 : plane * block);
      const A* shift = static_cast<const A*>(p.shift) + (p.interleaved ? 0 : plane * block);
      for (int64_t first = 0; first < p.line; first += block) {
        vec_t<A> mine[v], other[v];
        widen_bytes(own.read(first / block), mine);
        widen_bytes(partner.read(first / block), other);
        for (int k = 0; k < v; ++k) {
          const int64_t at = (p.interleaved ? first : 0) + k * lanes<A>;
          mine[k] = load(scale + at) * (splat<A>(own.weight) * mine[k] + splat<A>(partner.weight) * other[k]) + load(shift + at);
        }
        // A block that reaches beyond its line spills into the next one, which is written later.
        T* const to = out + first;
        const int64_t rest = sample_end - to;
        if (rest >= block)
          for (int k = 0; k < v; ++k) store(to + k * lanes<A>, mine[k]);
        else
          store_first(to, mine, static_cast<int>(rest));
      }
    }
}

template <class T>
void gather_augment_mixup_samples(const GatherAugmentMixupParams& p, int64_t begin, int64_t end) {
  const int64_t sample_size = p.planes * p.rows * p.line;
  for (int64_t i = begin; i < end; ++i) {
    const ImageView *views = p.views + 2 * i, *next = i + 1 < end ? views + 2 : views;
    T* out = static_cast<T*>(p.out) + i * sample_size;
    if (p.span >= block && views[0].taps_per_block == 1 && views[1].taps_per_block == 1)
      mix_views<T, true>(p, views[0], views[1], next, out);
    else
      mix_views<T, false>(p, views[0], views[1], next, out);
  }
}

void gather_augment_mixup(const GatherAugmentMixupParams& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::f32:
      return gather_augment_mixup_samples<float>(p, begin, end);
    case DType::f64:
      return gather_augment_mixup_samples<double>(p, begin, end);
    case DType::f16:
      return gather_augment_mixup_samples<f16>(p, begin, end);
    case DType::bf16:
      return gather_augment_mixup_samples<bf16>(p, begin, end);
  }
}
#undef GRADMIX_MEMBER

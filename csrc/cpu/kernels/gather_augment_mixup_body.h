// gather_augment_mixup; compiled once per instruction set by foreach_level.h.
//
// The output is made in blocks of 16 elements. Crop and flip are the same for every line of an image, so where a block's 16 bytes come
// from is prepared once (ByteTap), and one byte shuffle per block shifts, mirrors and blackens.

constexpr int block = 16;
using vb = uint8_t __attribute__((vector_size(block)));

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

// The first `count` elements of a block, where it reaches beyond the sample.
template <class T, class V>
__attribute__((noinline, cold)) void store_first(T* p, const V* v, int64_t count) {
  constexpr int w = lanes<acc_t<T>>;
  for (int k = 0; k * w < count; ++k) store_part(p + k * w, v[k], static_cast<int>(count - k * w < w ? count - k * w : w));
}

// An image through the crop and flip of its view, line by line. Whole: every block is one tap, and a line has 16 bytes at least.
template <class A, bool Whole>
struct ViewReader {
  const ImageView view;
  int64_t span;
  const uint8_t* line;
  const ByteTap* tap;
  A weight;

  // The line of the output at row y of the plane that starts `offset` bytes into the image.
  GRADMIX_MEMBER void start(int64_t offset, int64_t y, int64_t rows, int64_t row_stride) {
    const int64_t row = y + view.shift;
    const bool inside = row >= 0 && row < rows;
    // In place of a line outside of the image another one is read, and does not count.
    line = view.image + offset + (inside ? row : 0) * row_stride;
    weight = inside ? static_cast<A>(view.weight) : A(0);
    tap = view.taps;
  }
  // The next 16 bytes.
  GRADMIX_MEMBER vb next() {
    if constexpr (Whole) {
      const ByteTap& only = *tap++;
      return pick(load_bytes(line + only.offset), load_bytes(only.control));
    } else {
      vb result{};
      for (const ByteTap* const end = tap + view.taps_per_block; tap < end; ++tap)
        result |= pick(span < block ? load_bytes(line, span) : load_bytes(line + tap->offset), load_bytes(tap->control));
      return result;
    }
  }
};

// The sample that two views make. `next` are the views of the sample after it, whose bytes are asked for early.
template <class T, bool Whole>
void mix_views(const GatherAugmentMixupParams p, const ImageView* views, const ImageView* next, T* out) {
  using A = acc_t<T>;
  constexpr int v = block_vectors<A>;
  const T* const sample_end = out + p.planes * p.rows * p.line;
  const int64_t coefficient_step = p.interleaved ? block : 0;
  const uint8_t *next_own = next[0].image, *next_partner = next[1].image;
  ViewReader<A, Whole> own{views[0], p.span}, partner{views[1], p.span};
  for (int64_t plane = 0; plane < p.planes; ++plane)
    for (int64_t y = 0; y < p.rows; ++y, out += p.line) {
      const int64_t offset = plane * p.plane_stride;
      __builtin_prefetch(next_own + offset + y * p.row_stride);
      __builtin_prefetch(next_partner + offset + y * p.row_stride);
      own.start(offset, y, p.rows, p.row_stride);
      partner.start(offset, y, p.rows, p.row_stride);
      const A* scale = static_cast<const A*>(p.scale) + plane * block;  // there is but one plane where channels are interleaved
      const A* shift = static_cast<const A*>(p.shift) + plane * block;
      for (T *to = out, *end = out + p.line; to < end; to += block, scale += coefficient_step, shift += coefficient_step) {
        vec_t<A> mine[v], other[v];
        widen_bytes(own.next(), mine);
        widen_bytes(partner.next(), other);
        for (int k = 0; k < v; ++k) {
          const vec_t<A> both = splat<A>(own.weight) * mine[k] + splat<A>(partner.weight) * other[k];
          mine[k] = load(scale + k * lanes<A>) * both + load(shift + k * lanes<A>);
        }
        // A block that reaches beyond its line spills into the next one, which is written later.
        if (sample_end - to >= block) [[likely]]
          for (int k = 0; k < v; ++k) store(to + k * lanes<A>, mine[k]);
        else
          store_first(to, mine, sample_end - to);
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
      mix_views<T, true>(p, views, next, out);
    else
      mix_views<T, false>(p, views, next, out);
  }
}

void gather_augment_mixup(const GatherAugmentMixupParams& p, int64_t begin, int64_t end) {
  GRADMIX_BY_DTYPE(p.dtype, gather_augment_mixup_samples, p, begin, end)
}

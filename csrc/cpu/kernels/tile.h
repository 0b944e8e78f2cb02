// Register tiles of matrix products. Part of a kernel body: included inside the namespace of a level.
//
// Two shapes serve every op. `panel_tile` multiplies broadcast elements by vectors that lie along the columns of the result;
// `dot_tile` multiplies rows by rows along their length and is for products whose two factors are the same matrix. They are used in
// place of a BLAS because the factors here are short, are still in the cache from the step before, and need half of the result:
// a general GEMM would pack them again and compute both halves.

#if GRADMIX_VECTOR_BYTES == 64
constexpr int tile_rows = 8;  // 24 of 32 registers accumulate
constexpr int dot_rows = 5;   // 25 of 32
#else
constexpr int tile_rows = 4;  // 12 of 16 registers accumulate
constexpr int dot_rows = 3;   // 9 of 16
#endif
constexpr int tile_vectors = 3;

// Zeros element by element: in registers. As an initialiser it becomes a memset of the stack, a tenth of the time of a short tile.
template <class A, int N>
GRADMIX_INLINE void clear(vec_t<A> (&sum)[N]) {
#pragma GCC unroll 32
  for (int i = 0; i < N; ++i) sum[i] = splat<A>(A(0));
}
template <class A, int R, int V>
GRADMIX_INLINE void clear(vec_t<A> (&sum)[R][V]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) clear<A, V>(sum[r]);
}

// sum[r][v] += sum over p < depth of a[r * row_step + p * depth_step] * b[p * b_stride + v-th vector].
template <class A, int R, int V>
GRADMIX_INLINE void panel_tile(const A* a, int64_t row_step, int64_t depth_step, const A* b, int64_t b_stride, int64_t depth,
                               vec_t<A> (&sum)[R][V]) {
  constexpr int w = lanes<A>;
  for (int64_t p = 0; p < depth; ++p, a += depth_step, b += b_stride) {
    vec_t<A> row[V];
    for (int v = 0; v < V; ++v) row[v] = load(b + v * w);
    for (int r = 0; r < R; ++r) {
      const vec_t<A> scale = splat<A>(a[r * row_step]);
      for (int v = 0; v < V; ++v) sum[r][v] += scale * row[v];
    }
  }
}

// sum[r * dot_rows + s] += a_r * b_s, lane by lane, for rows of `vectors` vectors. The rows of a and of b are interleaved: the first
// vectors of all rows, then the second ones, and so on.
template <class A>
GRADMIX_INLINE void dot_tile(const A* a, const A* b, int64_t vectors, vec_t<A> (&sum)[dot_rows * dot_rows]) {
  constexpr int w = lanes<A>;
  for (int64_t p = 0; p < vectors; ++p, a += dot_rows * w, b += dot_rows * w) {
    vec_t<A> left[dot_rows];
    for (int r = 0; r < dot_rows; ++r) left[r] = load(a + r * w);
    for (int s = 0; s < dot_rows; ++s) {
      const vec_t<A> right = load(b + s * w);
      for (int r = 0; r < dot_rows; ++r) sum[r * dot_rows + s] += left[r] * right;
    }
  }
}

// Sums of neighbouring lanes: those of a in the first half, those of b in the second.
#if GRADMIX_VECTOR_BYTES == 64
GRADMIX_INLINE vf pair_sums(vf a, vf b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
         __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
GRADMIX_INLINE vd pair_sums(vd a, vd b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) + __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}
#elif GRADMIX_VECTOR_BYTES == 32
GRADMIX_INLINE vf pair_sums(vf a, vf b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) + __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}
GRADMIX_INLINE vd pair_sums(vd a, vd b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
}
#else
GRADMIX_INLINE vf pair_sums(vf a, vf b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
}
GRADMIX_INLINE vd pair_sums(vd a, vd b) {
  return __builtin_shufflevector(a, b, 0, 2) + __builtin_shufflevector(a, b, 1, 3);
}
#endif

// out[i] = the sum of the lanes of v[i], for all i together: after log2(lanes) rounds of pair_sums a vector holds `lanes` of the sums.
template <class A, int N>
GRADMIX_INLINE void sum_each(vec_t<A> (&v)[N], A* out) {
  int count = N;
  for (int width = lanes<A>; width > 1; width /= 2) {
    const int half = (count + 1) / 2;
    for (int i = 0; i < half; ++i) v[i] = pair_sums(v[2 * i], v[2 * i + 1 < count ? 2 * i + 1 : 2 * i]);
    count = half;
  }
  for (int i = 0; i < count; ++i) store(out + i * lanes<A>, v[i]);
}

// masked_mixup and its adjoint; compiled once per instruction set by foreach_level.h.

template <class T>
constexpr int vectors_per_line = 64 / (lanes<acc_t<T>> * static_cast<int>(sizeof(T))) > 0
                                     ? 64 / (lanes<acc_t<T>> * static_cast<int>(sizeof(T)))
                                     : 1;

// Elements before p reaches a 64-byte boundary; all of them if it never does.
template <class T>
GRADMIX_INLINE int64_t elements_to_line(const T* p, int64_t count) {
  const uint64_t past = reinterpret_cast<uint64_t>(p) % 64;
  if (past == 0) return 0;
  const int64_t ahead = (64 - past) % sizeof(T) == 0 ? static_cast<int64_t>((64 - past) / sizeof(T)) : count;
  return ahead < count ? ahead : count;
}

// Narrowed vectors of one 64-byte line, written past the cache.
template <class T>
GRADMIX_INLINE void stream_line(T* p, const vec_t<acc_t<T>>* v) {
  constexpr int count = vectors_per_line<T>;
  alignas(64) T line[64 / sizeof(T)];
  for (int i = 0; i < count; ++i) store(line + i * lanes<acc_t<T>>, v[i]);
  for (int i = 0; i < 64 / GRADMIX_VECTOR_BYTES; ++i) {
    vi piece;
    __builtin_memcpy(&piece, reinterpret_cast<const char*>(line) + i * GRADMIX_VECTOR_BYTES, sizeof piece);
    stream_bytes(reinterpret_cast<char*>(p) + i * GRADMIX_VECTOR_BYTES, piece);
  }
}

template <class T>
GRADMIX_INLINE void mix_part(const T* x, const T* y, T* out, int64_t count, acc_t<T> a, acc_t<T> b) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>;
  for (; count >= w; count -= w, x += w, y += w, out += w) store(out, splat<A>(a) * load(x) + splat<A>(b) * load(y));
  const int rest = static_cast<int>(count);
  if (rest > 0)
    store_part(out, splat<A>(a) * load_part(x, rest, A(0)) + splat<A>(b) * load_part(y, rest, A(0)), rest);
}

template <class T>
void mix_piece(const T* x, const T* y, T* out, int64_t count, acc_t<T> a, acc_t<T> b, bool stream) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>, v = vectors_per_line<T>, line = w * v;
  if (stream) {
    const int64_t head = elements_to_line(out, count);
    mix_part(x, y, out, head, a, b);
    x += head, y += head, out += head, count -= head;
    for (; count >= line; count -= line, x += line, y += line, out += line) {
      vec_t<A> mixed[v];
      for (int i = 0; i < v; ++i) mixed[i] = splat<A>(a) * load(x + i * w) + splat<A>(b) * load(y + i * w);
      stream_line(out, mixed);
    }
  }
  mix_part(x, y, out, count, a, b);
}

template <class T>
void copy_piece(const T* x, T* out, int64_t count, bool stream) {
  if (stream) {
    const int64_t head = elements_to_line(out, count);
    __builtin_memcpy(out, x, static_cast<size_t>(head) * sizeof(T));
    x += head, out += head, count -= head;
    constexpr int64_t line = 64 / sizeof(T);
    for (; count >= line; count -= line, x += line, out += line)
      for (int i = 0; i < 64 / GRADMIX_VECTOR_BYTES; ++i) {
        vi piece;
        __builtin_memcpy(&piece, reinterpret_cast<const char*>(x) + i * GRADMIX_VECTOR_BYTES, sizeof piece);
        stream_bytes(reinterpret_cast<char*>(out) + i * GRADMIX_VECTOR_BYTES, piece);
      }
  }
  __builtin_memcpy(out, x, static_cast<size_t>(count) * sizeof(T));
}

// Task t is the chunk t / samples of the sample order[t % samples]: neighbouring tasks read neighbours of a chain i -> partner[i],
// so a chunk read as a partner is still in the cache when its own turn comes.
template <class T>
void mixup_tasks(const MixupParams& p, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const T* x = static_cast<const T*>(p.x);
  T* out = static_cast<T*>(p.out);
  const A* lam = static_cast<const A*>(p.lam);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t i = p.order != nullptr ? p.order[t % p.samples] : t % p.samples;
    const int64_t first = t / p.samples * p.chunk;
    const int64_t left = p.sample_size - first;
    const int64_t count = left < p.chunk ? left : p.chunk;
    const int64_t at = i * p.sample_size + first;
    if (p.mask != nullptr && p.mask[i] == 0) {
      copy_piece(x + at, out + at, count, p.stream);
    } else {
      const A a = lam[i * p.lam_stride];
      mix_piece(x + at, x + p.partner[i] * p.sample_size + first, out + at, count, a, A(1) - a, p.stream);
    }
  }
  if (p.stream) stream_fence();
}

// The pieces of one destination and of its sources, all starting at the same element of a sample.
template <class T>
struct Gather {
  const T* grad;
  int64_t sample_size;
  int64_t destination;
  const int64_t* sources;
  int64_t source_count;
  acc_t<T> own;
  const acc_t<T>* weight;
};

template <class T>
GRADMIX_INLINE void gather_part(const Gather<T>& g, int64_t first, int64_t count, T* out) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>;
  const T* here = g.grad + g.destination * g.sample_size + first;
  for (int64_t done = 0; done < count; done += w) {
    const int rest = count - done < w ? static_cast<int>(count - done) : w;
    vec_t<A> sum = splat<A>(g.own) * load_part(here + done, rest, A(0));
    for (int64_t s = 0; s < g.source_count; ++s) {
      const int64_t i = g.sources[s];
      sum += splat<A>(g.weight[i]) * load_part(g.grad + i * g.sample_size + first + done, rest, A(0));
    }
    store_part(out + done, sum, rest);
  }
}

template <class T>
void gather_piece(const Gather<T>& g, int64_t first, int64_t count, T* out, bool stream) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>, v = vectors_per_line<T>, line = w * v;
  const int64_t head = stream ? elements_to_line(out, count) : 0;
  gather_part(g, first, head, out);
  int64_t done = head;
  for (; done + line <= count; done += line) {
    const T* here = g.grad + g.destination * g.sample_size + first + done;
    vec_t<A> sum[v];
    for (int k = 0; k < v; ++k) sum[k] = splat<A>(g.own) * load(here + k * w);
    for (int64_t s = 0; s < g.source_count; ++s) {
      const int64_t i = g.sources[s];
      const T* source = g.grad + i * g.sample_size + first + done;
      for (int k = 0; k < v; ++k) sum[k] += splat<A>(g.weight[i]) * load(source + k * w);
    }
    if (stream) {
      stream_line(out + done, sum);
    } else {
      for (int k = 0; k < v; ++k) store(out + done + k * w, sum[k]);
    }
  }
  gather_part(g, first + done, count - done, out + done);
}

template <class T>
void mixup_backward_tasks(const MixupBackwardParams& p, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t j = p.order != nullptr ? p.order[t % p.samples] : t % p.samples;
    const int64_t first = t / p.samples * p.chunk;
    const int64_t left = p.sample_size - first;
    const Gather<T> g{static_cast<const T*>(p.grad), p.sample_size, j, p.sources + p.offsets[j],
                      p.offsets[j + 1] - p.offsets[j], static_cast<const A*>(p.own)[j], static_cast<const A*>(p.weight)};
    gather_piece(g, first, left < p.chunk ? left : p.chunk, static_cast<T*>(p.out) + j * p.sample_size + first, p.stream);
  }
  if (p.stream) stream_fence();
}

void masked_mixup(const MixupParams& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::f32:
      return mixup_tasks<float>(p, begin, end);
    case DType::f64:
      return mixup_tasks<double>(p, begin, end);
    case DType::f16:
      return mixup_tasks<f16>(p, begin, end);
    case DType::bf16:
      return mixup_tasks<bf16>(p, begin, end);
  }
}

void masked_mixup_backward(const MixupBackwardParams& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::f32:
      return mixup_backward_tasks<float>(p, begin, end);
    case DType::f64:
      return mixup_backward_tasks<double>(p, begin, end);
    case DType::f16:
      return mixup_backward_tasks<f16>(p, begin, end);
    case DType::bf16:
      return mixup_backward_tasks<bf16>(p, begin, end);
  }
}

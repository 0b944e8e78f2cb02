// masked_mixup and its adjoint; compiled once per instruction set by foreach_level.h.

// Elements before p reaches a 64-byte boundary; all of them if it never does.
template <class T>
GRADMIX_INLINE int64_t elements_to_line(const T* p, int64_t count) {
  const uint64_t past = reinterpret_cast<uint64_t>(p) % 64;
  if (past == 0) return 0;
  const int64_t ahead = (64 - past) % sizeof(T) == 0 ? static_cast<int64_t>((64 - past) / sizeof(T)) : count;
  return ahead < count ? ahead : count;
}

constexpr int line_bytes = 64;
// Registers in a cache line.
constexpr int line_groups = line_bytes / GRADMIX_VECTOR_BYTES;

template <class T>
GRADMIX_INLINE void mix_part(const T* x, const T* y, T* out, int64_t count, acc_t<T> a, acc_t<T> b) {
  using A = acc_t<T>;
  constexpr int w = lanes<A>;
  for (int64_t done = 0; done < count; done += w) {
    const int rest = count - done < w ? static_cast<int>(count - done) : w;
    store_part(out + done, splat<A>(a) * load_part(x + done, rest, A(0)) + splat<A>(b) * load_part(y + done, rest, A(0)), rest);
  }
}

// One chunk of a sample: what is read and written.
template <class T>
struct Piece {
  const T* own;
  const T* partner;
  T* out;
  int64_t count;
  acc_t<T> lam;
  bool mixed;
};

// While a piece is mixed, a later one is asked for, line by line. Its partner lies anywhere, a few pages long, so the hardware would
// wait for it at its start and again at every page; the address may run past the end of a shorter piece, which a prefetch may.
template <class T>
GRADMIX_INLINE void ask_for(const Piece<T>& piece, int64_t element) {
  __builtin_prefetch(piece.own + element);
  __builtin_prefetch(piece.partner + element);
}

template <class T, bool Stream>
GRADMIX_INLINE void mix_piece(const Piece<T>& piece, const Piece<T>& later) {
  using A = acc_t<T>;
  constexpr int v = group_vectors<T>, size = group_size<T>, unroll = line_groups;
  const T *x = piece.own, *y = piece.partner;
  T* const out = piece.out;
  const int64_t count = piece.count;
  const A a = piece.lam, b = A(1) - a;
  int64_t done = Stream ? elements_to_line(out, count) : 0;
  mix_part(x, y, out, done, a, b);
  for (; done + unroll * size <= count; done += unroll * size) {
    ask_for(later, done);
    vec_t<A> mine[unroll * v], other[unroll * v];
    for (int u = 0; u < unroll; ++u) {
      load_group(x + done + u * size, mine + u * v);
      load_group(y + done + u * size, other + u * v);
    }
    for (int k = 0; k < unroll * v; ++k) mine[k] = splat<A>(a) * mine[k] + splat<A>(b) * other[k];
    for (int u = 0; u < unroll; ++u) store_group(out + done + u * size, mine + u * v, Stream);
  }
  mix_part(x + done, y + done, out + done, count - done, a, b);
}

template <class T, bool Stream>
GRADMIX_INLINE void copy_piece(const Piece<T>& piece, const Piece<T>& later) {
  constexpr int size = group_size<T>, unroll = line_groups;
  const T* const x = piece.own;
  T* const out = piece.out;
  const int64_t count = piece.count;
  int64_t done = Stream ? elements_to_line(out, count) : 0;
  __builtin_memcpy(out, x, static_cast<size_t>(done) * sizeof(T));
  for (; done + unroll * size <= count; done += unroll * size) {
    ask_for(later, done);
    for (int u = 0; u < unroll; ++u) {
      vi group;
      __builtin_memcpy(&group, x + done + u * size, sizeof group);
      if (Stream)
        stream_register(out + done + u * size, group);
      else
        __builtin_memcpy(out + done + u * size, &group, sizeof group);
    }
  }
  __builtin_memcpy(out + done, x + done, static_cast<size_t>(count - done) * sizeof(T));
}

template <class T, bool Stream>
GRADMIX_INLINE void make_piece(const Piece<T>& piece, const Piece<T>& later) {
  piece.mixed ? mix_piece<T, Stream>(piece, later) : copy_piece<T, Stream>(piece, later);
}

// Task t is the chunk t / samples of the sample order[t % samples]: neighbouring tasks read neighbours of a chain i -> partner[i],
// so a chunk read as a partner is still in the cache when its own turn comes.
template <class T>
struct Tasks {
  const MixupParams p;  // a copy: what the kernel writes could else change it
  int64_t turn, first;

  Tasks(const MixupParams& params, int64_t task) : p(params), turn(task % p.samples), first(task / p.samples * p.chunk) {}
  GRADMIX_MEMBER Piece<T> take() {
    const int64_t i = p.order != nullptr ? p.order[turn] : turn;
    const bool mixed = p.mask == nullptr || p.mask[i] != 0;
    const int64_t j = i + mixed * (p.partner[i] - i);  // no branch: masks are random
    const int64_t own = p.rows != nullptr ? p.rows[i] : i, other = p.rows != nullptr ? p.rows[j] : j;
    const int64_t left = p.sample_size - first;
    const T* const x = static_cast<const T*>(p.x) + first;
    T* const out = static_cast<T*>(p.out) + first;
    const Piece<T> piece{x + own * p.sample_size, x + other * p.sample_size, out + i * p.sample_size, left < p.chunk ? left : p.chunk,
                         static_cast<const acc_t<T>*>(p.lam)[i * p.lam_stride], mixed};
    if (++turn == p.samples) {
      turn = 0;
      first += p.chunk;
    }
    return piece;
  }
};

// How far ahead is asked for: far enough for memory to answer, or for the caches where the batch may be in them, where more would
// only push out of the first level what is read at once.
template <bool Stream>
constexpr int64_t ahead_bytes = Stream ? 16 << 10 : 8 << 10;

template <class T, bool Stream>
void mixup_tasks(const MixupParams& p, int64_t begin, int64_t end) {
  const int64_t bytes = p.chunk * static_cast<int64_t>(sizeof(T));
  const int64_t ahead = bytes < ahead_bytes<Stream> ? ahead_bytes<Stream> / bytes : 1;
  const int64_t asked = bytes < line_bytes ? begin : end - ahead;  // shorter ones are not worth asking for
  Tasks<T> tasks(p, begin), later(p, begin + ahead);
  for (int64_t t = begin; t < end; ++t) {
    const Piece<T> piece = tasks.take();
    make_piece<T, Stream>(piece, t < asked ? later.take() : piece);
  }
  if (Stream) stream_fence();
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

template <class T, bool Stream>
void gather_piece(const Gather<T>& g, int64_t first, int64_t count, T* out) {
  using A = acc_t<T>;
  constexpr int v = group_vectors<T>, size = group_size<T>, unroll = 4;
  int64_t done = Stream ? elements_to_line(out, count) : 0;
  gather_part(g, first, done, out);
  for (; done + unroll * size <= count; done += unroll * size) {
    const T* here = g.grad + g.destination * g.sample_size + first + done;
    vec_t<A> sum[unroll * v];
    for (int u = 0; u < unroll; ++u) load_group(here + u * size, sum + u * v);
    for (int k = 0; k < unroll * v; ++k) sum[k] *= splat<A>(g.own);
    for (int64_t s = 0; s < g.source_count; ++s) {
      const int64_t i = g.sources[s];
      const T* source = g.grad + i * g.sample_size + first + done;
      const vec_t<A> weight = splat<A>(g.weight[i]);
      for (int u = 0; u < unroll; ++u) {
        vec_t<A> part[v];
        load_group(source + u * size, part);
        for (int k = 0; k < v; ++k) sum[u * v + k] += weight * part[k];
      }
    }
    for (int u = 0; u < unroll; ++u) store_group(out + done + u * size, sum + u * v, Stream);
  }
  gather_part(g, first + done, count - done, out + done);
}

template <class T, bool Stream>
void mixup_backward_tasks(const MixupBackwardParams& p, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t j = p.order != nullptr ? p.order[t % p.samples] : t % p.samples;
    const int64_t first = t / p.samples * p.chunk;
    const int64_t left = p.sample_size - first;
    const Gather<T> g{static_cast<const T*>(p.grad), p.sample_size, j, p.sources + p.offsets[j],
                      p.offsets[j + 1] - p.offsets[j], static_cast<const A*>(p.own)[j], static_cast<const A*>(p.weight)};
    gather_piece<T, Stream>(g, first, left < p.chunk ? left : p.chunk, static_cast<T*>(p.out) + j * p.sample_size + first);
  }
  if (Stream) stream_fence();
}

template <class T>
void mixup_dispatch(const MixupParams& p, int64_t begin, int64_t end) {
  return p.stream ? mixup_tasks<T, true>(p, begin, end) : mixup_tasks<T, false>(p, begin, end);
}
template <class T>
void mixup_backward_dispatch(const MixupBackwardParams& p, int64_t begin, int64_t end) {
  return p.stream ? mixup_backward_tasks<T, true>(p, begin, end) : mixup_backward_tasks<T, false>(p, begin, end);
}

void masked_mixup(const MixupParams& p, int64_t begin, int64_t end) {
  GRADMIX_BY_DTYPE(p.dtype, mixup_dispatch, p, begin, end)
}

void masked_mixup_backward(const MixupBackwardParams& p, int64_t begin, int64_t end) {
  GRADMIX_BY_DTYPE(p.dtype, mixup_backward_dispatch, p, begin, end)
}

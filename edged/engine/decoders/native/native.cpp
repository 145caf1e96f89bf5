// One step of a decoder-only transformer on a CPU: int8 or int4 weights, int8 activations, bf16 keys and values.
//
// Everything that a token costs happens in here, so that between two reads of the weights there is no Python, no
// allocation and no thread that has to be woken. `native.py` says what each argument means and where it comes from.
//
// What it promises: a row's result does not depend on the rows beside it, on how a prompt is cut into chunks or on
// the number of threads. Each output is made by one thread, in one order of operations.
//
// Weights (`packing.py` writes them): 32 output channels are a block, 32 inputs a group. In a group, four inputs of
// each channel stand side by side, which is what the dot-product instructions take (VNNI on x86, sdot on ARM). int4
// keeps two such quadruples in one byte (low nibble first). Each group ends with its scales, int4's with minima too.
// Activations get one scale per row and group.
//
// Compiled once per instruction set; the compiler's own macros choose the code below.

#include <algorithm>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include <immintrin.h>
#define LANES 16
#define TILE_PARTS 2  // 32 registers hold two vectors of six rows, in integers and in floats
#define TILE_ROWS 6
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 8
#define TILE_PARTS 2  // 16 registers hold two vectors of three rows, nearly
#define TILE_ROWS 3
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#define LANES 4
#define TILE_PARTS 4
#define TILE_ROWS 3
#else
#define LANES 4
#define TILE_PARTS 4
#define TILE_ROWS 2
#endif

namespace {

constexpr int kBlock = 32;  // output channels
constexpr int kGroup = 32;  // inputs
constexpr int kTile = TILE_PARTS * LANES;  // output channels that are computed together
constexpr int kHalf = kBlock / 2;          // of a block: gate and up stand in halves, keys in sixteens
constexpr int kHalfParts = kHalf / LANES;
constexpr int kQueries = LANES == 16 ? 8 : 4;  // that meet keys and values together

// Bytes of a group of a block.
constexpr int group_bytes(int bits) { return kBlock * (bits == 8 ? kGroup + 2 : kGroup / 2 + 4); }

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef uint8_t B __attribute__((vector_size(4 * LANES)));
typedef uint16_t H __attribute__((vector_size(2 * LANES)));

template <typename V, typename T>
inline V load(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <typename V, typename T>
inline void store(T* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

inline F spread(float x) { return F{} + x; }

inline F from_bf16(const uint16_t* x) {
#if LANES == 16
  return (F)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(x)), 16);
#elif LANES == 8
  return (F)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(x)), 16);
#else
  return (F)(__builtin_convertvector(load<H>(x), U) << 16);
#endif
}

inline float of_bf16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint16_t to_bf16(float x) {  // to nearest, ties to even; x is finite
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float sum(F x) {
  float total = 0;
  for (int i = 0; i < LANES; ++i) total += x[i];
  return total;
}

inline float largest(F x) {
  float top = x[0];
  for (int i = 1; i < LANES; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

// e^x, to about two units in the last place (Cody and Waite 1980: reduce by ln 2, then a polynomial).
inline F exponential(F x) {
  x = x < -87.0f ? spread(-87.0f) : x;
  x = x > 88.0f ? spread(88.0f) : x;
  const F shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the addition rounds to an integer
  const F n = shifted - 12582912.0f;
  const F r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  F p = spread(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * (F)((__builtin_convertvector(n, I) + 127) << 23);
}

// ------------------------------------------------------------------------------------------- the one dot product
//
// dot<4>: nibbles (0..15) times int8. dot<8>: weights stored as w + 128 times int8; where the instruction wants the
// weights unsigned they stay so, and `start` takes 128 times the sum of the activations off.

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
template <int BITS> inline B weights(B w) { return w; }
template <int BITS> inline I start(int32_t activations) { return I{} - (BITS == 8 ? 128 * activations : 0); }
template <int BITS> inline I dot(I sums, B w, int32_t x) {
  return (I)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)w, _mm512_set1_epi32(x));
}
#elif defined(__AVX2__) && defined(__AVXVNNI__)
template <int BITS> inline B weights(B w) { return w; }
template <int BITS> inline I start(int32_t activations) { return I{} - (BITS == 8 ? 128 * activations : 0); }
template <int BITS> inline I dot(I sums, B w, int32_t x) {
  return (I)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)w, _mm256_set1_epi32(x));
}
#else
template <int BITS> inline B weights(B w) { return BITS == 8 ? w ^ 0x80 : w; }
template <int BITS> inline I start(int32_t) { return I{}; }
#if defined(__AVX2__)
template <int BITS> inline I dot(I sums, B w, int32_t x) {
  // Pairs of products are added in 16 bits. No pair overflows: 2 * 15 * 127, and 2 * 127 * 127 < 2^15.
  const __m256i xs = _mm256_set1_epi32(x);
  const __m256i pairs = BITS == 4 ? _mm256_maddubs_epi16((__m256i)w, xs)
                                  : _mm256_maddubs_epi16(_mm256_abs_epi8(xs), _mm256_sign_epi8((__m256i)w, xs));
  return sums + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#elif defined(__ARM_FEATURE_DOTPROD)
template <int BITS> inline I dot(I sums, B w, int32_t x) {
  return (I)vdotq_s32((int32x4_t)sums, (int8x16_t)w, vreinterpretq_s8_s32(vdupq_n_s32(x)));
}
#else
template <int BITS> inline I dot(I sums, B w, int32_t x) {
  int8_t xs[4];
  std::memcpy(xs, &x, 4);
  for (int lane = 0; lane < LANES; ++lane)
    for (int i = 0; i < 4; ++i) sums[lane] += static_cast<int8_t>(w[4 * lane + i]) * xs[i];
  return sums;
}
#endif
#endif

// ---------------------------------------------------------------------------------------------------- the threads

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Threads that are there from the first step to the last. Inside a step they wait for each other by spinning, which
// takes a fraction of a microsecond; after it they spin a little, then sleep until the next.
class Team {
 public:
  explicit Team(int size) : size_(size) {
    for (int i = 1; i < size; ++i) threads_.emplace_back([this, i] { serve(i); });
  }

  ~Team() {
    job_ = nullptr;
    call();
    for (auto& thread : threads_) thread.join();
  }

  // Runs job(thread) on every thread, the caller's included.
  template <typename Job>
  void run(Job& job) {
    job_ = [](void* context, int thread) { (*static_cast<Job*>(context))(thread); };
    context_ = &job;
    call();
    job(0);
    wait();
  }

  // Waits until every thread is here.
  void wait() {
    const uint32_t round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      next_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      round_.notify_all();
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      relax();
      if (spins > 4096) round_.wait(round, std::memory_order_acquire);  // the box is busy: others need this core
    }
  }

  // Deals out 0 .. count-1, `step` at a time, to whoever asks; begins anew after each `wait`.
  int take(int step) { return next_.fetch_add(step, std::memory_order_relaxed); }

  int size() const { return size_; }

 private:
  void call() {
    next_.store(0, std::memory_order_relaxed);
    calls_.fetch_add(1, std::memory_order_release);
    calls_.notify_all();
  }

  void serve(int thread) {
    for (uint32_t seen = 0;; ++seen) {
      for (int spins = 0; calls_.load(std::memory_order_acquire) == seen; ++spins) {
        relax();
        if (spins > 20000) calls_.wait(seen, std::memory_order_acquire);
      }
      if (job_ == nullptr) return;
      job_(context_, thread);
      wait();
    }
  }

  const int size_;
  std::vector<std::thread> threads_;
  void (*job_)(void*, int) = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<uint32_t> calls_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> next_{0};
};

// Memory that grows and never shrinks, aligned to a cache line.
template <typename T>
class Buffer {
 public:
  T* reserve(size_t count) {
    if (count > size_) {
      data_.reset(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64))));
      size_ = count;
    }
    return data_.get();
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* data) const { ::operator delete(data, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

}  // namespace

// --------------------------------------------------------------------------------- what `native.py` hands over

extern "C" {

struct Matrix {
  const uint8_t* blocks;  // (outputs / 16, inputs / 32, bytes of a group)
  const float* bias;      // (outputs,) or null
  int32_t outputs;        // a multiple of 32
  int32_t inputs;         // a multiple of 32
  int32_t bits;           // 8 or 4
};

struct Layer {
  const float* attention_norm;  // (hidden,)
  const float* q_norm;          // (head_dim,) or null
  const float* k_norm;
  const float* mlp_norm;  // (hidden,)
  Matrix qkv;
  Matrix out;
  Matrix gate_up;  // blocks of gate and up in turn
  Matrix down;
};

struct Shape {
  int32_t layers, hidden, mlp, heads, kv_heads, head_dim, vocab, threads;
  float eps;
  const Layer* layer;
  const float* embedding_scale;  // (hidden,): of an embedding's row that is taken as input
  const float* norm;             // (hidden,)
  const float* cos;   // (positions, head_dim / 2)
  const float* sin;
  Matrix embedding;
  Matrix head;
};

// Keys and values of positions in a row.
struct Block {
  uint16_t* keys;    // (layers, kv_heads, capacity / 16, head_dim, 16)
  uint16_t* values;  // (layers, kv_heads, capacity, head_dim)
  int32_t capacity;  // a multiple of 16
};

struct Span {
  Block lent;        // another sequence's, read only: what this one begins with
  Block own;         // what comes after
  int32_t shared;    // positions that are read from `lent`; a multiple of 16
  int32_t past;      // positions that are filled, those in `lent` included
  int32_t first;     // its first row in the step
  int32_t tokens;    // rows that extend the sequence
  int32_t rows;      // those and the branches behind them
};
}

namespace {

// How rows are dealt out to passes of at most TILE_ROWS, as evenly as can be.
struct Passes {
  explicit Passes(int rows) : rows(rows), count((rows + TILE_ROWS - 1) / TILE_ROWS) {}
  int first(int pass) const { return rows * pass / count; }

  const int rows;
  const int count;
};

// Rows of activations in int8, in passes of a few rows that meet a tile of the matrix together. In a pass all rows
// of a group stand side by side: row r of `count` is at (first * groups + group * count + r).
struct Activations {
  Buffer<int8_t> values;   // 32 for each row and group
  Buffer<float> scales;    // one for each row and group
  Buffer<float> offsets;   // the sum of the values, times their scale
  Buffer<int32_t> sums;    // of the values

  void reserve(size_t count, size_t inputs) {
    values.reserve(count * inputs);
    scales.reserve(count * inputs / kGroup);
    offsets.reserve(count * inputs / kGroup);
    sums.reserve(count * inputs / kGroup);
  }

  void set(const Passes& passes, int row, const float* x, int inputs) {
    int pass = row * passes.count / passes.rows;
    while (passes.first(pass + 1) <= row) ++pass;
    const int first = passes.first(pass), count = passes.first(pass + 1) - first;
    const int groups = inputs / kGroup;
    for (int g = 0; g < groups; ++g, x += kGroup) {
      F tops{};
      for (int i = 0; i < kGroup; i += LANES) {
        const F part = load<F>(x + i), size = part < 0.0f ? -part : part;
        tops = size > tops ? size : tops;
      }
      const float top = largest(tops), inverse = top > 0 ? 127.0f / top : 0.0f, scale = top / 127.0f;
      const size_t at = static_cast<size_t>(first) * groups + g * count + row - first;
      int32_t rounded[kGroup];
      I total{};
      for (int i = 0; i < kGroup; i += LANES) {
        const I q = (I)(load<F>(x + i) * inverse + 12582912.0f) - 0x4b400000;  // 1.5 * 2^23: rounds to an integer
        store(rounded + i, q);
        total += q;
      }
      for (int i = 0; i < kGroup; ++i) values.get()[at * kGroup + i] = static_cast<int8_t>(rounded[i]);
      int32_t sum = 0;
      for (int i = 0; i < LANES; ++i) sum += total[i];
      scales.get()[at] = scale;
      sums.get()[at] = sum;
      offsets.get()[at] = scale * static_cast<float>(sum);
    }
  }
};

// A tile of a matrix times the ROWS rows of a pass.
template <int BITS, int ROWS>
inline void multiply(const Matrix& m, int channel, const Activations& x, int row, F (&out)[ROWS][TILE_PARTS]) {
  constexpr int kPerLoad = BITS == 8 ? 1 : 2;  // quadruples in a byte
  const int groups = m.inputs / kGroup, within = channel % kBlock;
  const uint8_t* from = m.blocks + static_cast<size_t>(channel / kBlock) * groups * group_bytes(BITS);
  const size_t at = static_cast<size_t>(row) * groups;
  const int8_t* values = x.values.get() + at * kGroup;
  const float* scales = x.scales.get() + at;
  const float* offsets = x.offsets.get() + at;
  const int32_t* totals = x.sums.get() + at;
  F sums[ROWS][TILE_PARTS];
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < TILE_PARTS; ++c) sums[r][c] = F{};

  for (int g = 0; g < groups; ++g) {
    I dots[ROWS][TILE_PARTS];
    for (int r = 0; r < ROWS; ++r)
      for (int c = 0; c < TILE_PARTS; ++c) dots[r][c] = start<BITS>(totals[r]);
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; k += 4 * kPerLoad) {
      B loaded[TILE_PARTS];
      for (int c = 0; c < TILE_PARTS; ++c)
        loaded[c] = load<B>(from + (k / kPerLoad) * kBlock + 4 * (within + c * LANES));
      for (int half = 0; half < kPerLoad; ++half) {
        B w[TILE_PARTS];
        for (int c = 0; c < TILE_PARTS; ++c)
          w[c] = BITS == 8 ? weights<8>(loaded[c]) : half == 0 ? loaded[c] & 15 : (B)((U)loaded[c] >> 4) & 15;
        for (int r = 0; r < ROWS; ++r) {
          int32_t four;
          std::memcpy(&four, values + r * kGroup + k + 4 * half, 4);
          for (int c = 0; c < TILE_PARTS; ++c) dots[r][c] = dot<BITS>(dots[r][c], w[c], four);
        }
      }
    }
    for (int c = 0; c < TILE_PARTS; ++c) {
      F scale, minimum{};
      if (BITS == 8) {
        scale = from_bf16(reinterpret_cast<const uint16_t*>(from + kBlock * kGroup) + within + c * LANES);
      } else {
        const U pair = load<U>(from + kBlock * kGroup / 2 + 4 * (within + c * LANES));
        scale = (F)(pair << 16);
        minimum = (F)(pair & 0xffff0000u);
      }
      for (int r = 0; r < ROWS; ++r) {
        const F scaled = __builtin_convertvector(dots[r][c], F) * scales[r];
        sums[r][c] += scaled * scale;
        if (BITS == 4) sums[r][c] += minimum * offsets[r];
      }
    }
    from += group_bytes(BITS);
    values += ROWS * kGroup;
    scales += ROWS;
    offsets += ROWS;
    totals += ROWS;
  }
  for (int c = 0; c < TILE_PARTS; ++c) {
    const int at = channel + c * LANES;
    const F bias = m.bias != nullptr ? load<F>(m.bias + at) : F{};
    for (int r = 0; r < ROWS; ++r) out[r][c] = sums[r][c] + bias;
  }
}

struct Model {
  explicit Model(const Shape& s) : shape(s), layers(s.layer, s.layer + s.layers), team(s.threads) {
    shape.layer = nullptr;  // ours from here on
    scores.resize(s.threads);
  }

  Shape shape;
  std::vector<Layer> layers;
  Team team;
  Activations activations;
  Buffer<float> x;    // (rows, hidden): the residual stream
  Buffer<float> qkv;  // (rows, (heads + 2 kv_heads) head_dim)
  Buffer<float> mixed;  // (rows, heads head_dim): what attention gives
  Buffer<float> inner;  // (rows, mlp)
  std::vector<Buffer<float>> scores;  // per thread: (queries, positions)
};

// Multiplies a block of the matrix with all rows and hands what comes to `finish(row, channel, sums)`.
template <int BITS, typename Finish>
void multiply_block_of(const Matrix& m, int block, const Activations& x, const Passes& passes, Finish& finish) {
  for (int channel = block * kBlock; channel < (block + 1) * kBlock; channel += kTile)
    for (int pass = 0; pass < passes.count; ++pass) {
      const int row = passes.first(pass);
      auto run = [&]<int ROWS>() {
        F sums[ROWS][TILE_PARTS];
        multiply<BITS, ROWS>(m, channel, x, row, sums);
        for (int r = 0; r < ROWS; ++r) finish(row + r, channel, sums[r]);
      };
      switch (passes.first(pass + 1) - row) {
        case 1: run.template operator()<1>(); break;
        case 2: run.template operator()<2>(); break;
#if TILE_ROWS >= 3
        case 3: run.template operator()<3>(); break;
#endif
#if TILE_ROWS >= 6
        case 4: run.template operator()<4>(); break;
        case 5: run.template operator()<5>(); break;
        case 6: run.template operator()<6>(); break;
#endif
      }
    }
}

template <typename Finish>
void multiply_block(const Matrix& m, int block, const Activations& x, const Passes& passes, Finish& finish) {
  m.bits == 8 ? multiply_block_of<8>(m, block, x, passes, finish) : multiply_block_of<4>(m, block, x, passes, finish);
}

// Deals out the blocks of the matrix.
template <typename Finish>
void matmul(Team& team, const Matrix& m, const Activations& x, const Passes& passes, Finish finish) {
  const int blocks = m.outputs / kBlock;
  const int step = std::clamp(blocks / (4 * team.size()), 1, 8);
  for (int begin = team.take(step); begin < blocks; begin = team.take(step))
    for (int block = begin; block < std::min(begin + step, blocks); ++block)
      multiply_block(m, block, x, passes, finish);
}

void normalise(const float* x, const float* weight, int size, float eps, float* to) {
  F squares{};
  for (int i = 0; i < size; i += LANES) {
    const F part = load<F>(x + i);
    squares += part * part;
  }
  const float scale = 1.0f / std::sqrt(sum(squares) / size + eps);
  for (int i = 0; i < size; i += LANES) store(to + i, load<F>(x + i) * scale * load<F>(weight + i));
}

// Rotary position embedding, halves form (Su et al. 2021).
void rotate(float* head, const float* cos, const float* sin, int half) {
  for (int i = 0; i < half; ++i) {
    const float left = head[i], right = head[half + i];
    head[i] = left * cos[i] - right * sin[i];
    head[half + i] = right * cos[i] + left * sin[i];
  }
}

struct Step {
  Model& model;
  int rows;
  const int32_t* tokens;
  const int32_t* positions;
  const int32_t* parents;  // of a row within its span; -1 for a span's first
  int spans;
  const Span* span;
  int wanted;
  const int32_t* wanted_rows;
  int head_blocks;  // of the vocabulary that are asked for; 0: all
  const int32_t* head_block;
  float* logits;
  std::vector<int> span_of;  // row -> span

  void operator()(int thread) {
    const Shape& s = model.shape;
    embed();
    model.team.wait();
    for (int index = 0; index < s.layers; ++index) {
      const Layer& layer = model.layers[index];
      activate(rows, [&](int row, float* to) { normalise(x(row), layer.attention_norm, s.hidden, s.eps, to); },
               s.hidden, thread);
      const int width = layer.qkv.outputs;
      matmul(model.team, layer.qkv, model.activations, Passes(rows), [&](int row, int channel, const F* sums) {
        float* to = model.qkv.get() + static_cast<size_t>(row) * width + channel;
        for (int c = 0; c < TILE_PARTS; ++c) store(to + c * LANES, sums[c]);
      });
      model.team.wait();
      for (int row = model.team.take(1); row < rows; row = model.team.take(1)) place(layer, index, row, width);
      model.team.wait();
      // Behind the last layer's keys and values, only the wanted rows matter: none, for a prompt that goes on.
      const bool is_last = index == s.layers - 1;
      const int count = is_last ? wanted : rows;
      if (count == 0) return;
      auto at = [&](int i) { return is_last ? wanted_rows[i] : i; };
      attend(index, width, thread);
      model.team.wait();
      const int heads = s.heads * s.head_dim;
      activate(count, [&](int i, float* to) { std::memcpy(to, mixed(at(i)), sizeof(float) * heads); }, heads, thread);
      add(layer.out, count, at);
      model.team.wait();
      activate(count, [&](int i, float* to) { normalise(x(at(i)), layer.mlp_norm, s.hidden, s.eps, to); }, s.hidden,
               thread);
      gated(layer.gate_up, count);
      model.team.wait();
      activate(count, [&](int i, float* to) { std::memcpy(to, inner(i), sizeof(float) * s.mlp); }, s.mlp, thread);
      add(layer.down, count, at);
      model.team.wait();
    }
    activate(wanted, [&](int i, float* to) { normalise(x(wanted_rows[i]), s.norm, s.hidden, s.eps, to); }, s.hidden,
             thread);
    auto finish = [&](int i, int channel, const F* sums) {
      float* to = logits + static_cast<size_t>(i) * s.vocab;
      for (int c = 0; c < TILE_PARTS; ++c) {
        const int at = channel + c * LANES;
        if (at + LANES <= s.vocab)
          store(to + at, sums[c]);
        else
          for (int lane = 0; at + lane < s.vocab && lane < LANES; ++lane) to[at + lane] = sums[c][lane];
      }
    };
    if (head_blocks == 0) {
      matmul(model.team, s.head, model.activations, Passes(wanted), finish);
    } else {
      for (int i = model.team.take(1); i < head_blocks; i = model.team.take(1))
        multiply_block(s.head, head_block[i], model.activations, Passes(wanted), finish);
    }
  }

  float* x(int row) { return model.x.get() + static_cast<size_t>(row) * model.shape.hidden; }
  float* mixed(int row) { return model.mixed.get() + static_cast<size_t>(row) * model.shape.heads * model.shape.head_dim; }
  float* inner(int row) { return model.inner.get() + static_cast<size_t>(row) * model.shape.mlp; }

  // Quantises what `make` writes for each row.
  template <typename Make>
  void activate(int count, Make make, int inputs, int thread) {
    float* scratch = model.scores[thread].get();
    const Passes passes(count);
    for (int row = model.team.take(1); row < count; row = model.team.take(1)) {
      make(row, scratch);
      model.activations.set(passes, row, scratch, inputs);
    }
    model.team.wait();
  }

  void embed() {
    const Matrix& m = model.shape.embedding;
    const int groups = m.inputs / kGroup, size = group_bytes(m.bits);
    for (int row = model.team.take(1); row < rows; row = model.team.take(1)) {
      const int channel = tokens[row] % kBlock;
      const uint8_t* from = m.blocks + static_cast<size_t>(tokens[row] / kBlock) * groups * size;
      float* to = x(row);
      for (int g = 0; g < groups; ++g, from += size, to += kGroup) {
        uint16_t ends[2];
        if (m.bits == 8) {
          std::memcpy(ends, from + kBlock * kGroup + 2 * channel, 2);
          const float scale = of_bf16(ends[0]);
          for (int k = 0; k < kGroup; ++k) to[k] = scale * (from[(k / 4 * kBlock + channel) * 4 + k % 4] - 128);
        } else {
          std::memcpy(ends, from + kBlock * kGroup / 2 + 4 * channel, 4);
          const float scale = of_bf16(ends[0]), minimum = of_bf16(ends[1]);
          for (int k = 0; k < kGroup; ++k) {
            const int pair = from[(k / 8 * kBlock + channel) * 4 + k % 4];
            to[k] = scale * (k / 4 % 2 == 0 ? pair & 15 : pair >> 4) + minimum;
          }
        }
      }
      for (int i = 0; i < m.inputs; ++i) x(row)[i] *= model.shape.embedding_scale[i];
    }
  }

  // Adds the matrix's outputs to the residual stream: those of the i-th of `count` rows to row at(i).
  template <typename At>
  void add(const Matrix& m, int count, At at) {
    const int hidden = model.shape.hidden;
    matmul(model.team, m, model.activations, Passes(count), [&](int i, int channel, const F* sums) {
      for (int c = 0; c < TILE_PARTS && channel + c * LANES < hidden; ++c) {
        float* to = x(at(i)) + channel + c * LANES;
        store(to, load<F>(to) + sums[c]);
      }
    });
  }

  // silu(gate) * up (Shazeer 2020): a block's first half is gate, its second half up.
  void gated(const Matrix& m, int count) {
    const int mlp = model.shape.mlp;
    auto finish = [&](int row, int channel, const F* gate, const F* up) {
      float* to = inner(row) + channel / 2;
      for (int c = 0; c < kHalfParts; ++c) store(to + c * LANES, gate[c] / (1.0f + exponential(-gate[c])) * up[c]);
    };
    matmul(model.team, m, model.activations, Passes(count), [&](int row, int channel, const F* sums) {
      if (channel / 2 >= mlp) return;
      if constexpr (kTile == kBlock) {
        finish(row, channel, sums, sums + kHalfParts);
      } else {  // one thread computes a block's halves, one after the other: the first waits in `inner`
        float* to = inner(row) + channel / kBlock * kHalf;
        F gate[kHalfParts];
        for (int c = 0; c < kHalfParts; ++c) {
          gate[c] = load<F>(to + c * LANES);
          if (channel % kBlock == 0) store(to + c * LANES, sums[c]);
        }
        if (channel % kBlock != 0) finish(row, channel - kHalf, gate, sums);
      }
    });
  }

  // Rotates a row's queries and keys, and puts its keys and values where attention finds them.
  void place(const Layer& layer, int index, int row, int width) {
    const Shape& s = model.shape;
    const Span& its = span[span_of[row]];
    const int half = s.head_dim / 2, slot = its.past - its.shared + row - its.first;
    const float* cos = s.cos + static_cast<size_t>(positions[row]) * half;
    const float* sin = s.sin + static_cast<size_t>(positions[row]) * half;
    float* at = model.qkv.get() + static_cast<size_t>(row) * width;
    for (int head = 0; head < s.heads + s.kv_heads; ++head) {
      float* vector = at + head * s.head_dim;
      const float* norm = head < s.heads ? layer.q_norm : layer.k_norm;
      if (norm != nullptr) normalise(vector, norm, s.head_dim, s.eps, vector);
      rotate(vector, cos, sin, half);
    }
    for (int head = 0; head < s.kv_heads; ++head) {
      const float* key = at + (s.heads + head) * s.head_dim;
      const float* value = at + (s.heads + s.kv_heads + head) * s.head_dim;
      const size_t base = (static_cast<size_t>(index) * s.kv_heads + head) * its.own.capacity * s.head_dim;
      uint16_t* keys = its.own.keys + base + static_cast<size_t>(slot / 16) * 16 * s.head_dim + slot % 16;
      uint16_t* values = its.own.values + base + static_cast<size_t>(slot) * s.head_dim;
      for (int i = 0; i < s.head_dim; ++i) {
        keys[16 * i] = to_bf16(key[i]);
        values[i] = to_bf16(value[i]);
      }
    }
  }

  // Deals out (span, kv head, few rows); the query heads that share a kv head go together.
  void attend(int index, int width, int thread) {
    const Shape& s = model.shape;
    const int group = s.heads / s.kv_heads;
    const int together = std::max(1, 8 / group);  // rows
    int tasks = 0;
    for (int i = 0; i < spans; ++i) tasks += (span[i].rows + together - 1) / together * s.kv_heads;
    for (int task = model.team.take(1); task < tasks; task = model.team.take(1)) {
      int left = task, i = 0;
      while (left >= (span[i].rows + together - 1) / together * s.kv_heads)
        left -= (span[i].rows + together - 1) / together * s.kv_heads, ++i;
      const int head = left % s.kv_heads;
      const int begin = left / s.kv_heads * together, end = std::min(begin + together, span[i].rows);
      attend(index, width, span[i], head, begin, end, model.scores[thread].get());
    }
  }

  void attend(int index, int width, const Span& its, int kv_head, int begin, int end, float* scratch) {
    const Shape& s = model.shape;
    const int group = s.heads / s.kv_heads, dim = s.head_dim;
    const int seen = end > its.tokens ? its.past + its.rows : its.past + end;  // positions that any of them sees
    const int padded = (seen + 15) / 16 * 16;
    const size_t head = static_cast<size_t>(index) * s.kv_heads + kv_head;
    const size_t lent = head * its.lent.capacity * dim, own = head * its.own.capacity * dim;
    const int shared = std::min(its.shared, padded);
    const int queries = (end - begin) * group;
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    auto query = [&](int q) {
      const int row = its.first + begin + q / group;
      return model.qkv.get() + static_cast<size_t>(row) * width + (kv_head * group + q % group) * dim;
    };
    for (int q = 0; q < queries; q += kQueries) {
      auto run = [&]<int COUNT>() {
        const float* from[COUNT];
        float* to[COUNT];
        for (int j = 0; j < COUNT; ++j) {
          from[j] = query(q + j);
          to[j] = scratch + static_cast<size_t>(j) * padded;
        }
        score<COUNT>(its.lent.keys + lent, from, dim, 0, shared, scale, to);
        score<COUNT>(its.own.keys + own, from, dim, shared, padded, scale, to);
        float inverse[COUNT];
        for (int j = 0; j < COUNT; ++j) inverse[j] = softmax(its, begin + (q + j) / group, seen, padded, to[j]);
        float* out[COUNT];
        for (int j = 0; j < COUNT; ++j)
          out[j] = mixed(its.first + begin + (q + j) / group) + (kv_head * group + (q + j) % group) * dim;
        mix<COUNT>(its.lent.values + lent, its.own.values + own, to, inverse, dim, shared, seen, out);
      };
      switch (std::min(kQueries, queries - q)) {
        case 1: run.template operator()<1>(); break;
        case 2: run.template operator()<2>(); break;
        case 3: run.template operator()<3>(); break;
        case 4: run.template operator()<4>(); break;
#if LANES == 16
        case 5: run.template operator()<5>(); break;
        case 6: run.template operator()<6>(); break;
        case 7: run.template operator()<7>(); break;
        case 8: run.template operator()<8>(); break;
#endif
      }
    }
  }

  // Scores of positions begin .. end-1, of which `keys` is the first's.
  template <int COUNT>
  static void score(const uint16_t* keys, const float* const (&queries)[COUNT], int dim, int begin, int end,
                    float scale, float* const (&to)[COUNT]) {
    for (int p = begin; p < end; p += 16, keys += 16 * dim) {
      F sums[COUNT][kHalfParts] = {};
      for (int i = 0; i < dim; ++i)
        for (int c = 0; c < kHalfParts; ++c) {
          const F key = from_bf16(keys + 16 * i + c * LANES);
          for (int j = 0; j < COUNT; ++j) sums[j][c] += key * queries[j][i];
        }
      for (int j = 0; j < COUNT; ++j)
        for (int c = 0; c < kHalfParts; ++c) store(to[j] + p + c * LANES, sums[j][c] * scale);
    }
  }

  // Scores to e^(score - maximum), 0 where the row does not see; gives 1 / their sum.
  float softmax(const Span& its, int row, int seen, int padded, float* scores) const {
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    const int32_t* parent = parents + its.first;
    int line = row;
    while (line >= its.tokens) line = parent[line];  // a branch sees its parents' line up to the tokens
    const int whole = its.past + line + 1;
    float kept[64];
    int depth = 0;
    for (int at = row; at >= its.tokens && depth < 64; at = parent[at]) kept[depth++] = scores[its.past + at];
    for (int p = whole; p < padded; ++p) scores[p] = kNever;
    depth = 0;
    for (int at = row; at >= its.tokens && depth < 64; at = parent[at]) scores[its.past + at] = kept[depth++];
    const int end = row >= its.tokens ? padded : (whole + 15) / 16 * 16;
    F tops = spread(kNever);
    for (int p = 0; p < end; p += LANES) {
      const F here = load<F>(scores + p);
      tops = here > tops ? here : tops;
    }
    const float top = largest(tops);
    F total{};
    for (int p = 0; p < end; p += LANES) {
      const F here = load<F>(scores + p);
      const F e = here == kNever ? F{} : exponential(here - top);
      store(scores + p, e);
      total += e;
    }
    for (int p = end; p < seen; ++p) scores[p] = 0;
    return 1.0f / sum(total);
  }

  template <int COUNT>
  static void mix(const uint16_t* lent, const uint16_t* own, float* const (&weights)[COUNT],
                  const float (&inverse)[COUNT], int dim, int shared, int seen, float* const (&out)[COUNT]) {
    for (int d = 0; d < dim; d += 16) {
      F sums[COUNT][kHalfParts] = {};
      auto add = [&](const uint16_t* values, int begin, int end) {
        for (int p = begin; p < end; ++p, values += dim)
          for (int c = 0; c < kHalfParts; ++c) {
            const F value = from_bf16(values + d + c * LANES);
            for (int j = 0; j < COUNT; ++j) sums[j][c] += value * weights[j][p];
          }
      };
      add(lent, 0, std::min(shared, seen));
      add(own, shared, seen);
      for (int j = 0; j < COUNT; ++j)
        for (int c = 0; c < kHalfParts; ++c) store(out[j] + d + c * LANES, sums[j][c] * inverse[j]);
    }
  }
};

}  // namespace

extern "C" {

// Which code the compiler took.
const char* edged_instructions() {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
  return "avx512vnni";
#elif defined(__AVX2__) && defined(__AVXVNNI__)
  return "avxvnni";
#elif defined(__AVX2__)
  return "avx2";
#elif defined(__ARM_FEATURE_DOTPROD)
  return "dotprod";
#else
  return "portable";
#endif
}

// Takes the sizes and pointers; what they point to must outlive the model. Null when there is no memory.
void* edged_open(const Shape* shape) try { return new Model(*shape); } catch (...) { return nullptr; }

void edged_close(void* model) { delete static_cast<Model*>(model); }

// Runs one step; 0, or 1 when there is no memory for it.
int edged_step(void* handle, int rows, const int32_t* tokens, const int32_t* positions, const int32_t* parents,
               int spans, const Span* span, int wanted, const int32_t* wanted_rows, int head_blocks,
               const int32_t* head_block, float* logits) try {
  Model& model = *static_cast<Model*>(handle);
  const Shape& s = model.shape;
  const size_t widest = std::max({s.hidden, s.heads * s.head_dim, s.mlp});
  size_t seen = 0;
  for (int i = 0; i < spans; ++i) seen = std::max(seen, static_cast<size_t>(span[i].past + span[i].rows));
  model.x.reserve(static_cast<size_t>(rows) * s.hidden);
  model.qkv.reserve(static_cast<size_t>(rows) * model.layers[0].qkv.outputs);
  model.mixed.reserve(static_cast<size_t>(rows) * s.heads * s.head_dim);
  model.inner.reserve(static_cast<size_t>(rows) * s.mlp);
  model.activations.reserve(std::max(rows, wanted), widest);
  for (auto& scratch : model.scores) scratch.reserve(std::max(widest, kQueries * ((seen + 15) / 16 * 16)));

  Step step{model,  rows,        tokens,      positions,  parents, spans, span,
            wanted, wanted_rows, head_blocks, head_block, logits,  {}};
  step.span_of.resize(rows);
  for (int i = 0; i < spans; ++i)
    for (int row = 0; row < span[i].rows; ++row) step.span_of[span[i].first + row] = i;
  model.team.run(step);
  return 0;
} catch (...) { return 1; }
}

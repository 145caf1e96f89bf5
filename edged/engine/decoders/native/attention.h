// Attention: each row's query meets the keys and values of its sequence.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "interface.h"
#include "threads.h"
#include "vectors.h"

namespace {

// Root mean square normalisation (Zhang and Sennrich 2019).
void normalise(const float* x, const float* weight, int size, float eps, float* to) {
  F squares[kHalfParts] = {};
  for (int i = 0; i < size; i += kHalf)
    for (int c = 0; c < kHalfParts; ++c) {
      const F part = load<F>(x + i + c * LANES);
      squares[c] = multiply_add(squares[c], part, part);
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

constexpr int kQueries = LANES == 16 ? 8 : 4;  // that are multiplied by keys and values together

// The rows of a step. Each belongs to a span, whose rows stand side by side.
struct Rows {
  int count;
  const int32_t* tokens;
  const int32_t* positions;
  const int32_t* parents;  // of a row within its span; -1 for a span's first
  int spans;
  const Span* span;
  const int32_t* span_of;  // row -> span
};

// The attention of one layer.
struct Attention {
  const Shape& shape;
  const Rows& rows;
  int index;     // of the layer
  float* qkv;    // (rows, width)
  int width;     // (heads + 2 kv_heads) head_dim, and what fills the last block
  float* mixed;  // (rows, heads head_dim): what attention gives
  int window;    // see `Layer`

  // Rotates a row's queries and keys, and appends its keys and values to those of its sequence.
  void place(const Layer& layer, int row) const {
    const Shape& s = shape;
    const Span& its = rows.span[rows.span_of[row]];
    const int half = s.head_dim / 2, slot = its.past - its.shared + row - its.first;
    const float* cos = layer.cos + static_cast<size_t>(rows.positions[row]) * half;
    const float* sin = layer.sin + static_cast<size_t>(rows.positions[row]) * half;
    float* at = qkv + static_cast<size_t>(row) * width;
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

  // Computes all rows; the threads take pieces of (span, kv head, few rows) in turn. The query heads that share a kv
  // head are in one piece.
  void run(Team& team, float* scratch) const {
    const Shape& s = shape;
    const Span* span = rows.span;
    const int group = s.heads / s.kv_heads;
    const int together = std::max(1, 8 / group);  // rows
    int tasks = 0;
    for (int i = 0; i < rows.spans; ++i) tasks += (span[i].rows + together - 1) / together * s.kv_heads;
    for (int task = team.take(1); task < tasks; task = team.take(1)) {
      int left = task, i = 0;
      while (left >= (span[i].rows + together - 1) / together * s.kv_heads)
        left -= (span[i].rows + together - 1) / together * s.kv_heads, ++i;
      const int head = left % s.kv_heads;
      const int begin = left / s.kv_heads * together, end = std::min(begin + together, span[i].rows);
      attend(span[i], head, begin, end, scratch);
    }
  }

  void attend(const Span& its, int kv_head, int begin, int end, float* scratch) const {
    const Shape& s = shape;
    const int group = s.heads / s.kv_heads, dim = s.head_dim;
    const int seen = end > its.tokens ? its.past + its.rows : its.past + end;  // positions that any of the rows sees
    const int padded = (seen + 15) / 16 * 16;
    const size_t head = static_cast<size_t>(index) * s.kv_heads + kv_head;
    const size_t lent = head * its.lent.capacity * dim, own = head * its.own.capacity * dim;
    int first = seen;  // the first position that any of them sees, rounded down
    for (int row = begin; row < end; ++row) first = std::min(first, first_seen(its, row));
    first = first / 16 * 16;
    const int shared = std::clamp(its.shared, first, padded);
    const int queries = (end - begin) * group;
    auto query = [&](int q) {
      const int row = its.first + begin + q / group;
      return qkv + static_cast<size_t>(row) * width + (kv_head * group + q % group) * dim;
    };
    for (int q = 0; q < queries; q += kQueries) {
      auto run = [&]<int COUNT>() {
        const float* from[COUNT];
        float* to[COUNT];
        for (int j = 0; j < COUNT; ++j) {
          from[j] = query(q + j);
          to[j] = scratch + static_cast<size_t>(j) * padded;
        }
        const uint16_t* lent_keys = its.lent.keys + lent + static_cast<size_t>(first) * dim;
        const uint16_t* own_keys = its.own.keys + own + static_cast<size_t>(shared - its.shared) * dim;
        score<COUNT>(lent_keys, from, dim, first, shared, s.attention_scale, to);
        score<COUNT>(own_keys, from, dim, shared, padded, s.attention_scale, to);
        float inverse[COUNT];
        for (int j = 0; j < COUNT; ++j) inverse[j] = softmax(its, begin + (q + j) / group, first, seen, padded, to[j]);
        float* out[COUNT];
        for (int j = 0; j < COUNT; ++j)
          out[j] = mixed_row(its.first + begin + (q + j) / group) + (kv_head * group + (q + j) % group) * dim;
        const uint16_t* lent_values = its.lent.values + lent + static_cast<size_t>(first) * dim;
        const uint16_t* own_values = its.own.values + own + static_cast<size_t>(shared - its.shared) * dim;
        mix<COUNT>(lent_values, own_values, to, inverse, dim, first, shared, seen, out);
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

  // Scores of positions begin .. end-1; `keys` are those from `begin` on.
  template <int COUNT>
  static void score(const uint16_t* keys, const float* const (&queries)[COUNT], int dim, int begin, int end,
                    float scale, float* const (&to)[COUNT]) {
    for (int p = begin; p < end; p += 16, keys += 16 * dim) {
      F sums[COUNT][kHalfParts] = {};
      for (int i = 0; i < dim; i += 4)
        add_products<COUNT>(keys + 16 * i, 16, [&](int j) { return Four(queries[j] + i); }, sums);
      for (int j = 0; j < COUNT; ++j)
        for (int c = 0; c < kHalfParts; ++c) store(to[j] + p + c * LANES, sums[j][c] * scale);
    }
  }

  // Adds four times sixteen values, `stride` apart, each sixteen weighed by one of the four that `weights(j)` gives.
  template <int COUNT, typename Weights>
  static inline INLINE void add_products(const uint16_t* values, int stride, Weights weights,
                                         F (&sums)[COUNT][kHalfParts]) {
    F value[4][kHalfParts];
    unrolled<4>([&](auto i) INLINE { from_bf16(values + i * stride, value[i]); });
    for (int j = 0; j < COUNT; ++j) {
      const Four four = weights(j);
      unrolled<4>([&](auto i) INLINE {
        for (int c = 0; c < kHalfParts; ++c) sums[j][c] = four.template times_plus<i>(value[i][c], sums[j][c]);
      });
    }
  }

  // The first position that a row sees.
  int first_seen(const Span& its, int row) const {
    return window == 0 ? 0 : std::max(0, rows.positions[its.first + row] - window + 1);
  }

  // Scores from `first` on to e^(score - maximum), 0 where the row does not see; gives 1 / their sum.
  float softmax(const Span& its, int row, int first, int seen, int padded, float* scores) const {
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    const int32_t* parent = rows.parents + its.first;
    int line = row;
    while (line >= its.tokens) line = parent[line];  // a branch sees its parents' line up to the tokens
    const int whole = its.past + line + 1, begin = first_seen(its, row);
    float kept[64];
    int depth = 0;
    for (int at = row; at >= its.tokens && depth < 64; at = parent[at]) kept[depth++] = scores[its.past + at];
    for (int p = first; p < std::min(begin, whole); ++p) scores[p] = kNever;
    for (int p = whole; p < padded; ++p) scores[p] = kNever;
    depth = 0;
    for (int at = row; at >= its.tokens && depth < 64; at = parent[at], ++depth)
      if (rows.positions[its.first + at] >= begin) scores[its.past + at] = kept[depth];
    const int end = row >= its.tokens ? padded : (whole + 15) / 16 * 16;
    F tops = spread(kNever);
    for (int p = first; p < end; p += LANES) {
      const F here = load<F>(scores + p);
      tops = here > tops ? here : tops;
    }
    const float top = largest(tops);
    F total[kHalfParts] = {};
    for (int p = first; p < end; p += kHalf)
      for (int c = 0; c < kHalfParts; ++c) {
        const F here = load<F>(scores + p + c * LANES);
        const F e = here == kNever ? F{} : exponential(here - top);
        store(scores + p + c * LANES, e);
        total[c] += e;
      }
    for (int p = end; p < seen; ++p) scores[p] = 0;
    return 1.0f / sum(total);
  }

  // The sums of the values of positions first .. seen-1, weighted by the softmax of their scores.
  template <int COUNT>
  static void mix(const uint16_t* lent, const uint16_t* own, float* const (&weights)[COUNT],
                  const float (&inverse)[COUNT], int dim, int first, int shared, int seen,
                  float* const (&out)[COUNT]) {
    for (int d = 0; d < dim; d += 16) {
      F sums[COUNT][kHalfParts] = {};
      auto add = [&](const uint16_t* values, int begin, int end) {
        int p = begin;
        for (; p + 4 <= end; p += 4, values += 4 * dim)
          add_products<COUNT>(values + d, dim, [&](int j) { return Four(weights[j] + p); }, sums);
        for (; p < end; ++p, values += dim) {
          F value[kHalfParts];
          from_bf16(values + d, value);
          for (int j = 0; j < COUNT; ++j)
            for (int c = 0; c < kHalfParts; ++c) sums[j][c] = multiply_add(sums[j][c], value[c], spread(weights[j][p]));
        }
      };
      add(lent, first, std::min(shared, seen));
      add(own, shared, seen);
      for (int j = 0; j < COUNT; ++j)
        for (int c = 0; c < kHalfParts; ++c) store(out[j] + d + c * LANES, sums[j][c] * inverse[j]);
    }
  }

 private:
  float* mixed_row(int row) const { return mixed + static_cast<size_t>(row) * shape.heads * shape.head_dim; }
};

}  // namespace

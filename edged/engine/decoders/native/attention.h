// Attention: each row's query meets the keys and values of its sequence.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "attention_products.h"
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

constexpr int kPiece = 24;                // queries for which keys and values are read once
constexpr int kFew = kPiece / kQueries;   // as many times are they multiplied by
constexpr int kTile = kSixteen * kWide;   // positions whose keys or values are widened together
constexpr int kValues = 128;              // positions whose values stay in the first-level cache

// The keys or the values of a kv head of a sequence.
struct Line {
  const uint16_t* lent;
  const uint16_t* own;
  int shared;
  int dim;

  // From position `p` on.
  const uint16_t* from(int p) const {
    return p < shared ? lent + static_cast<size_t>(p) * dim : own + static_cast<size_t>(p - shared) * dim;
  }
  // Up to where, or `end`, the positions from `p` on stand side by side.
  int until(int p, int end) const { return p < shared ? std::min(shared, end) : end; }
};

// Queries for which keys and values are read once.
struct Piece {
  Line keys, values;
  int first;   // the first position that any of them sees, rounded down to whole sixteens
  int seen;    // positions that any of them sees
  int padded;  // those, rounded up
  int count;
  Few few[kFew];
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
    const int together = std::max(1, kPiece / group);  // rows
    int tasks = 0;
    for (int i = 0; i < rows.spans; ++i) tasks += (span[i].rows + together - 1) / together * s.kv_heads;
    for (int task = team.take(1); task < tasks; task = team.take(1)) {
      int left = task, i = 0;
      while (left >= (span[i].rows + together - 1) / together * s.kv_heads)
        left -= (span[i].rows + together - 1) / together * s.kv_heads, ++i;
      const int head = left % s.kv_heads;
      const int begin = left / s.kv_heads * together, end = std::min(begin + together, span[i].rows);
      for (int q = 0; q < (end - begin) * group; q += kPiece)
        attend(span[i], head, begin, q, std::min(kPiece, (end - begin) * group - q), scratch);
    }
  }

  // How much scratch memory a thread needs where a row sees at most so many positions: for what is widened, and for the
  // scores, (queries, positions).
  static size_t scratch_size(size_t seen, size_t dim) { return kTile * dim + kPiece * whole_sixteens(seen); }

  static constexpr size_t whole_sixteens(size_t count) { return (count + kSixteen - 1) / kSixteen * kSixteen; }

  // Computes `queries` queries of a kv head from query `from` on; query 0 is the first one of row `begin` of the span.
  void attend(const Span& its, int kv_head, int begin, int from, int queries, float* scratch) const {
    const int dim = shape.head_dim;
    Piece piece = piece_of(its, kv_head, begin, from, queries, scratch + kTile * dim);
    score_all(piece, scratch);
    for (int i = 0; i < piece.count; ++i) {
      Few& few = piece.few[i];
      const int padded = static_cast<int>(whole_sixteens(few.seen));
      for (int j = 0; j < few.count; ++j)
        few.inverse[j] = softmax(its, few.row[j], few.first, few.seen, padded, few.scores[j]);
    }
    mix_all(piece, scratch);
  }

  Piece piece_of(const Span& its, int kv_head, int begin, int from, int queries, float* scores) const {
    const int group = shape.heads / shape.kv_heads, dim = shape.head_dim;
    const size_t head = static_cast<size_t>(index) * shape.kv_heads + kv_head;
    const size_t lent = head * its.lent.capacity * dim, own = head * its.own.capacity * dim;
    Piece piece;
    piece.keys = {its.lent.keys + lent, its.own.keys + own, its.shared, dim};
    piece.values = {its.lent.values + lent, its.own.values + own, its.shared, dim};
    const int last = begin + (from + queries - 1) / group;
    piece.seen = seen_by(its, last);
    piece.padded = static_cast<int>(whole_sixteens(piece.seen));
    piece.first = piece.seen;
    for (int row = begin + from / group; row <= last; ++row) piece.first = std::min(piece.first, first_seen(its, row));
    piece.first = piece.first / kSixteen * kSixteen;
    piece.count = (queries + kQueries - 1) / kQueries;
    for (int i = 0; i < piece.count; ++i) {
      Few& few = piece.few[i];
      const int q = queries * i / piece.count;
      few.count = queries * (i + 1) / piece.count - q;
      for (int j = 0; j < few.count; ++j) {
        few.row[j] = begin + (from + q + j) / group;
        const int row = its.first + few.row[j], its_head = kv_head * group + (from + q + j) % group;
        few.query[j] = qkv + static_cast<size_t>(row) * width + its_head * dim;
        few.scores[j] = scores + static_cast<size_t>(q + j) * piece.padded;
        few.out[j] = mixed_row(row) + its_head * dim;
      }
      few.first = piece.first;
      few.seen = seen_by(its, few.row[few.count - 1]);
    }
    return piece;
  }

  // Where there are several `Few`, keys and values are widened once for all of them, a tile at a time.
  void score_all(const Piece& piece, float* tile) const {
    const int dim = shape.head_dim;
    for (int p = piece.first, end; p < piece.padded; p = end) {
      const uint16_t* keys = piece.keys.from(p);
      end = piece.keys.until(p, piece.count == 1 ? piece.padded : std::min(p + kTile, piece.padded));
      if (piece.count == 1) {
        score(piece.few[0], keys, p, end, dim, shape.attention_scale);
        continue;
      }
      widen(keys, (end - p) * dim, tile);
      for (int i = 0; i < piece.count; ++i)
        if (p < piece.few[i].seen) score(piece.few[i], tile, p, end, dim, shape.attention_scale);
    }
  }

  void mix_all(const Piece& piece, float* tile) const {
    const int dim = shape.head_dim;
    for (int p = piece.first, end; p < piece.seen; p = end) {
      const uint16_t* values = piece.values.from(p);
      end = piece.values.until(p, std::min(p + (piece.count == 1 ? kValues : kTile), piece.seen));
      if (piece.count == 1) {
        mix(piece.few[0], values, p, end, dim);
        continue;
      }
      widen(values, (end - p) * dim, tile);
      for (int i = 0; i < piece.count; ++i)
        if (p < piece.few[i].seen) mix(piece.few[i], tile, p, std::min(end, piece.few[i].seen), dim);
    }
  }

  // Positions that a row and those before it see.
  static int seen_by(const Span& its, int row) { return its.past + (row < its.tokens ? row + 1 : its.rows); }

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

 private:
  float* mixed_row(int row) const { return mixed + static_cast<size_t>(row) * shape.heads * shape.head_dim; }
};

}  // namespace

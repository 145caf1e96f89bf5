// One step: from tokens to logits, layer by layer.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "attention.h"
#include "buffer.h"
#include "interface.h"
#include "matrix.h"
#include "threads.h"
#include "vectors.h"

namespace {

// The weights, the threads, and memory for what a step computes on its way.
struct Model {
  // Takes over the sizes and pointers, and starts the threads. False when there is no memory for that.
  [[nodiscard]] bool open(const Shape& s) {
    shape = s;
    if (!layers.reserve(s.layers)) return false;
    std::copy_n(s.layer, s.layers, layers.get());
    shape.layer = layers.get();
    return team.start(s.threads);
  }

  // Makes room for a step. False when there is no memory for it.
  [[nodiscard]] bool reserve(size_t rows, int spans, const Span* span, size_t wanted) {
    const Shape& s = shape;
    const size_t widest = std::max({s.hidden, s.heads * s.head_dim, s.mlp});
    size_t seen = 0;
    for (int i = 0; i < spans; ++i) seen = std::max(seen, static_cast<size_t>(span[i].past + span[i].rows));
    const size_t needed = std::max(widest * kWidened / kGroup, Attention::scratch_size(seen, s.head_dim));
    scratch_size = std::max(scratch_size, (needed + 15) / 16 * 16);
    return x.reserve(rows * s.hidden) && qkv.reserve(rows * s.layer[0].qkv.outputs) &&
           mixed.reserve(rows * s.heads * s.head_dim) && inner.reserve(rows * s.mlp) && span_of.reserve(rows) &&
           (!has_out_norms() || kept.reserve(rows * s.hidden)) &&
           activations.reserve(std::max(rows, wanted), widest) && scratches.reserve(scratch_size * team.size());
  }

  [[nodiscard]] bool has_out_norms() const { return shape.layer[0].attention_out_norm != nullptr; }

  // A thread's own memory: a row of activations, what a block's scales are widened to, or what `Attention::scratch_size`
  // tells.
  float* scratch(int thread) const { return scratches.get() + thread * scratch_size; }

  Shape shape;
  Buffer<Layer> layers;
  Activations activations;
  Buffer<float> x;    // (rows, hidden): the residual stream
  Buffer<float> qkv;  // (rows, (heads + 2 kv_heads) head_dim)
  Buffer<float> mixed;  // (rows, heads head_dim): what attention gives
  Buffer<float> inner;  // (rows, mlp)
  Buffer<float> kept;   // (rows, hidden): what waits for its norm before it is added to the residual stream
  Buffer<int32_t> span_of;  // row -> span
  Buffer<float> scratches;  // (threads, scratch_size)
  size_t scratch_size = 0;
  Team team;  // the last one, so that its threads end before the memory that they use
};

// One step, run by every thread of the team together.
struct Step {
  Model& model;
  Rows rows;
  int wanted;
  const int32_t* wanted_rows;
  int head_blocks;  // blocks of the vocabulary that are asked for; 0: all
  const int32_t* head_block;
  float* logits;

  void operator()(int thread) {
    const Shape& s = model.shape;
    embed();
    model.team.wait();
    const float* out_norm = nullptr;  // of the layer before
    for (int index = 0; index < s.layers; ++index) {
      const Layer& layer = s.layer[index];
      activate(rows.count,
               [&](int row, float* to) {
                 normalise(settled(out_norm, row, row), layer.attention_norm, s.hidden, s.eps, to);
               },
               s.hidden, thread);
      const int width = layer.qkv.outputs;
      auto keep = [&](int row, int channel, const float* sums) {
        std::memcpy(model.qkv.get() + static_cast<size_t>(row) * width + channel, sums, sizeof(float) * kBlock);
      };
      matmul(model.team, layer.qkv, model.activations, Passes(rows.count), model.scratch(thread), keep);
      model.team.wait();
      const Attention attention{s, rows, index, model.qkv.get(), width, model.mixed.get(), layer.window};
      for (int row = model.team.take(1); row < rows.count; row = model.team.take(1)) attention.place(layer, row);
      model.team.wait();
      // Behind the last layer's keys and values, only the wanted rows matter: none, for a prompt that goes on.
      const bool is_last = index == s.layers - 1;
      const int count = is_last ? wanted : rows.count;
      if (count == 0) return;
      auto at = [&](int i) { return is_last ? wanted_rows[i] : i; };
      attention.run(model.team, model.scratch(thread));
      model.team.wait();
      const int heads = s.heads * s.head_dim;
      activate(count, [&](int i, float* to) { std::memcpy(to, mixed(at(i)), sizeof(float) * heads); }, heads, thread);
      out_norm = layer.attention_out_norm;
      add(layer.out, out_norm, count, at, thread);
      model.team.wait();
      activate(count,
               [&](int i, float* to) { normalise(settled(out_norm, i, at(i)), layer.mlp_norm, s.hidden, s.eps, to); },
               s.hidden, thread);
      gated(layer.gate_up, count, thread);
      model.team.wait();
      activate(count, [&](int i, float* to) { std::memcpy(to, inner(i), sizeof(float) * s.mlp); }, s.mlp, thread);
      out_norm = layer.mlp_out_norm;
      add(layer.down, out_norm, count, at, thread);
      model.team.wait();
    }
    activate(wanted,
             [&](int i, float* to) { normalise(settled(out_norm, i, wanted_rows[i]), s.norm, s.hidden, s.eps, to); },
             s.hidden, thread);
    auto finish = [&](int i, int channel, const float* sums) {
      float* to = logits + static_cast<size_t>(i) * s.vocab + channel;
      if (channel + kBlock <= s.vocab)
        std::memcpy(to, sums, sizeof(float) * kBlock);
      else if (channel < s.vocab)
        std::memcpy(to, sums, sizeof(float) * (s.vocab - channel));
    };
    if (head_blocks == 0) {
      matmul(model.team, s.head, model.activations, Passes(wanted), model.scratch(thread), finish);
    } else {
      for (int i = model.team.take(1); i < head_blocks; i = model.team.take(1))
        multiply_block(s.head, head_block[i], model.activations, Passes(wanted), model.scratch(thread), finish);
    }
  }

  float* x(int row) { return model.x.get() + static_cast<size_t>(row) * model.shape.hidden; }
  float* mixed(int row) { return model.mixed.get() + static_cast<size_t>(row) * model.shape.heads * model.shape.head_dim; }
  float* kept(int row) { return model.kept.get() + static_cast<size_t>(row) * model.shape.hidden; }
  float* inner(int row) { return model.inner.get() + static_cast<size_t>(row) * model.shape.mlp; }

  // Quantises what `make` writes for each row.
  template <typename Make>
  void activate(int count, Make make, int inputs, int thread) {
    float* scratch = model.scratch(thread);
    const Passes passes(count);
    for (int row = model.team.take(1); row < count; row = model.team.take(1)) {
      make(row, scratch);
      model.activations.set(passes, row, scratch, inputs);
    }
    model.team.wait();
  }

  // Writes the embedding of each row's token to the residual stream. It is int8 always.
  void embed() {
    const Matrix& m = model.shape.embedding;
    const int groups = m.inputs / kGroup;
    for (int row = model.team.take(1); row < rows.count; row = model.team.take(1)) {
      const int channel = rows.tokens[row] % kBlock;
      const uint8_t* from = m.blocks + static_cast<size_t>(rows.tokens[row] / kBlock) * groups * group_bytes(8);
      float* to = x(row);
      for (int g = 0; g < groups; ++g, from += group_bytes(8), to += kGroup) {
        uint16_t stored;
        std::memcpy(&stored, from + value_bytes(8) + 2 * channel, 2);
        const float scale = of_bf16(stored);
        for (int k = 0; k < kGroup; ++k) to[k] = scale * (from[(k / 4 * kBlock + channel) * 4 + k % 4] - 128);
      }
      for (int i = 0; i < m.inputs; ++i) x(row)[i] *= model.shape.embedding_scale[i];
    }
  }

  // Adds the matrix's outputs to the residual stream: those of activation row i to row at(i). Where they are to be
  // normalised first, they are kept until `settled`.
  template <typename At>
  void add(const Matrix& m, const float* norm, int count, At at, int thread) {
    auto finish = [&](int i, int channel, const float* sums) {
      float* to = (norm == nullptr ? x(at(i)) : kept(i)) + channel;
      for (int c = 0; c < kBlock; c += LANES)
        store(to + c, norm == nullptr ? load<F>(to + c) + load<F>(sums + c) : load<F>(sums + c));
    };
    matmul(model.team, m, model.activations, Passes(count), model.scratch(thread), finish);
  }

  // Gives a row of the residual stream, after what `add` kept of activation row i was normalised and added to it.
  float* settled(const float* norm, int i, int row) {
    float* to = x(row);
    if (norm == nullptr) return to;
    const int hidden = model.shape.hidden;
    float* more = kept(i);
    normalise(more, norm, hidden, model.shape.eps, more);
    for (int c = 0; c < hidden; c += LANES) store(to + c, load<F>(to + c) + load<F>(more + c));
    return to;
  }

  // act(gate) * up (Shazeer 2020): a block's first half is gate, its second half up. Both activations are
  // gate / (1 + e^-z): silu with z = gate, the tanh form of gelu (Hendrycks and Gimpel 2016) with a cubic z.
  void gated(const Matrix& m, int count, int thread) {
    const int mlp = model.shape.mlp;
    const bool is_gelu = model.shape.activation == kGeluTanh;
    auto finish = [&](int row, int channel, const float* sums) {
      if (channel / 2 >= mlp) return;
      float* to = inner(row) + channel / 2;
      for (int c = 0; c < kHalf; c += LANES) {
        const F gate = load<F>(sums + c), up = load<F>(sums + kHalf + c);
        const F z = is_gelu ? gate * multiply_add(spread(1.59576912f), gate * gate, spread(0.0713548163f)) : gate;
        store(to + c, gate / (1.0f + exponential(-z)) * up);
      }
    };
    matmul(model.team, m, model.activations, Passes(count), model.scratch(thread), finish);
  }
};

}  // namespace

// The structures that `native_structures.py` fills in and hands over.

#pragma once

#include <cstdint>

extern "C" {

struct Matrix {
  const uint8_t* blocks;  // (outputs / 32, inputs / 32, bytes of a group)
  const float* factors;   // (2, outputs): factors and bases; int8 has none
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
  const float* attention_out_norm;  // (hidden,): of what is added to the residual stream; or null
  const float* mlp_out_norm;
  const float* cos;  // (positions, head_dim / 2)
  const float* sin;
  int32_t window;  // how many positions a row sees, its own included; 0: all
  Matrix qkv;
  Matrix out;
  Matrix gate_up;  // blocks of gate and up in turn
  Matrix down;
};

enum Activation : int32_t { kSilu, kGeluTanh };

struct Shape {
  int32_t layers, hidden, mlp, heads, kv_heads, head_dim, vocab, threads;
  int32_t activation;     // between gate and up; see `Activation`
  float attention_scale;  // of scores
  float eps;
  const Layer* layer;
  const float* embedding_scale;  // (hidden,): of an embedding's row that is taken as input
  const float* norm;             // (hidden,)
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

// Runs a compiled library of the native decoder without Python, on any CPU or in an emulator.
//
//   driver LIBRARY random BITS LAYERS OUT           a random model of the shape of Qwen1.5-0.5B, with a vocabulary of 512
//   driver LIBRARY file MODEL COUNT TOKEN TOKEN..   the model that tests/support/arm.py wrote; prints COUNT greedy tokens
//
// The random model takes three steps: it prefills 64 rows, then decodes one row and four rows behind them. OUT gets the
// logits of the last row of the first step and of all rows of the others. Each step stands between two markers, system
// call 5000 with the number of its rows, between which tbcount.c counts instructions.
//
// It needs no C++ library, and frees no memory: it ends soon.

#include <dlfcn.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "interface.h"

namespace {

void* (*open_model)(const Shape*);
int (*run_step)(void*, int, const int32_t*, const int32_t*, const int32_t*, int, const Span*, int, const int32_t*, int,
                const int32_t*, float*);

void mark(int id) { syscall(5000, id); }

[[noreturn]] void fail(const char* why) {
  fprintf(stderr, "driver: %s\n", why);
  exit(1);
}

// Memory aligned to a cache line.
template <typename T>
T* reserve(size_t count) {
  T* made = static_cast<T*>(aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64));
  if (made == nullptr) fail("no memory");
  return made;
}

// The keys and values of one sequence.
struct Sequence {
  Sequence(const Shape& s, int capacity)
      : size(size_t(s.layers) * s.kv_heads * capacity * s.head_dim), capacity(capacity) {}

  static Sequence copy_of(const Shape& s, const Sequence& other) {
    Sequence copy(s, other.capacity);
    memcpy(copy.keys, other.keys, other.size * sizeof(uint16_t));
    memcpy(copy.values, other.values, other.size * sizeof(uint16_t));
    copy.length = other.length;
    return copy;
  }

  Span extend(int first, int rows) const { return Span{{}, {keys, values, capacity}, 0, length, first, rows, rows}; }

  size_t size;
  int capacity;
  int length = 0;
  uint16_t* keys = reserve<uint16_t>(size);
  uint16_t* values = reserve<uint16_t>(size);
};

// One step of a sequence; the logits of its last token.
void extend(void* model, Sequence& sequence, const int32_t* tokens, int rows, float* logits) {
  const int wanted = rows - 1;
  int32_t* const place = reserve<int32_t>(rows);
  int32_t* const parents = reserve<int32_t>(rows);
  for (int i = 0; i < rows; ++i) place[i] = sequence.length + i, parents[i] = i - 1;
  const Span span = sequence.extend(0, rows);
  mark(0);
  if (run_step(model, rows, tokens, place, parents, 1, &span, 1, &wanted, 0, nullptr, logits)) fail("no memory");
  mark(rows);
  sequence.length += rows;
}

// ------------------------------------------------------------------------------------------------ a random model

uint64_t state = 88172645463325252ull;

uint64_t next_random() {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

float uniform() { return (next_random() >> 40) * (1.0f / (1 << 24)); }

uint16_t bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

const float* random_vector(int size, float low, float high) {
  float* made = reserve<float>(size);
  for (int i = 0; i < size; ++i) made[i] = low + (high - low) * uniform();
  return made;
}

Matrix random_matrix(int outputs, int inputs, int bits, bool has_bias) {
  const size_t groups = size_t(outputs / 32) * (inputs / 32);
  const int values = bits == 8 ? 1024 : 512, ends = 64;
  uint8_t* const blocks = reserve<uint8_t>(groups * (values + ends));
  const float unit = 1.0f / ((bits == 8 ? 73.0f : 4.6f) * std::sqrt(float(inputs)));
  uint8_t* at = blocks;
  for (size_t g = 0; g < groups; ++g, at += values + ends) {
    for (int i = 0; i < values; i += 8) {
      const uint64_t eight = next_random();
      memcpy(at + i, &eight, 8);
    }
    for (int i = 0; bits == 8 && i < values; ++i) at[i] = at[i] == 0 ? 1 : at[i];  // -128 is no weight
    for (int c = 0; c < 32; ++c) {
      const float scale = 0.75f + 0.5f * uniform();
      const uint16_t as_bf16 = bf16(unit * scale);
      if (bits == 8) memcpy(at + values + 2 * c, &as_bf16, 2);
      if (bits == 4) at[values + c] = 200 * scale, at[values + 32 + c] = 40 * uniform();
    }
  }
  float* const factors = bits == 4 ? reserve<float>(2 * outputs) : nullptr;
  for (int i = 0; bits == 4 && i < outputs; ++i) {
    factors[i] = (0.9f + 0.2f * uniform()) / 200 * unit;
    factors[outputs + i] = -1380 * factors[i];  // 7.5 times the mean scale, less six times the mean minimum
  }
  return {blocks, factors, has_bias ? random_vector(outputs, -0.5f, 0.5f) : nullptr, outputs, inputs, bits};
}

Shape random_shape(int bits, int layers, int positions) {
  const int hidden = 1024, mlp = 2816, heads = 16, dim = 64, vocab = 512;
  float* const cosines = reserve<float>(positions * dim / 2);
  float* const sines = reserve<float>(positions * dim / 2);
  for (int p = 0; p < positions; ++p)
    for (int i = 0; i < dim / 2; ++i) {
      const double angle = p * std::pow(1e6, -2.0 * i / dim);
      cosines[p * dim / 2 + i] = std::cos(angle), sines[p * dim / 2 + i] = std::sin(angle);
    }
  Layer* const layer = reserve<Layer>(layers);
  for (int i = 0; i < layers; ++i) {
    Layer l{};
    l.cos = cosines, l.sin = sines;
    l.attention_norm = random_vector(hidden, 0.5f, 1.5f);
    l.mlp_norm = random_vector(hidden, 0.5f, 1.5f);
    l.qkv = random_matrix(3 * hidden, hidden, bits, true);
    l.out = random_matrix(hidden, hidden, bits, false);
    l.gate_up = random_matrix(2 * mlp, hidden, bits, false);
    l.down = random_matrix(hidden, mlp, bits, false);
    layer[i] = l;
  }
  Shape shape{layers, hidden, mlp, heads, heads, dim, vocab, 1, kSilu, 1 / std::sqrt(float(dim)), 1e-6f, layer};
  shape.embedding_scale = random_vector(hidden, 20, 40);
  shape.norm = random_vector(hidden, 0.5f, 1.5f);
  shape.embedding = random_matrix(vocab, hidden, 8, false);
  shape.head = random_matrix(vocab, hidden, bits, false);
  return shape;
}

const int32_t* random_prompt(int rows, int vocab) {
  int32_t* const tokens = reserve<int32_t>(rows);
  for (int i = 0; i < rows; ++i) tokens[i] = (i * 7919 + 13) % vocab;
  return tokens;
}

// One token for each of `rows` sequences that begin as `started` does; their logits one behind the other.
void decode(void* model, const Shape& s, const Sequence& started, int rows, float* logits) {
  Span* const spans = reserve<Span>(rows);
  int32_t* const tokens = reserve<int32_t>(rows);
  int32_t* const place = reserve<int32_t>(rows);
  int32_t* const parents = reserve<int32_t>(rows);
  int32_t* const wanted = reserve<int32_t>(rows);
  for (int i = 0; i < rows; ++i) {
    spans[i] = Sequence::copy_of(s, started).extend(i, 1);
    tokens[i] = (i * 31 + 5) % s.vocab, place[i] = started.length, parents[i] = -1, wanted[i] = i;
  }
  mark(0);
  if (run_step(model, rows, tokens, place, parents, rows, spans, rows, wanted, 0, nullptr, logits)) fail("no memory");
  mark(rows);
}

void run_random(int bits, int layers, const char* out) {
  const int positions = 128, prompt = 64;
  const Shape shape = random_shape(bits, layers, positions);
  void* model = open_model(&shape);
  FILE* file = fopen(out, "wb");
  if (model == nullptr || file == nullptr) fail("cannot begin");
  float* const logits = reserve<float>(4 * shape.vocab);
  Sequence started(shape, positions);
  extend(model, started, random_prompt(prompt, shape.vocab), prompt, logits);
  fwrite(logits, 4, shape.vocab, file);
  for (const int rows : {1, 4}) {
    decode(model, shape, started, rows, logits);
    fwrite(logits, 4, rows * shape.vocab, file);
  }
  fclose(file);
}

// ------------------------------------------------------------------------------------------------ a model in a file

// The file: numbers of four bytes, and tensors, each on a multiple of 64 bytes behind its length of eight bytes.
struct Reader {
  explicit Reader(const char* path) {
    FILE* file = fopen(path, "rb");
    if (file == nullptr) fail("no model");
    fseek(file, 0, SEEK_END);
    const size_t size = ftell(file);
    rewind(file);
    bytes = reserve<uint8_t>(size);
    if (fread(bytes, 1, size, file) != size) fail("a model that cannot be read");
    fclose(file);
  }

  template <typename T>
  T number() {
    T value;
    memcpy(&value, bytes + at, sizeof value);
    at += sizeof value;
    return value;
  }

  template <typename T>
  const T* tensor() {
    const int64_t size = number<int64_t>();
    if (size == 0) return nullptr;
    at = (at + 63) / 64 * 64;
    const T* begin = reinterpret_cast<const T*>(bytes + at);
    at += size;
    return begin;
  }

  Matrix matrix() {
    const int32_t outputs = number<int32_t>(), inputs = number<int32_t>(), bits = number<int32_t>();
    const uint8_t* blocks = tensor<uint8_t>();
    const float* factors = tensor<float>();
    return {blocks, factors, tensor<float>(), outputs, inputs, bits};
  }

  uint8_t* bytes;
  size_t at = 0;
};

void run_file(const char* path, int count, const int32_t* tokens, int rows) {
  Reader in(path);
  Shape s{};
  for (int32_t* each : {&s.layers, &s.hidden, &s.mlp, &s.heads, &s.kv_heads, &s.head_dim, &s.vocab})
    *each = in.number<int32_t>();
  s.threads = 1;
  s.attention_scale = in.number<float>();
  s.eps = in.number<float>();
  Layer* const layers = reserve<Layer>(s.layers);
  for (int i = 0; i < s.layers; ++i) {
    Layer l{};
    for (const float** each : {&l.attention_norm, &l.q_norm, &l.k_norm, &l.mlp_norm}) *each = in.tensor<float>();
    for (Matrix* each : {&l.qkv, &l.out, &l.gate_up, &l.down}) *each = in.matrix();
    layers[i] = l;
  }
  s.layer = layers;
  for (const float** each : {&s.embedding_scale, &s.norm}) *each = in.tensor<float>();
  const float* const cosines = in.tensor<float>();
  const float* const sines = in.tensor<float>();
  for (int i = 0; i < s.layers; ++i) layers[i].cos = cosines, layers[i].sin = sines;
  s.embedding = in.matrix();
  s.head = in.matrix();
  void* model = open_model(&s);
  if (model == nullptr) fail("no memory");
  Sequence sequence(s, 256);
  float* const logits = reserve<float>(s.vocab);
  int32_t best = 0;
  for (int i = 0; i < count; ++i) {
    extend(model, sequence, tokens, rows, logits);
    best = 0;
    for (int token = 1; token < s.vocab; ++token)
      if (logits[token] > logits[best]) best = token;
    printf("%d\n", best);
    tokens = &best, rows = 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) fail("too few arguments");
  void* library = dlopen(argv[1], RTLD_NOW);
  if (library == nullptr) fail(dlerror());
  open_model = reinterpret_cast<decltype(open_model)>(dlsym(library, "edged_open"));
  run_step = reinterpret_cast<decltype(run_step)>(dlsym(library, "edged_step"));
  if (strcmp(argv[2], "random") == 0 && argc == 6) {
    run_random(atoi(argv[3]), atoi(argv[4]), argv[5]);
  } else {
    const int rows = argc - 5;
    int32_t* const tokens = reserve<int32_t>(rows);
    for (int i = 0; i < rows; ++i) tokens[i] = atoi(argv[5 + i]);
    run_file(argv[3], atoi(argv[4]), tokens, rows);
  }
}

// What lies between a decoder layer's matrix products, on a CPU: norm, rotation, paged attention of decodes, gate.
//
// Numbers are float32 or bfloat16 in memory and float32 in registers; sums are float32. Vectors are GCC's own of 16
// floats, which the compiler lowers to whatever the processor has. Every function has its twin in torch, by which it is tested.

#include <cmath>
#include <cstdint>
#include <cstring>

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef uint16_t h16 __attribute__((vector_size(32)));

namespace {

typedef uint16_t half;  // bfloat16: the upper half of a float32

inline v16 all(float x) { return x - v16{}; }

inline v16 load(const float *from) {
    v16 out;
    memcpy(&out, from, 64);
    return out;
}

inline v16 load(const half *from) {
    h16 bits;
    memcpy(&bits, from, 32);
    return (v16)(__builtin_convertvector(bits, u16) << 16);
}

inline void store(float *to, v16 x) { memcpy(to, &x, 64); }

// To the nearest, ties to even; a NaN stays one.
inline void store(half *to, v16 x) {
    u16 bits = (u16)x;
    u16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    h16 out = __builtin_convertvector(x == x ? rounded : (bits >> 16) | 0x40, h16);
    memcpy(to, &out, 32);
}

// The last numbers of a row whose length is no multiple of 16, the rest 0.
template <typename T> inline v16 load(const T *from, int count) {
    if (count >= 16) return load(from);
    T part[16] = {};
    memcpy(part, from, count * sizeof(T));
    return load(part);
}

template <typename T> inline void store(T *to, v16 x, int count) {
    if (count >= 16) return store(to, x);
    T part[16];
    store(part, x);
    memcpy(to, part, count * sizeof(T));
}

template <typename T> inline v16 rounded(v16 x) {
    T part[16];
    store(part, x);
    return load(part);
}

inline v16 larger(v16 a, v16 b) { return a > b ? a : b; }

// Relative error below 2e-7: 2^n by its bits, the rest by the series of e^r for |r| < 0.35.
inline v16 exponential(v16 x) {
    x = larger(x, all(-87.0f));
    x = x < 88.0f ? x : all(88.0f);
    v16 scaled = x * 1.44269504f;
    i16 n = __builtin_convertvector(scaled + (scaled < 0.0f ? all(-0.5f) : all(0.5f)), i16);
    v16 whole = __builtin_convertvector(n, v16);
    v16 r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    v16 p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (v16)((n + 127) << 23);
}

inline float sum(v16 x) {
    float total = 0;
    for (int i = 0; i < 16; i++) total += x[i];
    return total;
}

inline float largest(v16 x) {
    float most = x[0];
    for (int i = 1; i < 16; i++) most = x[i] > most ? x[i] : most;
    return most;
}

// Sums of neighbours: those of a, then those of b.
inline v16 pairs(v16 a, v16 b) {
    const i16 even = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, even + 1);
}

// The sum of each of 16 vectors.
inline v16 sums(v16 *x) {
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) x[i] = pairs(x[2 * i], x[2 * i + 1]);
    return x[0];
}

template <typename T>
void norm(T *x, const T *change, const T *weight, T *out, int64_t rows, int64_t width, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 65536)
    for (int64_t row = 0; row < rows; row++) {
        T *mine = x + row * width;
        v16 squares = {};
        for (int64_t i = 0; i < width; i += 16) {
            v16 value = load(mine + i, width - i);
            if (change) {
                value += load(change + row * width + i, width - i);
                store(mine + i, value, width - i);
                value = rounded<T>(value);
            }
            squares += value * value;
        }
        float scale = 1.0f / sqrtf(sum(squares) / width + eps);
        for (int64_t i = 0; i < width; i += 16)
            store(out + row * width + i, load(mine + i, width - i) * scale * load(weight + i, width - i), width - i);
    }
}

template <typename T> void gate(const T *gate_up, T *out, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 65536)
    for (int64_t row = 0; row < rows; row++) {
        const T *mine = gate_up + 2 * row * width;
        for (int64_t i = 0; i < width; i += 16) {
            v16 x = load(mine + i, width - i);
            store(out + row * width + i, x / (1.0f + exponential(-x)) * load(mine + width + i, width - i), width - i);
        }
    }
}

// The first 2 * turned numbers of a head: (a, b) becomes (a cos - b sin, b cos + a sin), a from the first half of them.
template <typename T> inline void rotate(T *head, const float *cos, const float *sin, int turned) {
    for (int i = 0; i < turned; i += 16) {
        int left = turned - i;
        v16 a = load(head + i, left), b = load(head + turned + i, left), c = load(cos + i, left), s = load(sin + i, left);
        store(head + i, a * c - b * s, left);
        store(head + turned + i, b * c + a * s, left);
    }
}

template <typename T> inline void normalise(T *head, const T *weight, int width, float eps) {
    v16 squares = {};
    for (int i = 0; i < width; i += 16) {
        v16 value = load(head + i, width - i);
        squares += value * value;
    }
    float scale = 1.0f / sqrtf(sum(squares) / width + eps);
    for (int i = 0; i < width; i += 16)
        store(head + i, rounded<T>(load(head + i, width - i) * scale * load(weight + i, width - i)), width - i);
}

// tokens: [n, heads + 2 * kv_heads, width]; cache: [2 * kv_heads, slots, width] of one layer.
template <typename T>
void write(T *tokens, int64_t n, int heads, int kv_heads, int width, const int64_t *positions, const float *cos,
           const float *sin, int turned, const T *q_norm, const T *k_norm, float eps, T *cache, const int64_t *slots,
           int64_t all_slots, int threads) {
#pragma omp parallel for num_threads(threads) if (n * (heads + 2 * kv_heads) * width > 65536)
    for (int64_t token = 0; token < n; token++) {
        T *head = tokens + token * (heads + 2 * kv_heads) * width;
        const float *c = cos + positions[token] * turned, *s = sin + positions[token] * turned;
        for (int i = 0; i < heads + 2 * kv_heads; i++, head += width) {
            if (i < heads + kv_heads) {
                if (q_norm) normalise(head, i < heads ? q_norm : k_norm, width, eps);
                rotate(head, c, s, turned);
            }
            if (i >= heads) memcpy(cache + ((i - heads) * all_slots + slots[token]) * width, head, width * sizeof(T));
        }
    }
}

const int WIDEST = 256;  // of a head; the caller sees to it

// G query heads of one token over the keys and values that they share: softmax in one pass, 16 tokens at a time.
template <typename T, int G>
void attend(const T *q, const T *keys, const T *values, T *out, const int32_t *pages, int from, int length, int width,
            int block, float scale) {
    const int parts = (width + 15) / 16;
    v16 query[G][WIDEST / 16], mixed[G][WIDEST / 16];
    float most[G], total[G];
    for (int g = 0; g < G; g++) {
        most[g] = -INFINITY;
        total[g] = 0;
        for (int p = 0; p < parts; p++) {
            query[g][p] = load(q + g * width + p * 16, width - p * 16) * scale;
            mixed[g][p] = v16{};
        }
    }
    for (int at = from; at < length;) {
        int offset = at % block;
        int count = block - offset < 16 ? block - offset : 16;
        if (count > length - at) count = length - at;
        int64_t first = ((int64_t)pages[at / block] * block + offset) * width;
        const T *key = keys + first, *value = values + first;
        v16 scores[G][16];
        for (int t = 0; t < 16; t++) {
            v16 dot[G] = {};
            if (t < count)
                for (int p = 0; p < parts; p++) {
                    v16 k = load(key + t * width + p * 16, width - p * 16);
                    for (int g = 0; g < G; g++) dot[g] += query[g][p] * k;
                }
            for (int g = 0; g < G; g++) scores[g][t] = dot[g];
        }
        alignas(64) float shares[G][16];
        const i16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        for (int g = 0; g < G; g++) {
            v16 score = lane < count ? sums(scores[g]) : all(-INFINITY);
            float high = largest(score);
            if (high > most[g]) {
                v16 less = exponential(all(most[g] - high));
                total[g] *= less[0];
                for (int p = 0; p < parts; p++) mixed[g][p] *= less;
                most[g] = high;
            }
            v16 share = lane < count ? exponential(score - most[g]) : v16{};
            total[g] += sum(share);
            memcpy(shares[g], &share, 64);
        }
        for (int p = 0; p < parts; p++) {
            v16 mine[G];
            for (int g = 0; g < G; g++) mine[g] = mixed[g][p];
            for (int t = 0; t < count; t++) {
                v16 v = load(value + t * width + p * 16, width - p * 16);
                for (int g = 0; g < G; g++) mine[g] += shares[g][t] * v;
            }
            for (int g = 0; g < G; g++) mixed[g][p] = mine[g];
        }
        at += count;
    }
    for (int g = 0; g < G; g++)
        for (int p = 0; p < parts; p++) store(out + g * width + p * 16, mixed[g][p] * (1.0f / total[g]), width - p * 16);
}

// rows: [n, row_heads, width], queries first; the row's pages are tables[begins[row] ...]; out: [n, heads, width].
template <typename T>
void decode(const T *rows, int64_t n, int64_t row_heads, int heads, int kv_heads, int width, const T *cache, int64_t slots,
            int block, const int32_t *tables, const int32_t *begins, const int32_t *lengths, int window, float scale,
            T *out, int threads) {
    int64_t work = 0;
    for (int64_t row = 0; row < n; row++) work += lengths[row] < window ? lengths[row] : window;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (work * heads * width > 65536)
    for (int64_t task = 0; task < n * kv_heads; task++) {
        int64_t row = task / kv_heads;
        int shared = heads / kv_heads, kv = task % kv_heads;
        int length = lengths[row], from = length > window ? length - window : 0;
        const T *keys = cache + kv * slots * width, *values = cache + (kv_heads + kv) * slots * width;
        const int32_t *pages = tables + begins[row];
        for (int g = 0; g < shared;) {
            const T *q = rows + (row * row_heads + kv * shared + g) * width;
            T *to = out + (row * heads + kv * shared + g) * width;
            int left = shared - g;
            if (left >= 4) attend<T, 4>(q, keys, values, to, pages, from, length, width, block, scale), g += 4;
            else if (left == 3) attend<T, 3>(q, keys, values, to, pages, from, length, width, block, scale), g += 3;
            else if (left == 2) attend<T, 2>(q, keys, values, to, pages, from, length, width, block, scale), g += 2;
            else attend<T, 1>(q, keys, values, to, pages, from, length, width, block, scale), g += 1;
        }
    }
}

}  // namespace

#define FACE(name, T)                                                                                                   \
    extern "C" void norm_##name(T *x, const T *change, const T *weight, T *out, int64_t rows, int64_t width, float eps,  \
                                int threads) {                                                                          \
        norm<T>(x, change, weight, out, rows, width, eps, threads);                                                     \
    }                                                                                                                   \
    extern "C" void gate_##name(const T *gate_up, T *out, int64_t rows, int64_t width, int threads) {                   \
        gate<T>(gate_up, out, rows, width, threads);                                                                    \
    }                                                                                                                   \
    extern "C" void write_##name(T *tokens, int64_t n, int heads, int kv_heads, int width, const int64_t *positions,    \
                                 const float *cos, const float *sin, int turned, const T *q_norm, const T *k_norm,      \
                                 float eps, T *cache, const int64_t *slots, int64_t all_slots, int threads) {           \
        write<T>(tokens, n, heads, kv_heads, width, positions, cos, sin, turned, q_norm, k_norm, eps, cache, slots,     \
                 all_slots, threads);                                                                                   \
    }                                                                                                                   \
    extern "C" void decode_##name(const T *rows, int64_t n, int64_t row_heads, int heads, int kv_heads, int width,      \
                                  const T *cache, int64_t slots, int block, const int32_t *tables,                      \
                                  const int32_t *begins, const int32_t *lengths, int window, float scale, T *out,       \
                                  int threads) {                                                                        \
        decode<T>(rows, n, row_heads, heads, kv_heads, width, cache, slots, block, tables, begins, lengths, window,     \
                  scale, out, threads);                                                                                 \
    }

FACE(float32, float)
FACE(bfloat16, half)

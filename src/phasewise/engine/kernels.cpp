// What lies between a decoder layer's matrix products, on a CPU: norm, rotation, paged attention of decodes, gate.
//
// Numbers are float32 or bfloat16 in memory and float32 in registers; sums are float32. Vectors are GCC's own of 16
// floats, which the compiler lowers to whatever the processor has. Every function has its twin in torch, by which it is tested.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));

namespace {

typedef uint16_t half;  // bfloat16: the upper half of a float32

const i16 LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline v16 all(float x) { return x - v16{}; }

// 32 numbers in a row. Of float32 the first 16 and the last; of bfloat16 the even ones and the odd, which is how they
// come out of memory without a shuffle. What is added, scaled and stored again does not mind.
struct Pair {
    v16 a, b;
};

inline Pair load(const float *from) {
    Pair out;
    memcpy(&out, from, 128);
    return out;
}

inline Pair load(const half *from) {
    u16 bits;
    memcpy(&bits, from, 64);
    return {(v16)(bits << 16), (v16)(bits & 0xffff0000)};
}

// float32 numbers in the order in which numbers of type T are loaded.
inline Pair load_like(const float *from, float) { return load(from); }

inline Pair load_like(const float *from, half) {
    Pair x = load(from);
    return {__builtin_shuffle(x.a, x.b, LANE * 2), __builtin_shuffle(x.a, x.b, LANE * 2 + 1)};
}

// To the nearest bfloat16, ties to even, in the upper half; a NaN stays one.
inline u16 rounded_bits(v16 x) {
    u16 bits = (u16)x;
    return x == x ? bits + 0x7fff + ((bits >> 16) & 1) : bits | 0x400000;
}

inline void store(float *to, Pair x) { memcpy(to, &x, 128); }

inline void store(half *to, Pair x) {
    u16 bits = (rounded_bits(x.a) >> 16) | (rounded_bits(x.b) & 0xffff0000);
    memcpy(to, &bits, 64);
}

// The end of a row whose length is no multiple of 32; what is beyond it counts as 0.
template <typename T> inline Pair load(const T *from, int64_t count) {
    if (count >= 32) return load(from);
    T part[32] = {};
    memcpy(part, from, count * sizeof(T));
    return load(part);
}

template <typename T> inline Pair load_like(const float *from, int64_t count) {
    if (count >= 32) return load_like(from, T());
    float part[32] = {};
    memcpy(part, from, count * sizeof(float));
    return load_like(part, T());
}

template <typename T> inline void store(T *to, Pair x, int64_t count) {
    if (count >= 32) return store(to, x);
    T part[32];
    store(part, x);
    memcpy(to, part, count * sizeof(T));
}

// And back into the order of float32.
inline void store_like(float *to, Pair x, float) { store(to, x); }

inline void store_like(float *to, Pair x, half) {
    const i16 zip = LANE / 2 + (LANE & 1) * 16;
    store(to, Pair{__builtin_shuffle(x.a, x.b, zip), __builtin_shuffle(x.a, x.b, zip + 8)});
}

template <typename T> inline void store_like(float *to, Pair x, int64_t count) {
    if (count >= 32) return store_like(to, x, T());
    float part[32];
    store_like(part, x, T());
    memcpy(to, part, count * sizeof(float));
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

inline v16 turned_by(v16 x, int by) { return __builtin_shuffle(x, (LANE + by) & 15); }

inline float sum(v16 x) {
    x += turned_by(x, 8);
    x += turned_by(x, 4);
    x += turned_by(x, 2);
    x += turned_by(x, 1);
    return x[0];
}

inline float largest(v16 x) {
    x = larger(x, turned_by(x, 8));
    x = larger(x, turned_by(x, 4));
    x = larger(x, turned_by(x, 2));
    x = larger(x, turned_by(x, 1));
    return x[0];
}

// Sums of neighbours: those of a, then those of b.
inline v16 pairs(v16 a, v16 b) { return __builtin_shuffle(a, b, LANE * 2) + __builtin_shuffle(a, b, LANE * 2 + 1); }

// The sum of each of 16 vectors.
inline v16 sums(v16 *x) {
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) x[i] = pairs(x[2 * i], x[2 * i + 1]);
    return x[0];
}

inline void add_squares(v16 &to, Pair x) { to += x.a * x.a + x.b * x.b; }

inline Pair scaled(Pair x, float scale, Pair weight) { return {x.a * scale * weight.a, x.b * scale * weight.b}; }

inline float norm_scale(v16 squares, int64_t width, float eps) { return 1.0f / sqrtf(sum(squares) / width + eps); }

// The sum stays in float32, whatever the numbers beside it: it is rounded at every layer otherwise.
template <typename T>
void norm(float *x, const T *change, const T *weight, T *out, int64_t rows, int64_t width, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 65536)
    for (int64_t row = 0; row < rows; row++) {
        float *mine = x + row * width;
        const T *more = change ? change + row * width : nullptr;
        v16 squares = {};
        for (int64_t i = 0; i < width; i += 32) {
            Pair value = load_like<T>(mine + i, width - i);
            if (more) {
                Pair by = load(more + i, width - i);
                value = {value.a + by.a, value.b + by.b};
                store_like<T>(mine + i, value, width - i);
            }
            add_squares(squares, value);
        }
        float scale = norm_scale(squares, width, eps);
        for (int64_t i = 0; i < width; i += 32)
            store(out + row * width + i, scaled(load_like<T>(mine + i, width - i), scale, load(weight + i, width - i)), width - i);
    }
}

inline v16 silu(v16 x) { return x / (1.0f + exponential(-x)); }

template <typename T> void gate(const T *gate_up, T *out, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 65536)
    for (int64_t row = 0; row < rows; row++) {
        const T *mine = gate_up + 2 * row * width;
        for (int64_t i = 0; i < width; i += 32) {
            Pair x = load(mine + i, width - i), by = load(mine + width + i, width - i);
            store(out + row * width + i, {silu(x.a) * by.a, silu(x.b) * by.b}, width - i);
        }
    }
}

// The first 2 * turned numbers of a head: (x, y) becomes (x cos - y sin, y cos + x sin), x from the first half of them.
template <typename T> inline void rotate(T *head, const float *cos, const float *sin, int turned) {
    for (int i = 0; i < turned; i += 32) {
        int left = turned - i;
        Pair x = load(head + i, left), y = load(head + turned + i, left);
        Pair c = load_like<T>(cos + i, left), s = load_like<T>(sin + i, left);
        store(head + i, {x.a * c.a - y.a * s.a, x.b * c.b - y.b * s.b}, left);
        store(head + turned + i, {y.a * c.a + x.a * s.a, y.b * c.b + x.b * s.b}, left);
    }
}

template <typename T> inline void normalise(T *head, const T *weight, int width, float eps) {
    v16 squares = {};
    for (int i = 0; i < width; i += 32) add_squares(squares, load(head + i, width - i));
    float scale = norm_scale(squares, width, eps);
    for (int i = 0; i < width; i += 32)
        store(head + i, scaled(load(head + i, width - i), scale, load(weight + i, width - i)), width - i);
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
// P is the width in pairs where it is known and even, else 0.
template <typename T, int G, int P>
void attend(const T *q, const T *keys, const T *values, T *out, const int32_t *pages, int from, int length, int width,
            int block, float scale) {
    const int parts = P ? P : (width + 31) / 32;
    auto part = [width](const T *row, int p) { return P ? load(row + p * 32) : load(row + p * 32, width - p * 32); };
    Pair query[G][P ? P : WIDEST / 32], mixed[G][P ? P : WIDEST / 32];
    v16 total[G];
    float most[G];
    for (int g = 0; g < G; g++) {
        most[g] = -INFINITY;
        total[g] = v16{};
        for (int p = 0; p < parts; p++) {
            query[g][p] = part(q + g * width, p);
            query[g][p] = {query[g][p].a * scale, query[g][p].b * scale};
            mixed[g][p] = Pair{};
        }
    }
    for (int at = from; at < length;) {
        int offset = at % block;
        int count = block - offset < 16 ? block - offset : 16;
        if (count > length - at) count = length - at;
        int64_t first = ((int64_t)pages[at / block] * block + offset) * width;
        const T *key = keys + first, *value = values + first;
        // Pages lie anywhere: the next one is fetched while this one is worked on.
        if (at + count < length && offset + count == block) {
            int64_t next = (int64_t)pages[at / block + 1] * block * width;
            for (int64_t i = 0; i < (int64_t)block * width; i += 64 / sizeof(T)) {
                __builtin_prefetch(keys + next + i);
                __builtin_prefetch(values + next + i);
            }
        }
        v16 scores[G][16];
        for (int t = 0; t < count; t++) {
            v16 dot[G] = {};
            for (int p = 0; p < parts; p++) {
                Pair k = part(key + t * width, p);
                for (int g = 0; g < G; g++) dot[g] += query[g][p].a * k.a + query[g][p].b * k.b;
            }
            for (int g = 0; g < G; g++) scores[g][t] = dot[g];
        }
        for (int t = count; t < 16; t++)
            for (int g = 0; g < G; g++) scores[g][t] = v16{};
        float shares[G][16];
        for (int g = 0; g < G; g++) {
            v16 score = LANE < count ? sums(scores[g]) : all(-INFINITY);
            float high = largest(score);
            if (high > most[g]) {
                v16 less = exponential(all(most[g] - high));
                total[g] *= less;
                for (int p = 0; p < parts; p++) mixed[g][p] = {mixed[g][p].a * less, mixed[g][p].b * less};
                most[g] = high;
            }
            v16 share = LANE < count ? exponential(score - most[g]) : v16{};
            total[g] += share;
            memcpy(shares[g], &share, 64);
        }
        for (int p = 0; p < parts; p++) {
            Pair mine[G];
            for (int g = 0; g < G; g++) mine[g] = mixed[g][p];
            for (int t = 0; t < count; t++) {
                Pair v = part(value + t * width, p);
                for (int g = 0; g < G; g++) {
                    mine[g].a += shares[g][t] * v.a;
                    mine[g].b += shares[g][t] * v.b;
                }
            }
            for (int g = 0; g < G; g++) mixed[g][p] = mine[g];
        }
        at += count;
    }
    for (int g = 0; g < G; g++) {
        float whole = 1.0f / sum(total[g]);
        for (int p = 0; p < parts; p++)
            store(out + g * width + p * 32, {mixed[g][p].a * whole, mixed[g][p].b * whole}, width - p * 32);
    }
}

template <typename T, int P>
void attend(int heads, const T *q, const T *keys, const T *values, T *out, const int32_t *pages, int from, int length,
            int width, int block, float scale) {
    for (int left = heads; left > 0; q += 4 * width, out += 4 * width, left -= 4) {
        auto some = left >= 4   ? attend<T, 4, P>
                    : left == 3 ? attend<T, 3, P>
                    : left == 2 ? attend<T, 2, P>
                                : attend<T, 1, P>;
        some(q, keys, values, out, pages, from, length, width, block, scale);
    }
}

// rows: [n, row_heads, width], queries first; the row's pages are tables[begins[row] ...]; out: [n, heads, width].
template <typename T>
void decode(const T *rows, int64_t n, int64_t row_heads, int heads, int kv_heads, int width, const T *cache, int64_t slots,
            int block, const int32_t *tables, const int32_t *begins, const int32_t *lengths, int window, float scale,
            T *out, int threads) {
    int64_t work = 0;
    for (int64_t row = 0; row < n; row++) work += lengths[row] < window ? lengths[row] : window;
    auto some = width == 64 ? attend<T, 2> : width == 128 ? attend<T, 4> : attend<T, 0>;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (work * heads * width > 65536)
    for (int64_t task = 0; task < n * kv_heads; task++) {
        int64_t row = task / kv_heads;
        int shared = heads / kv_heads, kv = task % kv_heads;
        int length = lengths[row], from = length > window ? length - window : 0;
        some(shared, rows + (row * row_heads + kv * shared) * width, cache + kv * slots * width,
             cache + (kv_heads + kv) * slots * width, out + (row * heads + kv * shared) * width, tables + begins[row], from,
             length, width, block, scale);
    }
}

const int ABREAST = 8;  // query rows that are multiplied together
const int ROWS = 96;    // of a tile, about: what shares one reading of the keys

inline v16 zip_low(v16 a, v16 b) { return __builtin_shuffle(a, b, (LANE >> 1) + (LANE & 1) * 16); }

inline v16 zip_high(v16 a, v16 b) { return __builtin_shuffle(a, b, (LANE >> 1) + 8 + (LANE & 1) * 16); }

// 16 rows of 16 become columns: four perfect shuffles.
inline void transpose(v16 *x) {
    for (int round = 0; round < 4; round++) {
        v16 y[16];
        for (int i = 0; i < 8; i++) {
            y[2 * i] = zip_low(x[i], x[i + 8]);
            y[2 * i + 1] = zip_high(x[i], x[i + 8]);
        }
        memcpy(x, y, sizeof y);
    }
}

// Some tokens of a chunk and the query heads that share one head of keys: rows [token][head], 2 * parts vectors wide.
template <typename T, int P> struct Tile {
    int rows, parts, width;
    std::vector<v16> query, mixed, total, shares;
    std::vector<float> most;

    Tile(int tokens, int shared, int width)
        : rows((tokens * shared + ABREAST - 1) / ABREAST * ABREAST), parts(P ? P : (width + 31) / 32), width(width),
          query(rows * parts * 2), mixed(rows * parts * 2), total(rows), shares(rows * 2), most(rows, -INFINITY) {}

    // Queries against 32 keys that lie as columns, `at` the first's position; then their softmax so far, in `shares`.
    void look(const v16 *columns, int at, int first, int shared, int window) {
        const int wide = P ? P * 32 : parts * 32;
        for (int row = 0; row < rows; row += ABREAST) {
            const float *q = (const float *)&query[row * parts * 2];
            v16 low[ABREAST] = {}, high[ABREAST] = {};
            for (int d = 0; d < wide; d++)
                for (int r = 0; r < ABREAST; r++) {
                    low[r] += q[r * wide + d] * columns[d * 2];
                    high[r] += q[r * wide + d] * columns[d * 2 + 1];
                }
            for (int r = 0; r < ABREAST; r++) {
                // Keys after the token's own are not its to see, those that this step has not got to among them.
                int own = first + (row + r) / shared;
                i16 key = LANE + at, later = key + 16;
                i16 sees = (key <= own) & (key > own - window), sees_later = (later <= own) & (later > own - window);
                v16 score = sees ? low[r] : all(-INFINITY), score_later = sees_later ? high[r] : all(-INFINITY);
                float top = largest(larger(score, score_later));
                if (top > most[row + r]) {
                    v16 less = exponential(all(most[row + r] - top));
                    total[row + r] *= less;
                    for (int p = 0; p < parts * 2; p++) mixed[(row + r) * parts * 2 + p] *= less;
                    most[row + r] = top;
                }
                // A row that has seen nothing yet subtracts infinity from infinity, and looks at none of it.
                v16 *share = &shares[(row + r) * 2];
                share[0] = sees ? exponential(score - most[row + r]) : v16{};
                share[1] = sees_later ? exponential(score_later - most[row + r]) : v16{};
                total[row + r] += share[0] + share[1];
            }
        }
    }

    void mix(const v16 *values, int count) {
        const int vectors = P ? P * 2 : parts * 2;
        const float *share = (const float *)shares.data();
        for (int row = 0; row < rows; row += 4)
            for (int p = 0; p < vectors; p += 2) {
                v16 mine[4][2];
                for (int r = 0; r < 4; r++) memcpy(mine[r], &mixed[(row + r) * vectors + p], sizeof mine[r]);
                for (int t = 0; t < count; t++)
                    for (int r = 0; r < 4; r++) {
                        mine[r][0] += share[(row + r) * 32 + t] * values[t * vectors + p];
                        mine[r][1] += share[(row + r) * 32 + t] * values[t * vectors + p + 1];
                    }
                for (int r = 0; r < 4; r++) memcpy(&mixed[(row + r) * vectors + p], mine[r], sizeof mine[r]);
            }
    }
};

// One tile's tokens begin at position `first`; q and out point at their first head of these, `stride` and `span` numbers a token.
template <typename T, int P>
void attend_tile(int tokens, int shared, const T *q, int64_t stride, const T *keys, const T *values, T *out, int64_t span,
                 const int32_t *pages, int first, int width, int block, int window, float scale) {
    Tile<T, P> tile(tokens, shared, width);
    const int parts = tile.parts;
    for (int row = 0; row < tokens * shared; row++)
        for (int p = 0; p < parts; p++) {
            Pair x = load(q + row / shared * stride + row % shared * width + p * 32, width - p * 32);
            tile.query[(row * parts + p) * 2] = x.a * scale;
            tile.query[(row * parts + p) * 2 + 1] = x.b * scale;
        }
    std::vector<v16> columns(parts * 64), mine(parts * 64);
    const int end = first + tokens;
    for (int at = first + 1 > window ? first + 1 - window : 0; at < end; at += 32) {
        const int count = end - at < 32 ? end - at : 32;
        for (int half = 0; half < 2; half++)
            for (int p = 0; p < parts; p++) {
                v16 even[16], odd[16];
                for (int i = 0; i < 16; i++) {
                    const int t = half * 16 + i;
                    Pair k = {}, v = {};
                    if (t < count) {
                        int64_t from = ((int64_t)pages[(at + t) / block] * block + (at + t) % block) * width + p * 32;
                        k = load(keys + from, width - p * 32);
                        v = load(values + from, width - p * 32);
                    }
                    even[i] = k.a;
                    odd[i] = k.b;
                    memcpy(&mine[(t * parts + p) * 2], &v, sizeof v);
                }
                transpose(even);
                transpose(odd);
                for (int d = 0; d < 16; d++) {
                    columns[(p * 32 + d) * 2 + half] = even[d];
                    columns[(p * 32 + 16 + d) * 2 + half] = odd[d];
                }
            }
        tile.look(columns.data(), at, first, shared, window);
        tile.mix(mine.data(), count);
    }
    for (int row = 0; row < tokens * shared; row++) {
        float whole = 1.0f / sum(tile.total[row]);
        for (int p = 0; p < parts; p++) {
            Pair x = {tile.mixed[(row * parts + p) * 2] * whole, tile.mixed[(row * parts + p) * 2 + 1] * whole};
            store(out + row / shared * span + row % shared * width + p * 32, x, width - p * 32);
        }
    }
}

// A chunk of one sequence, n tokens from position `start`, its keys and values in the cache already. Arguments as of decode.
template <typename T>
void prompt(const T *rows, int64_t n, int64_t row_heads, int heads, int kv_heads, int width, const T *cache, int64_t slots,
            int block, const int32_t *pages, int start, int window, float scale, T *out, int threads) {
    const int shared = heads / kv_heads, tokens = shared < ROWS / 4 ? ROWS / shared : 4;
    auto some = width == 64 ? attend_tile<T, 2> : width == 128 ? attend_tile<T, 4> : attend_tile<T, 0>;
    const int64_t tiles = (n + tokens - 1) / tokens;
    // The last tiles, which look furthest back, go first, so that no thread is left with one at the end.
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (n * (start + n) * heads * width > 65536)
    for (int64_t task = 0; task < tiles * kv_heads; task++) {
        int64_t tile = tiles - 1 - task / kv_heads, kv = task % kv_heads, token = tile * tokens;
        some(n - token < tokens ? n - token : tokens, shared, rows + (token * row_heads + kv * shared) * width,
             row_heads * width, cache + kv * slots * width, cache + (kv_heads + kv) * slots * width,
             out + (token * heads + kv * shared) * width, heads * width, pages, start + token, width, block, window, scale);
    }
}

}  // namespace

#define FACE(name, T)                                                                                                   \
    extern "C" void norm_##name(float *x, const T *change, const T *weight, T *out, int64_t rows, int64_t width, float eps,  \
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
    }                                                                                                                   \
    extern "C" void prompt_##name(const T *rows, int64_t n, int64_t row_heads, int heads, int kv_heads, int width,      \
                                  const T *cache, int64_t slots, int block, const int32_t *pages, int start,            \
                                  int window, float scale, T *out, int threads) {                                       \
        prompt<T>(rows, n, row_heads, heads, kv_heads, width, cache, slots, block, pages, start, window, scale, out,    \
                  threads);                                                                                             \
    }

FACE(float32, float)
FACE(bfloat16, half)

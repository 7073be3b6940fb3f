/* One token for each of a few rows: the network of model/gpt.py in one call.

   A small model's token is some two hundred operations of a microsecond's work each; called one by one from Python they
   take longer than the memory takes to hand over the weights. The arithmetic is decoder.py's: fp32 throughout, weights
   in fp32 or fp16, a row's numbers do not depend on the other rows. native.py compiles this file and hands it pointers;
   the sums of a product are in another order than torch's, which is all the difference.

   R rows of the cache, N rows of this call, C width, H query heads, K key heads, D head size, M places, I and O inputs
   and outputs of a matrix. All arrays are dense, the last index moves fastest. */

#include "native_vector.h"

enum { MOST_ROWS = 4, MOST_BLOCKS = 8 }; /* of one tile, though not both: its sums are registers */
#define AHEAD 1024 /* bytes of each block that are asked for before they are needed */

typedef struct {
    const void *qkv, *attn_proj, *fc, *mlp_proj; /* (O, I) */
    const float *table;                          /* value embeddings (V, K D), or none */
    float *keys, *values;                        /* (R, K, M, D) */
    int64_t num_places;                          /* M */
    float residual, skip;
} Layer;

typedef struct {
    const Layer *layers;
    const void *head;                            /* (V, C) */
    const float *embed, *smear_gate, *rotations; /* (V, C), (C,), (positions, 2, D) */
    float *last_embedding;                       /* (R, C) */
    int64_t *positions;                          /* (R,): tokens held */
    int64_t n_layer, n_embd, n_head, n_kv_head, head_dim, num_hidden, vocab_size, is_half;
    float scale, eps, smear, backout, gate_scale, softcap;
} Model;

static inline Vector load(const void *weights, int64_t at, int is_half) {
    if (!is_half) return *(const Vector *)((const float *)weights + at);
    const uint16_t *halves = (const uint16_t *)weights + at;
#ifdef __AVX512F__
    return (Vector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
#else
    /* the exponent is moved by a product, which gets denormals right as well */
    Bits bits = __builtin_convertvector(*(const Halves *)halves, Bits);
    Bits value = (Bits)((Vector)((bits & 0x7fff) << 13) * 0x1p112f);
    Bits is_no_number = (Bits)((bits & 0x7c00) == 0x7c00) & 0x7f800000;
    return (Vector)(value | is_no_number | (bits & 0x8000) << 16);
#endif
}

/* Some rows times some blocks of outputs. The counts are constants wherever this is called: the sums are registers. */
static inline __attribute__((always_inline)) void tile(int rows, int blocks, int is_half, const float *x,
                                                       const void *weights, int64_t block, float *out, int64_t I,
                                                       int64_t O) {
    Vector sums[MOST_ROWS][MOST_BLOCKS] = {{{0}}};
    for (int64_t i = 0; i < I; i++)
        for (int b = 0; b < blocks; b++) {
            int64_t at = ((block + b) * I + i) * WIDE;
            __builtin_prefetch((const char *)weights + at * (is_half ? 2 : 4) + AHEAD); /* past the end: ignored */
            Vector w = load(weights, at, is_half);
            for (int r = 0; r < rows; r++) sums[r][b] += x[r * I + i] * w;
        }
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++) {
            int64_t o = (block + b) * WIDE, left = O - o < WIDE ? O - o : WIDE;
            memcpy(out + r * O + o, &sums[r][b], sizeof(float) * left);
        }
}

static inline __attribute__((always_inline)) void blocks_of(int blocks, int is_half, int64_t N, const float *x,
                                                            const void *weights, int64_t block, float *out, int64_t I,
                                                            int64_t O) {
    int64_t r = 0;
    for (; r + 4 <= N; r += 4) tile(4, blocks, is_half, x + r * I, weights, block, out + r * O, I, O);
    if (N - r == 3) tile(3, blocks, is_half, x + r * I, weights, block, out + r * O, I, O);
    if (N - r == 2) tile(2, blocks, is_half, x + r * I, weights, block, out + r * O, I, O);
    if (N - r == 1) tile(1, blocks, is_half, x + r * I, weights, block, out + r * O, I, O);
}

/* out (N, O) = x (N, I) times the transpose of a matrix (O, I), whose weights lie as (O / 16, I, 16). */
void product(int64_t N, int64_t O, int64_t I, int64_t is_half, const float *x, const void *weights, float *out,
             int64_t threads) {
    int64_t num_blocks = (O + WIDE - 1) / WIDE;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t group = 0; group < (num_blocks + MOST_BLOCKS - 1) / MOST_BLOCKS; group++) {
        int64_t block = group * MOST_BLOCKS;
        if (block + MOST_BLOCKS > num_blocks)
            for (; block < num_blocks; block++) blocks_of(1, is_half, N, x, weights, block, out, I, O);
        else if (N == 1) {
            if (is_half) tile(1, MOST_BLOCKS, 1, x, weights, block, out, I, O);
            else tile(1, MOST_BLOCKS, 0, x, weights, block, out, I, O);
        } else
            for (int64_t part = block; part < block + MOST_BLOCKS; part += MOST_BLOCKS / 2) {
                if (is_half) blocks_of(MOST_BLOCKS / 2, 1, N, x, weights, part, out, I, O);
                else blocks_of(MOST_BLOCKS / 2, 0, N, x, weights, part, out, I, O);
            }
    }
}

static inline float total(Vector v) {
    typedef float Half __attribute__((vector_size(2 * WIDE))), Quarter __attribute__((vector_size(WIDE)));
    union { Vector whole; Half halves[2]; } a = {v};
    union { Half whole; Quarter quarters[2]; } b = {a.halves[0] + a.halves[1]};
    Quarter sums = b.quarters[0] + b.quarters[1];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* In place: cap * tanh(x / cap). */
static void soften(float *logits, int64_t n, float cap) {
    for (int64_t i = 0; i < n; i += WIDE) {
        float some[WIDE] = {0};
        int64_t count = n - i < WIDE ? n - i : WIDE;
        memcpy(some, logits + i, sizeof(float) * count);
        Vector x = *(const Vector *)some;
        x = 2 * cap / (1.0f + exponential(x * (-2 / cap))) - cap;
        memcpy(logits + i, &x, sizeof(float) * count);
    }
}

static float dot(const float *a, const float *b, int64_t n) {
    Vector sums = {0};
    int64_t i = 0;
    for (; i + WIDE <= n; i += WIDE) sums += *(const Vector *)(a + i) * *(const Vector *)(b + i);
    float sum = total(sums);
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* out = x over its root mean square; may be x itself. */
static void unit(const float *x, float *out, int64_t n, float eps) {
    float factor = 1.0f / sqrtf(dot(x, x, n) / n + eps);
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * factor;
}

/* A head of D numbers, normalised and turned by its position: cos (D,), sin (D,) signed for the second half. */
static void turn(float *head, const float *rotation, int64_t D, float eps) {
    const float *cos = rotation, *sin = rotation + D;
    unit(head, head, D, eps);
    for (int64_t i = 0, half = D / 2; i < half; i++) {
        float first = head[i], second = head[i + half];
        head[i] = first * cos[i] + second * sin[i];
        head[i + half] = second * cos[i + half] + first * sin[i + half];
    }
}

/* What one query (D,) gathers from the first L places of its key head; scores (L,) is scratch. */
static void attend(const float *q, const float *keys, const float *values, float *out, float *scores, int64_t L,
                   int64_t D, float scale) {
    float largest = -INFINITY, sum = 0;
    for (int64_t place = 0; place < L; place++) {
        scores[place] = scale * dot(q, keys + place * D, D);
        if (!(scores[place] <= largest)) largest = scores[place]; /* NaN wins, and is seen in the logits */
    }
    memset(out, 0, sizeof(float) * D);
    for (int64_t place = 0; place < L; place++) {
        float weight = expf(scores[place] - largest);
        const float *value = values + place * D;
        sum += weight;
        for (int64_t i = 0; i < D; i++) out[i] += weight * value[i];
    }
    for (int64_t i = 0; i < D; i++) out[i] /= sum;
}

/* q, k, v [, gates] of one row to what its heads gather (H D,); the new key and value go into their place. */
static void mix(const Model *m, const Layer *layer, float *qkv, float *mixed, float *scores, int64_t row, int64_t id) {
    int64_t H = m->n_head, K = m->n_kv_head, D = m->head_dim, M = layer->num_places;
    int64_t position = m->positions[row], L = position + 1 < M ? position + 1 : M;
    float *k = qkv + H * D, *v = k + K * D, *gates = v + K * D;
    for (int64_t head = 0; head < H + K; head++) turn(qkv + head * D, m->rotations + position * 2 * D, D, m->eps);
    for (int64_t head = 0; head < K; head++) {
        int64_t start = (row * K + head) * M * D;
        if (layer->table) {
            float gate = m->gate_scale * sigmoid(gates[head]);
            const float *embedding = layer->table + (id * K + head) * D;
            for (int64_t i = 0; i < D; i++) v[head * D + i] += gate * embedding[i];
        }
        memcpy(layer->keys + start + position % M * D, k + head * D, sizeof(float) * D);
        memcpy(layer->values + start + position % M * D, v + head * D, sizeof(float) * D);
        for (int64_t query = head * (H / K); query < (head + 1) * (H / K); query++)
            attend(qkv + query * D, layer->keys + start, layer->values + start, mixed + query * D, scores, L, D,
                   m->scale);
    }
}

/* Floats of scratch that a step of N rows takes, with rings of at most M places. */
int64_t scratch_floats(const Model *m, int64_t N, int64_t M) {
    int64_t qkv = (m->n_head + 2 * m->n_kv_head) * m->head_dim + m->n_kv_head;
    return N * (4 * m->n_embd + qkv + m->n_head * m->head_dim + m->num_hidden + M);
}

/* Feeds ids (N,) to rows (N,), which then hold one token more; logits (N, V). */
void step(const Model *m, int64_t N, const int64_t *rows, const int64_t *ids, float *logits, float *scratch, int64_t M,
          int64_t threads) {
    int64_t C = m->n_embd, heads = m->n_head * m->head_dim, hidden = m->num_hidden;
    int64_t kv = m->n_kv_head * m->head_dim;
    float *x = scratch, *x0 = x + N * C, *middle = x0 + N * C, *normed = middle + N * C;
    float *mixed = normed + N * C, *inner = mixed + N * heads, *scores = inner + N * hidden, *qkv = scores + N * M;
    for (int64_t n = 0; n < N; n++) {
        float *embedding = normed + n * C, *last = m->last_embedding + rows[n] * C;
        unit(m->embed + ids[n] * C, embedding, C, m->eps);
        float gate = m->smear * sigmoid(dot(embedding, m->smear_gate, C));
        for (int64_t i = 0; i < C; i++) x0[n * C + i] = embedding[i] + gate * last[i];
        memcpy(last, embedding, sizeof(float) * C);
    }
    memcpy(x, x0, sizeof(float) * N * C);
    for (int64_t l = 0; l < m->n_layer; l++) {
        const Layer *layer = m->layers + l;
        int64_t width = heads + 2 * kv + (layer->table ? m->n_kv_head : 0);
        for (int64_t i = 0; i < N * C; i++) x[i] = layer->residual * x[i] + layer->skip * x0[i];
        for (int64_t n = 0; n < N; n++) unit(x + n * C, normed + n * C, C, m->eps);
        product(N, width, C, m->is_half, normed, layer->qkv, qkv, threads);
#pragma omp parallel for num_threads(threads) if (threads > 1 && N > 1) schedule(static)
        for (int64_t n = 0; n < N; n++)
            mix(m, layer, qkv + n * width, mixed + n * heads, scores + n * M, rows[n], ids[n]);
        product(N, C, heads, m->is_half, mixed, layer->attn_proj, normed, threads);
        for (int64_t i = 0; i < N * C; i++) x[i] += normed[i];
        for (int64_t n = 0; n < N; n++) unit(x + n * C, normed + n * C, C, m->eps);
        product(N, hidden, C, m->is_half, normed, layer->fc, inner, threads);
        for (int64_t i = 0; i < N * hidden; i++) inner[i] = inner[i] <= 0 ? 0 : inner[i] * inner[i]; /* NaN stays */
        product(N, C, hidden, m->is_half, inner, layer->mlp_proj, normed, threads);
        for (int64_t i = 0; i < N * C; i++) x[i] += normed[i];
        if (l == m->n_layer / 2) memcpy(middle, x, sizeof(float) * N * C);
    }
    for (int64_t n = 0; n < N; n++) {
        for (int64_t i = n * C; i < (n + 1) * C; i++) x[i] -= m->backout * middle[i];
        unit(x + n * C, x + n * C, C, m->eps);
        m->positions[rows[n]]++;
    }
    product(N, m->vocab_size, C, m->is_half, x, m->head, logits, threads);
#pragma omp parallel for num_threads(threads) if (threads > 1 && N > 1) schedule(static)
    for (int64_t n = 0; n < N; n++) soften(logits + n * m->vocab_size, m->vocab_size, m->softcap);
}

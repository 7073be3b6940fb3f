/* The next token of each row of logits: what draw.py says, in one pass over the vocabulary and without torch's threads.

   Weights are whole numbers as there, so a row's token depends on its own logits, settings and number alone. Only what
   top-k leaves is read again: maxima of blocks are kept, and a block without a candidate is not looked into. */

#include <stdlib.h>

#include "native_vector.h"

#define BLOCK 128       /* tokens under one maximum */
#define UNITS 0x1p40f   /* of the likeliest token's weight */
#define NOT_FINITE (-1) /* as the token: a logit is NaN, or the largest is infinite */

static float maximum_of(const float *x, int64_t n, int *has_nan) {
    Vector largest = splat(-INFINITY);
    Bits is_nan = {0};
    int64_t i = 0;
    for (; i + WIDE <= n; i += WIDE) {
        Vector value = *(const Vector *)(x + i);
        is_nan |= (Bits)(value != value);
        largest = choose((Bits)(value > largest), value, largest);
    }
    float found = -INFINITY;
    for (int lane = 0; lane < WIDE; lane++) {
        if (largest[lane] > found) found = largest[lane];
        if (is_nan[lane]) *has_nan = 1;
    }
    for (; i < n; i++) {
        if (x[i] > found) found = x[i];
        if (x[i] != x[i]) *has_nan = 1;
    }
    return found;
}

/* A heap of the n largest so far, the smallest on top: put `value` there and let it sink. */
static void sink(float *heap, int64_t n, int64_t at, float value) {
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= value) break;
        heap[at] = heap[child];
    }
    heap[at] = value;
}

/* The k-th largest of V logits; `heap` (k,) is scratch. */
static float kth_largest(const float *logits, int64_t V, const float *maxima, int64_t k, float *heap) {
    memcpy(heap, logits, sizeof(float) * k);
    for (int64_t at = k / 2; at-- > 0;) sink(heap, k, at, heap[at]);
    for (int64_t start = k / BLOCK * BLOCK; start < V; start += BLOCK) {
        if (maxima[start / BLOCK] <= heap[0]) continue;
        for (int64_t i = start < k ? k : start; i < V && i < start + BLOCK; i++)
            if (logits[i] > heap[0]) sink(heap, k, 0, logits[i]);
    }
    return heap[0];
}

static int downwards(const void *a, const void *b) {
    int64_t first = *(const int64_t *)a, second = *(const int64_t *)b;
    return (first < second) - (first > second);
}

/* Zeroes all but the fewest candidates whose share reaches p, and what is exactly as likely as the last of them. */
static void keep_nucleus(int64_t *weights, int64_t *sorted, int64_t n, double p) {
    int64_t sum = 0, before = 0, kept = 0;
    for (int64_t i = 0; i < n; i++) sum += sorted[i] = weights[i];
    qsort(sorted, n, sizeof(int64_t), downwards);
    while (kept < n && (double)before < p * (double)sum) before += sorted[kept++];
    for (int64_t i = 0; i < n; i++)
        if (weights[i] < sorted[kept - 1]) weights[i] = 0;
}

/* Scratch: maxima and values of V floats each and a vector more, ids, weights and sorted of V numbers each. */
static int64_t draw_one(const float *logits, int64_t V, double temperature, int64_t k, double p, double number,
                        float *maxima, float *values, int64_t *ids, int64_t *weights, int64_t *sorted) {
    float largest = -INFINITY;
    int has_nan = 0;
    for (int64_t start = 0; start < V; start += BLOCK) {
        float found = maximum_of(logits + start, V - start < BLOCK ? V - start : BLOCK, &has_nan);
        maxima[start / BLOCK] = found;
        if (found > largest) largest = found;
    }
    if (has_nan || largest == INFINITY || largest == -INFINITY) return NOT_FINITE;
    float last = temperature == 0 ? largest : k < V ? kth_largest(logits, V, maxima, k, values) : -INFINITY;
    int64_t n = 0;
    for (int64_t start = 0; start < V; start += BLOCK) {
        if (maxima[start / BLOCK] < last) continue;
        for (int64_t i = start; i < V && i < start + BLOCK; i++)
            if (logits[i] >= last) {
                if (temperature == 0) return i;
                values[n] = (logits[i] - largest) / (float)temperature;
                ids[n++] = i;
            }
    }
    for (int64_t i = 0; i < n; i += WIDE) *(Vector *)(values + i) = exponential(*(const Vector *)(values + i)) * UNITS;
    for (int64_t i = 0; i < n; i++) weights[i] = (int64_t)values[i];
    if (p < 1) keep_nucleus(weights, sorted, n, p);
    int64_t sum = 0, upto = 0;
    for (int64_t i = 0; i < n; i++) sum += weights[i];
    int64_t passed = (int64_t)(number * (double)sum);
    if (passed > sum - 1) passed = sum - 1; /* the product may round up to it */
    for (int64_t i = 0; i < n; i++)
        if ((upto += weights[i]) > passed) return ids[i];
    return NOT_FINITE; /* not reached: the last sum is above */
}

/* tokens (N,) for logits (N, V), temperatures (0: the likeliest), top_k (V: all), top_p (1: all), numbers below 1. */
int draw(int64_t N, int64_t V, const float *logits, const double *temperatures, const int64_t *top_k,
         const double *top_p, const double *numbers, int64_t *tokens) {
    size_t room = V + BLOCK; /* whole vectors, whole blocks */
    char *scratch = malloc(room * (2 * sizeof(float) + 3 * sizeof(int64_t)));
    if (!scratch) return 0;
    int64_t *ids = (int64_t *)scratch, *weights = ids + room, *sorted = weights + room;
    float *maxima = (float *)(sorted + room), *values = maxima + room;
    for (int64_t n = 0; n < N; n++)
        tokens[n] = draw_one(logits + n * V, V, temperatures[n], top_k[n], top_p[n], numbers[n], maxima, values, ids,
                             weights, sorted);
    free(scratch);
    return 1;
}

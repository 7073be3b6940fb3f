/* Vectors of floats for native_step.c and native_draw.c; the compiler cuts them down to what the processor has. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define WIDE 16 /* floats of a vector */

typedef float Vector __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * WIDE)));
typedef uint16_t Halves __attribute__((vector_size(2 * WIDE), aligned(2), may_alias));

static inline Vector splat(float value) { return value - (Vector){0}; }

static inline Vector choose(Bits which, Vector yes, Vector no) { return (Vector)((which & (Bits)yes) | (~which & (Bits)no)); }

/* e^x to two units in the last place (Cody and Waite's reduction); NaN stays NaN, what is below -87 becomes 1e-38. */
static inline Vector exponential(Vector x) {
    const Vector magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    x = choose((Bits)(x < -87.0f), splat(-87.0f), choose((Bits)(x > 88.0f), splat(88.0f), x));
    Vector shifted = x * 1.44269504f + magic, n = shifted - magic;
    Vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vector sum = splat(1.9875691500e-4f);
    sum = sum * r + 1.3981999507e-3f;
    sum = sum * r + 8.3334519073e-3f;
    sum = sum * r + 4.1665795894e-2f;
    sum = sum * r + 1.6666665459e-1f;
    sum = sum * r + 5.0000001201e-1f;
    sum = sum * r * r + r + 1.0f;
    Bits power = ((Bits)shifted - (Bits)magic + 127) << 23; /* the low bits of `shifted` count from those of `magic` */
    return sum * (Vector)power;
}

// One vector of LANES floats, and the few operations that the kernels need.
//
// Included by instruction_sets.inc with LANES and TARGET defined: the compiler's vector extensions do
// the rest, so that there is one text for all processors.

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int ivec __attribute__((vector_size(4 * LANES)));

TARGET inline vec load(const float *p) {
    vec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

TARGET inline void store(float *p, vec v) { __builtin_memcpy(p, &v, sizeof v); }

TARGET inline void clear(float *p, int64_t floats) {
    for (int64_t i = 0; i < floats; i++) p[i] = 0;
}

TARGET inline vec splat(float x) { return x - vec{}; }

// The larger; a NaN in a stays, as it must.  The processors' instruction does just this, of which the
// compiler makes two.
#if LANES == 16 && defined(__x86_64__)
TARGET inline vec max(vec a, vec b) { return (vec)_mm512_max_ps((__m512)b, (__m512)a); }
TARGET inline vec min(vec a, vec b) { return (vec)_mm512_min_ps((__m512)b, (__m512)a); }
#elif LANES == 8 && defined(__x86_64__)
TARGET inline vec max(vec a, vec b) { return (vec)_mm256_max_ps((__m256)b, (__m256)a); }
TARGET inline vec min(vec a, vec b) { return (vec)_mm256_min_ps((__m256)b, (__m256)a); }
#else
TARGET inline vec max(vec a, vec b) { return b > a ? b : a; }
TARGET inline vec min(vec a, vec b) { return b < a ? b : a; }
#endif

// 2 to the power of x, for x <= 0; relative error below 2e-7.  Below -100 it stays at 2**-100: products with
// smaller numbers would be subnormal, which takes a processor a hundred times as long.
TARGET inline vec exp2(vec x) {
    const float magic = 12582912.0f;  // 1.5 * 2**23: its sum with x has the integer in the low bits
    vec clamped = max(x, splat(-100.0f));
    vec shifted = clamped + magic;
    vec f = clamped - (shifted - magic);
    vec p = splat(1.3264727e-3f);  // of least largest error for |f| <= 1/2
    p = p * f + 9.6715130e-3f;
    p = p * f + 5.5507336e-2f;
    p = p * f + 2.4022242e-1f;
    p = p * f + 6.9314700e-1f;
    p = p * f + 1.0f;
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

// x * Phi(x); absolute error of Phi below 3.1e-7.
//
// Phi - 1/2 is odd: x times a polynomial of x**2, fitted for the least largest error on |x| <= 5.1 and exact
// at the end.  It is one of t = x**2 / 13 - 1, between -1 and 1, where float32 has digits enough.
TARGET inline vec gelu(vec x) {
    vec z = max(min(x, splat(5.1f)), splat(-5.1f));
    vec t = z * z * 7.68935e-2f - 1.0f;
    vec p = splat(8.1204367e-4f);
    p = p * t - 2.0939314e-3f;
    p = p * t + 2.0242613e-3f;
    p = p * t - 2.9111460e-3f;
    p = p * t + 7.1933703e-3f;
    p = p * t - 1.2288948e-2f;
    p = p * t + 1.7335810e-2f;
    p = p * t - 2.3922099e-2f;
    p = p * t + 3.1737620e-2f;
    p = p * t - 4.0232060e-2f;
    p = p * t + 5.0781745e-2f;
    p = p * t - 6.9002750e-2f;
    p = p * t + 1.3860530e-1f;
    return x * (z * p + 0.5f);
}

TARGET inline float sum(vec v) {
    float part[LANES];
    store(part, v);
    float total = 0;
    for (float x : part) total += x;
    return total;
}

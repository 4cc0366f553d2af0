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

TARGET inline vec splat(float x) { return x - vec{}; }

// A NaN in a stays, as it must.
TARGET inline vec max(vec a, vec b) { return b > a ? b : a; }

// 2 to the power of x, for x <= 0; relative error below 3e-7.  0 below -126.
TARGET inline vec exp2(vec x) {
    const float magic = 12582912.0f;  // 1.5 * 2**23: its sum with x has the integer in the low bits
    vec clamped = x < splat(-126.0f) ? splat(-126.0f) : x;
    vec shifted = clamped + magic;
    vec f = clamped - (shifted - magic);
    vec p = splat(1.5403530e-4f);  // ln(2)**6 / 6!, and so on
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

// x * Phi(x); absolute error of Phi below 2e-7.
// Source: Abramowitz and Stegun, Handbook of Mathematical Functions, formula 7.1.26 for erf.
TARGET inline vec gelu(vec x) {
    vec z = (x < vec{} ? -x : x) * 0.70710678f;
    vec t = 1.0f / (z * 0.3275911f + 1.0f);
    vec p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec tail = p * t * 0.5f * exp2(z * z * -1.44269504f);
    return x * (x < vec{} ? tail : 1.0f - tail);
}

TARGET inline float sum(vec v) {
    float part[LANES], total = 0;
    store(part, v);
    for (float x : part) total += x;
    return total;
}

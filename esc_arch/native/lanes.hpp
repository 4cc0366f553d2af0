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

// 2 to the power of x, for x <= 0; relative error below 3e-7.  Below -100 it stays at 2**-100: products with
// smaller numbers would be subnormal, which takes a processor a hundred times as long.
TARGET inline vec exp2(vec x) {
    const float magic = 12582912.0f;  // 1.5 * 2**23: its sum with x has the integer in the low bits
    vec clamped = x < splat(-100.0f) ? splat(-100.0f) : x;
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

// 1 / x for x between 0.01 and 3, by Newton's method from the bits of x: a division takes a processor
// longer than the rest of gelu().
TARGET inline vec reciprocal(vec x) {
    vec r = (vec)(0x7EF311C7 - (ivec)x);
    for (int i = 0; i < 3; i++) r = r * (2.0f - x * r);
    return r;
}

// x * Phi(x); absolute error of Phi below 3e-7.
// Source: the rational approximation of erf in Eigen, unsupported/Eigen/SpecialFunctions.
TARGET inline vec gelu(vec x) {
    vec z = x * 0.70710678f;
    z = z > splat(3.9f) ? splat(3.9f) : z;
    z = z < splat(-3.9f) ? splat(-3.9f) : z;
    vec s = z * z;
    vec p = s * 2.72614225801306e-10f - 2.77068142495902e-08f;
    p = p * s + 2.10102402082508e-06f;
    p = p * s + 5.69250639462346e-05f;
    p = p * s + 7.34990630326855e-04f;
    p = p * s + 2.95459980854025e-03f;
    p = p * s + 1.60960333262415e-02f;
    vec q = s * 1.45660718464996e-05f + 2.13374055278905e-04f;
    q = q * s + 1.68282697438203e-03f;
    q = q * s + 7.37332916720468e-03f;
    q = q * s + 1.42647390514189e-02f;
    vec half = x * 0.5f;
    return half * (z * p * reciprocal(q)) + half;
}

TARGET inline float sum(vec v) {
    float part[LANES], total = 0;
    store(part, v);
    for (float x : part) total += x;
    return total;
}

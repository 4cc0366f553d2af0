// The products of attention for a tile of keys and a block of queries.
//
// Included by the kernels.  The lanes of a vector are queries: the softmax then needs no sum across
// lanes, and a query row's biases are a run of the table.  BLOCK keys, or channels, times PAIR vectors
// of queries are held in registers.

constexpr int PAIR = 2;
constexpr int BLOCK = REGISTERS / 4;
constexpr int QUERIES = PAIR * LANES;

// acc[key][query] += k[key] . q[query]; `stride` floats from key to key.
TARGET inline void dot(vec (&acc)[BLOCK][PAIR], const float *k, int64_t stride, const float *q, int d) {
    for (int c = 0; c < d; c++) {
        vec q0 = load(q + c * QUERIES);
        vec q1 = load(q + c * QUERIES + LANES);
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK; j++) {
            vec b = splat(k[j * stride + c]);
            acc[j][0] += b * q0;
            acc[j][1] += b * q1;
        }
    }
}

// s[key][query] = bias + k[key] . q[query] for the keys of a tile; returns the largest by query.
TARGET inline void scores(const Keys &keys, int first, int count, const float *q, const float *const *bias,
                          float *s, vec *largest) {
    for (int key = 0; key < count; key += BLOCK) {
        const int64_t *offset = keys.offset + first + key;
        vec acc[BLOCK][PAIR];
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK; j++)
#pragma GCC unroll 2
            for (int i = 0; i < PAIR; i++) acc[j][i] = load(bias[i] + offset[j]);
        dot(acc, keys.k + (int64_t)(first + key) * keys.channels, keys.channels, q, keys.d);
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK; j++) {
            if (first + key + j >= keys.n) acc[j][0] = acc[j][1] = splat(-1e30f);
#pragma GCC unroll 2
            for (int i = 0; i < PAIR; i++) {
                largest[i] = max(largest[i], acc[j][i]);
                store(s + (key + j) * QUERIES + i * LANES, acc[j][i]);
            }
        }
    }
}

// out[channel][query] = shrink * out + sum over keys of p[key][query] * v[key][channel].
TARGET inline void add_values(const float *v, const float *p, int channels, int keys,
                              const vec *shrink, float *out) {
    for (int c = 0; c < channels; c += BLOCK) {
        vec acc[BLOCK][PAIR];
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK; j++)
#pragma GCC unroll 2
            for (int i = 0; i < PAIR; i++)
                acc[j][i] = load(out + (c + j) * QUERIES + i * LANES) * shrink[i];
        for (int key = 0; key < keys; key++) {
            vec p0 = load(p + key * QUERIES);
            vec p1 = load(p + key * QUERIES + LANES);
            const float *vv = v + (int64_t)key * channels + c;
#pragma GCC unroll 8
            for (int j = 0; j < BLOCK; j++) {
                vec b = splat(vv[j]);
                acc[j][0] += b * p0;
                acc[j][1] += b * p1;
            }
        }
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK; j++)
#pragma GCC unroll 2
            for (int i = 0; i < PAIR; i++) store(out + (c + j) * QUERIES + i * LANES, acc[j][i]);
    }
}

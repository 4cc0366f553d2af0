// Attention of one block of queries to all keys of a window; see window_attention.cpp.
//
// Included by instruction_sets.inc.  The lanes of a vector are queries: the
// softmax then needs no sum across lanes, and a query row's biases are a run of the table.  BLOCK
// keys, or channels, times PAIR vectors of queries are held in registers.

constexpr int PAIR = 2, BLOCK = REGISTERS / 4;
constexpr int QUERIES = PAIR * LANES;

// s[key][query] = bias + k[key] . q[query] for the keys of a tile; returns the largest by query.
TARGET inline void scores(const float *k, const float *q, int d, const float *const *bias,
                          const long *offset, int keys, int valid, float *s, vec *largest) {
    for (int key = 0; key < keys; key += BLOCK) {
        vec acc[BLOCK][PAIR];
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK; j++)
#pragma GCC unroll 2
            for (int i = 0; i < PAIR; i++) acc[j][i] = load(bias[i] + offset[key + j]);
        const float *kk = k + (long)key * d;
        for (int c = 0; c < d; c++) {
            vec q0 = load(q + c * QUERIES), q1 = load(q + c * QUERIES + LANES);
#pragma GCC unroll 8
            for (int j = 0; j < BLOCK; j++) {
                vec b = splat(kk[j * d + c]);
                acc[j][0] += b * q0;
                acc[j][1] += b * q1;
            }
        }
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK; j++) {
            if (key + j >= valid) acc[j][0] = acc[j][1] = splat(-1e30f);
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
            vec p0 = load(p + key * QUERIES), p1 = load(p + key * QUERIES + LANES);
            const float *vv = v + (long)key * channels + c;
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

TARGET inline void attend_block(const Keys &keys, const float *q, const float *const *bias,
                                float *s, float *out) {
    vec largest[PAIR] = {splat(-1e30f), splat(-1e30f)}, sum[PAIR] = {};
    for (int i = 0; i < keys.channels * QUERIES; i += LANES) store(out + i, vec{});
    for (int first = 0; first < keys.padded; first += TILE) {
        int count = keys.padded - first < TILE ? keys.padded - first : TILE;
        vec before[PAIR] = {largest[0], largest[1]}, shrink[PAIR];
        scores(keys.k + (long)first * keys.d, q, keys.d, bias, keys.offset + first, count,
               keys.n - first, s, largest);
        for (int i = 0; i < PAIR; i++) {
            shrink[i] = exp2(before[i] - largest[i]);
            sum[i] = sum[i] * shrink[i];
        }
        for (int key = 0; key < count; key++)
#pragma GCC unroll 2
            for (int i = 0; i < PAIR; i++) {
                float *at = s + key * QUERIES + i * LANES;
                vec p = exp2(load(at) - largest[i]);
                sum[i] += p;
                store(at, p);
            }
        add_values(keys.v + (long)first * keys.channels, s, keys.channels, count, shrink, out);
    }
    for (int c = 0; c < keys.channels; c++)
        for (int i = 0; i < PAIR; i++) {
            float *at = out + c * QUERIES + i * LANES;
            store(at, load(at) / sum[i]);
        }
}

// All queries of `rows` rows of a window, for one head.
TARGET void attend_rows(const Map &map, const Keys &keys, const Window &window, int head, int first,
                        int last, float *work) {
    const int w = map.window, d = map.d, vectors = (w + LANES - 1) / LANES;
    float *q = work, *s = q + d * QUERIES, *out = s + TILE * QUERIES;
    const int columns = window.columns < w ? window.columns : w;
    const int total = (last - first) * vectors;
    for (int start = 0; start < total; start += PAIR) {
        const float *bias[PAIR];
        int y[PAIR], x[PAIR];
        for (int i = 0; i < PAIR; i++) {
            // An odd last vector is computed twice.
            int vector = start + i < total ? start + i : total - 1;
            y[i] = first + vector / vectors, x[i] = vector % vectors * LANES;
            bias[i] = map.bias + head * map.bias_head + (long)(w - 1 - y[i]) * map.bias_row + w - 1 + x[i];
            for (int lane = 0; lane < LANES; lane++) {
                int column = x[i] + lane < columns ? x[i] + lane : columns - 1;
                const float *from = map.token(window, y[i], column) + head * d;
                for (int c = 0; c < d; c++) q[c * QUERIES + i * LANES + lane] = from[c] * map.scale;
            }
        }
        attend_block(keys, q, bias, s, out);
        for (int i = 0; i < PAIR && start + i < total; i++)
            for (int lane = 0; lane < LANES && x[i] + lane < columns; lane++) {
                float *to = map.result(window, y[i], x[i] + lane) + head * d;
                for (int c = 0; c < d; c++) to[c] = out[c * QUERIES + i * LANES + lane];
            }
    }
}

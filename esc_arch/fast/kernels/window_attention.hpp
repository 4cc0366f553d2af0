// Attention of the queries of a window to all of its keys; see window_attention.cpp.
//
// Included by instruction_sets.inc.

#include "attention_tiles.hpp"

// s[key][query] becomes 2 to the power of the score, less the largest of the query.
TARGET inline void powers(int keys, const vec *largest, float *s, vec *sum) {
    for (int key = 0; key < keys; key++)
#pragma GCC unroll 2
        for (int i = 0; i < PAIR; i++) {
            float *at = s + key * QUERIES + i * LANES;
            vec p = exp2(load(at) - largest[i]);
            sum[i] += p;
            store(at, p);
        }
}

// Leaves the log-sum-exp of each query, to the base 2, in `lse`.
TARGET inline void attend_block(const Keys &keys, const float *q, const float *const *bias, float *s, float *out,
                                float *lse) {
    vec largest[PAIR] = {splat(-1e30f), splat(-1e30f)};
    vec sum[PAIR] = {};
    for (int i = 0; i < keys.channels * QUERIES; i += LANES) store(out + i, vec{});
    for (int first = 0; first < keys.padded; first += TILE) {
        const int count = keys.padded - first < TILE ? keys.padded - first : TILE;
        vec before[PAIR] = {largest[0], largest[1]};
        vec shrink[PAIR];
        scores(keys, first, count, q, bias, s, largest);
        for (int i = 0; i < PAIR; i++) {
            shrink[i] = exp2(before[i] - largest[i]);
            sum[i] = sum[i] * shrink[i];
        }
        powers(count, largest, s, sum);
        add_values(keys.v + (int64_t)first * keys.channels, s, keys.channels, count, shrink, out);
    }
    for (int c = 0; c < keys.channels; c++)
        for (int i = 0; i < PAIR; i++) {
            float *at = out + c * QUERIES + i * LANES;
            store(at, load(at) / sum[i]);
        }
    for (int i = 0; i < PAIR; i++) {
        float of_lane[LANES];
        store(of_lane, sum[i]);
        for (int lane = 0; lane < LANES; lane++) lse[i * LANES + lane] = __builtin_log2f(of_lane[lane]);
        store(lse + i * LANES, load(lse + i * LANES) + largest[i]);
    }
}

// The queries of rows `first` to `last` of a window, for one head.
TARGET void attend_rows(const AttentionMap &map, const Keys &keys, const Window &window, int head, int first, int last,
                        float *scratch) {
    const int side = map.attention.window;
    const int d = keys.d;
    const float scale = map.attention.scale;
    const float *table = map.attention.bias + head * map.bias_head_stride();
    float *q = scratch;
    float *s = q + d * QUERIES;
    float *out = s + TILE * QUERIES;
    const int columns = window.columns;
    const int vectors = (side + LANES - 1) / LANES;  // of queries in a row of the window
    const int total = (last - first) * vectors;
    for (int start = 0; start < total; start += PAIR) {
        const float *bias[PAIR];
        int y[PAIR];
        int x[PAIR];
        for (int i = 0; i < PAIR; i++) {
            // An odd last vector is computed twice.
            const int vector = start + i < total ? start + i : total - 1;
            y[i] = first + vector / vectors;
            x[i] = vector % vectors * LANES;
            bias[i] = table + map.bias_of(y[i], x[i]);
            for (int lane = 0; lane < LANES; lane++) {
                const int column = x[i] + lane < columns ? x[i] + lane : columns - 1;
                const float *from = map.token(window, y[i], column) + head * d;
                for (int c = 0; c < d; c++) q[c * QUERIES + i * LANES + lane] = from[c] * scale;
            }
        }
        float lse[QUERIES];
        attend_block(keys, q, bias, s, out, lse);
        for (int i = 0; i < PAIR && start + i < total; i++)
            for (int lane = 0; lane < LANES && x[i] + lane < columns; lane++) {
                float *to = AttentionMap::at(map.out, window, y[i], x[i] + lane) + head * d;
                for (int c = 0; c < d; c++) to[c] = out[c * QUERIES + i * LANES + lane];
                if (map.lse) *map.lse_at(window, y[i], x[i] + lane, head) = lse[i * LANES + lane];
            }
    }
}

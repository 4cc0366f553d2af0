// Gradients of attention for one head of one window; see window_attention_backward.cpp.
//
// Included by instruction_sets.inc.

#include "attention_tiles.hpp"

// out[key][channel] += sum over queries of weight[key][query] * rows[query][channel].
TARGET inline void add_outer(const float *weight, const float *rows, int channels, int keys, float *out) {
    for (int key = 0; key < keys; key += BLOCK)
        for (int c = 0; c < channels; c += LANES) {
            vec acc[BLOCK];
#pragma GCC unroll 8
            for (int j = 0; j < BLOCK; j++) acc[j] = load(out + (long)(key + j) * channels + c);
            for (int query = 0; query < QUERIES; query++) {
                vec r = load(rows + query * channels + c);
#pragma GCC unroll 8
                for (int j = 0; j < BLOCK; j++) acc[j] += splat(weight[(key + j) * QUERIES + query]) * r;
            }
#pragma GCC unroll 8
            for (int j = 0; j < BLOCK; j++) store(out + (long)(key + j) * channels + c, acc[j]);
        }
}

// p[key][query] becomes the probability, slope[key][query] the gradient of the score.
TARGET inline void score_gradients(const Keys &keys, int first, int count, const float *d_out,
                                   const float *lse, const float *mean, float *const *bias, float *p,
                                   float *slope) {
    for (int key = 0; key < count; key += BLOCK) {
        vec acc[BLOCK][PAIR] = {};
        dot(acc, keys.v + (long)(first + key) * keys.channels, keys.channels, d_out, keys.d);
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK; j++)
#pragma GCC unroll 2
            for (int i = 0; i < PAIR; i++) {
                const int at = (key + j) * QUERIES + i * LANES;
                vec probability = exp2(load(p + at) - load(lse + i * LANES));
                vec gradient = probability * (acc[j][i] - load(mean + i * LANES));
                store(p + at, probability);
                store(slope + at, gradient);
                float *of_bias = bias[i] + keys.offset[first + key + j];
                store(of_bias, load(of_bias) + gradient);
            }
    }
}

TARGET void attend_backward(const Map &map, const Gradients &to, const Keys &keys, const Keys &of_keys,
                            const Window &window, int head, float *of_bias, float *work) {
    const int w = map.window, d = map.d, channels = keys.channels, vectors = (w + LANES - 1) / LANES;
    // By channel, for the products with keys; by query, for the sums over queries.
    float *q = work, *d_out = q + channels * QUERIES, *dq = d_out + channels * QUERIES;
    float *q_rows = dq + channels * QUERIES, *d_out_rows = q_rows + QUERIES * channels;
    float *p = d_out_rows + QUERIES * channels, *slope = p + TILE * QUERIES;
    for (long i = 0; i < keys.floats(); i++) of_keys.k[i] = 0;  // and of_keys.v, behind it
    for (int start = 0; start < w * vectors; start += PAIR) {
        const float *bias[PAIR];
        float *bias_gradient[PAIR], lse[QUERIES], mean[QUERIES];
        int y[PAIR], x[PAIR];
        for (int i = 0; i < 3 * channels * QUERIES + 2 * QUERIES * channels; i++) work[i] = 0;
        for (int i = 0; i < PAIR; i++) {
            const bool there = start + i < w * vectors;
            const int vector = there ? start + i : start;
            y[i] = vector / vectors, x[i] = vector % vectors * LANES;
            const long place = (long)(w - 1 - y[i]) * map.bias_row + w - 1 + x[i];
            bias[i] = map.bias + head * map.bias_head + place, bias_gradient[i] = of_bias + place;
            for (int lane = 0; lane < LANES; lane++) {
                const int query = i * LANES + lane;
                // A query that is not there gets no probability, so it adds nothing.
                lse[query] = 1e30f, mean[query] = 0;
                if (!there || x[i] + lane >= w) continue;
                const float *from = map.token(window, y[i], x[i] + lane) + head * d;
                const float *result = map.result(window, y[i], x[i] + lane) + head * d;
                const float *above = to.upstream_at(map, window, y[i], x[i] + lane) + head * d;
                for (int c = 0; c < d; c++) {
                    q[c * QUERIES + query] = from[c] * map.scale;
                    q_rows[query * channels + c] = from[c];
                    d_out[c * QUERIES + query] = d_out_rows[query * channels + c] = above[c];
                    mean[query] += above[c] * result[c];
                }
                lse[query] = *map.lse_of(window, y[i], x[i] + lane, head);
            }
        }
        const vec one[PAIR] = {splat(1), splat(1)};
        for (int first = 0; first < keys.padded; first += TILE) {
            const int count = keys.padded - first < TILE ? keys.padded - first : TILE;
            const long place = (long)first * channels;
            vec largest[PAIR] = {};
            scores(keys, first, count, q, bias, p, largest);
            score_gradients(keys, first, count, d_out, lse, mean, bias_gradient, p, slope);
            add_values(keys.k + place, slope, channels, count, one, dq);
            add_outer(slope, q_rows, channels, count, of_keys.k + place);
            add_outer(p, d_out_rows, channels, count, of_keys.v + place);
        }
        for (int i = 0; i < PAIR && start + i < w * vectors; i++)
            for (int lane = 0; lane < LANES && x[i] + lane < w; lane++) {
                float *at = to.qkv_at(map, window, y[i], x[i] + lane) + head * d;
                for (int c = 0; c < d; c++) at[c] = dq[c * QUERIES + i * LANES + lane] * to.scale;
            }
    }
    const long across = (long)map.heads * d;
    for (int token = 0; token < keys.n; token++) {
        float *at = to.qkv_at(map, window, token / w, token % w) + head * d;
        for (int c = 0; c < d; c++) {
            at[across + c] = of_keys.k[(long)token * channels + c] * to.scale;
            at[2 * across + c] = of_keys.v[(long)token * channels + c];
        }
    }
}

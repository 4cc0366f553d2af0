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
            for (int j = 0; j < BLOCK; j++) acc[j] = load(out + (int64_t)(key + j) * channels + c);
            for (int query = 0; query < QUERIES; query++) {
                vec r = load(rows + query * channels + c);
#pragma GCC unroll 8
                for (int j = 0; j < BLOCK; j++) acc[j] += splat(weight[(key + j) * QUERIES + query]) * r;
            }
#pragma GCC unroll 8
            for (int j = 0; j < BLOCK; j++) store(out + (int64_t)(key + j) * channels + c, acc[j]);
        }
}

// p[key][query] becomes the probability, slope[key][query] the gradient of the score.
TARGET inline void score_gradients(const Keys &keys, int first, int count, const float *d_out,
                                   const float *lse, const float *mean, float *const *bias_gradient, float *p,
                                   float *slope) {
    for (int key = 0; key < count; key += BLOCK) {
        vec acc[BLOCK][PAIR] = {};
        dot(acc, keys.v + (int64_t)(first + key) * keys.channels, keys.channels, d_out, keys.d);
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK; j++)
#pragma GCC unroll 2
            for (int i = 0; i < PAIR; i++) {
                const int at = (key + j) * QUERIES + i * LANES;
                vec probability = exp2(load(p + at) - load(lse + i * LANES));
                vec gradient = probability * (acc[j][i] - load(mean + i * LANES));
                store(p + at, probability);
                store(slope + at, gradient);
                float *of_bias = bias_gradient[i] + keys.offset[first + key + j];
                store(of_bias, load(of_bias) + gradient);
            }
    }
}

// Queries of a window that are worked on at one time, and what their gradients need.
struct QueryBlock {
    // By channel, for the products with keys; by query, for the sums over queries.
    float *q;           // (channels, QUERIES)
    float *d_out;       // (channels, QUERIES)
    float *dq;          // (channels, QUERIES)
    float *q_rows;      // (QUERIES, channels)
    float *d_out_rows;  // (QUERIES, channels)
    float *p;           // (TILE, QUERIES)
    float *slope;       // (TILE, QUERIES)
    int channels;
    float lse[QUERIES];
    float mean[QUERIES];  // of the gradients of the scores, by their probabilities

    TARGET inline static QueryBlock in(float *scratch, int channels) {
        const int floats = channels * QUERIES;
        QueryBlock block;
        block.q = scratch;
        block.d_out = block.q + floats;
        block.dq = block.d_out + floats;
        block.q_rows = block.dq + floats;
        block.d_out_rows = block.q_rows + floats;
        block.p = block.d_out_rows + floats;
        block.slope = block.p + TILE * QUERIES;
        block.channels = channels;
        return block;
    }

    TARGET inline void clear_channels() { clear(q, 5 * channels * QUERIES); }

    // A query that is not there gets no probability, so it adds nothing.
    TARGET inline void leave_out(int query) {
        lse[query] = 1e30f;
        mean[query] = 0;
    }

    TARGET inline void read(const Backward &backward, const Window &window, int y, int x, int head, int query) {
        const AttentionMap &map = backward.map;
        const int d = map.attention.head_channels;
        const float scale = map.attention.scale;
        const float *from = AttentionMap::at(map.qkv, window, y, x) + head * d;
        const float *result = AttentionMap::at(map.out, window, y, x) + head * d;
        const float *above = AttentionMap::at(backward.call.upstream, window, y, x) + head * d;
        float total = 0;
        for (int c = 0; c < d; c++) {
            q[c * QUERIES + query] = from[c] * scale;
            q_rows[query * channels + c] = from[c];
            d_out[c * QUERIES + query] = above[c];
            d_out_rows[query * channels + c] = above[c];
            total += above[c] * result[c];
        }
        mean[query] = total;
        lse[query] = *map.lse_at(window, y, x, head);
    }
};

TARGET void attend_backward(const Backward &backward, const Keys &keys, const Keys &gradients, const Window &window,
                            int head, float *bias_gradient, float *scratch) {
    const AttentionMap &map = backward.map;
    const FeatureMap &to = backward.call.qkv_gradient;
    const float scale = backward.call.gradient_scale;
    const int side = map.attention.window;
    const int d = keys.d;
    const int channels = keys.channels;
    const int vectors = (side + LANES - 1) / LANES;  // of queries in a row of the window
    const int total = side * vectors;
    const float *table = map.attention.bias + head * map.bias_head_stride();
    QueryBlock block = QueryBlock::in(scratch, channels);
    clear(gradients.k, keys.floats());  // and gradients.v, behind it
    for (int start = 0; start < total; start += PAIR) {
        const float *bias[PAIR];
        float *block_bias_gradient[PAIR];
        int y[PAIR];
        int x[PAIR];
        block.clear_channels();
        for (int i = 0; i < PAIR; i++) {
            const bool there = start + i < total;
            const int vector = there ? start + i : start;
            y[i] = vector / vectors;
            x[i] = vector % vectors * LANES;
            bias[i] = table + map.bias_of(y[i], x[i]);
            block_bias_gradient[i] = bias_gradient + map.bias_of(y[i], x[i]);
            for (int lane = 0; lane < LANES; lane++) {
                const int query = i * LANES + lane;
                block.leave_out(query);
                if (!there || x[i] + lane >= side) continue;
                block.read(backward, window, y[i], x[i] + lane, head, query);
            }
        }
        const vec one[PAIR] = {splat(1), splat(1)};
        for (int first = 0; first < keys.padded; first += TILE) {
            const int count = keys.padded - first < TILE ? keys.padded - first : TILE;
            const int64_t place = (int64_t)first * channels;
            vec largest[PAIR] = {};
            scores(keys, first, count, block.q, bias, block.p, largest);
            score_gradients(keys, first, count, block.d_out, block.lse, block.mean, block_bias_gradient, block.p,
                            block.slope);
            add_values(keys.k + place, block.slope, channels, count, one, block.dq);
            add_outer(block.slope, block.q_rows, channels, count, gradients.k + place);
            add_outer(block.p, block.d_out_rows, channels, count, gradients.v + place);
        }
        for (int i = 0; i < PAIR && start + i < total; i++)
            for (int lane = 0; lane < LANES && x[i] + lane < side; lane++) {
                float *at = AttentionMap::at(to, window, y[i], x[i] + lane) + head * d;
                for (int c = 0; c < d; c++) at[c] = block.dq[c * QUERIES + i * LANES + lane] * scale;
            }
    }
    const int64_t across = (int64_t)map.attention.heads * d;
    for (int token = 0; token < keys.n; token++) {
        float *at = AttentionMap::at(to, window, token / side, token % side) + head * d;
        for (int c = 0; c < d; c++) {
            at[across + c] = gradients.k[(int64_t)token * channels + c] * scale;
            at[2 * across + c] = gradients.v[(int64_t)token * channels + c];
        }
    }
}

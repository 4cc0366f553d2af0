// One tile of a convolutional feed-forward network; see conv_ffn.cpp.
//
// Included by instruction_sets.inc, after pointwise.hpp.

#include "convolution.hpp"

// out = gelu(depth-wise 3x3 convolution of h) + h for a row of pixels.
TARGET inline void mix(const ConvFfn &ffn, const float *const *rows, int pixels, float *out) {
    const int hidden = ffn.widen.padded;
    for (int c = 0; c < hidden; c += LANES) {
        vec tap[9];
        vec bias = load(ffn.depthwise_bias + c);
#pragma GCC unroll 9
        for (int i = 0; i < 9; i++) tap[i] = load(ffn.depthwise + i * hidden + c);
        vec before[3];
        vec here[3];
#pragma GCC unroll 3
        for (int y = 0; y < 3; y++) {
            before[y] = load(rows[y] + c);
            here[y] = load(rows[y] + hidden + c);
        }
        for (int p = 0; p < pixels; p++) {
            vec acc = bias;
            vec after[3];
#pragma GCC unroll 3
            for (int y = 0; y < 3; y++) {
                after[y] = load(rows[y] + (p + 2) * hidden + c);
                acc += before[y] * tap[3 * y] + here[y] * tap[3 * y + 1] + after[y] * tap[3 * y + 2];
            }
            store(out + p * hidden + c, gelu(acc) + here[1]);
#pragma GCC unroll 3
            for (int y = 0; y < 3; y++) {
                before[y] = here[y];
                here[y] = after[y];
            }
        }
    }
}

// The hidden map in row y of a tile, with the halo of a pixel at either side.
TARGET inline void widen_row(const ConvFfn &ffn, const Tile &tile, int y, float *normal, float *row) {
    const ConvFfnCall &call = ffn.call;
    const Margins &margins = call.margins;
    const int hidden = ffn.widen.padded;
    const int width = tile.right - tile.left;
    // Beyond the image the hidden map is zero.
    if (y < -margins.top || y >= call.map.height + margins.bottom) {
        clear(row, (int64_t)(width + 2) * hidden);
        return;
    }
    const int left = tile.left > -margins.left ? tile.left - 1 : tile.left;
    const int right = tile.right < call.map.width + margins.right ? tile.right + 1 : tile.right;
    const float *in = pixel(call.x, tile.image, y, left);
    int64_t in_stride = call.x.column_stride;
    if (call.norm.weight) {
        normalise(call.norm, in, in_stride, call.channels, right - left, normal);
        in = normal;
        in_stride = call.channels;
    }
    const int first = left - (tile.left - 1);
    pointwise(ffn.widen, in, in_stride, right - left, row + (int64_t)first * hidden, true);
    if (first) clear(row, hidden);
    if (right == tile.right) clear(row + (int64_t)(width + 1) * hidden, hidden);
}

// The last convolution of a row; by way of `padded` where its channels do not fill whole vectors.
TARGET inline void narrow_row(const Pointwise &layer, const float *mixed, int hidden, int pixels, float *padded,
                              float *out) {
    const bool direct = layer.padded == layer.out;
    pointwise(layer, mixed, hidden, pixels, direct ? out : padded, false);
    if (direct) return;
    for (int p = 0; p < pixels; p++)
        for (int c = 0; c < layer.out; c++) out[p * layer.out + c] = padded[(int64_t)p * layer.padded + c];
}

TARGET void feed_forward(const ConvFfn &ffn, const Tile &tile, float *scratch) {
    const int hidden = ffn.widen.padded;
    const int width = tile.right - tile.left;
    const int64_t row_floats = (int64_t)(width + 2) * hidden;
    float *ring = scratch;  // of the last three rows of the hidden map
    float *mixed = ring + 3 * row_floats;
    float *normal = mixed + (int64_t)width * hidden;
    float *narrow = normal + (int64_t)(width + 2) * ffn.call.channels;
    for (int y = tile.top - 1; y <= tile.bottom; y++) {
        widen_row(ffn, tile, y, normal, ring + (y + 3) % 3 * row_floats);
        if (y <= tile.top) continue;
        const float *rows[3];
        for (int i = 0; i < 3; i++) rows[i] = ring + (y + 1 + i) % 3 * row_floats;
        mix(ffn, rows, width, mixed);
        narrow_row(ffn.narrow, mixed, hidden, width, narrow, pixel(ffn.call.out, tile.image, y - 1, tile.left));
    }
}

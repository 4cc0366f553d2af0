// One tile of a convolutional feed-forward network; see conv_ffn.cpp.
//
// Included by instruction_sets.inc, after pointwise.hpp.

#include "convolution.hpp"

// out = gelu(depth-wise 3x3 convolution of h) + h for a row of pixels.
TARGET inline void mix(const Ffn &ffn, const float *const *rows, int pixels, float *out) {
    const int hidden = ffn.widen.padded;
    for (int c = 0; c < hidden; c += LANES) {
        vec tap[9], bias = load(ffn.depthwise_bias + c);
#pragma GCC unroll 9
        for (int i = 0; i < 9; i++) tap[i] = load(ffn.depthwise + i * hidden + c);
        vec before[3], here[3];
#pragma GCC unroll 3
        for (int y = 0; y < 3; y++) before[y] = load(rows[y] + c), here[y] = load(rows[y] + hidden + c);
        for (int p = 0; p < pixels; p++) {
            vec acc = bias, after[3];
#pragma GCC unroll 3
            for (int y = 0; y < 3; y++) {
                after[y] = load(rows[y] + (p + 2) * hidden + c);
                acc += before[y] * tap[3 * y] + here[y] * tap[3 * y + 1] + after[y] * tap[3 * y + 2];
            }
            store(out + p * hidden + c, gelu(acc) + here[1]);
#pragma GCC unroll 3
            for (int y = 0; y < 3; y++) before[y] = here[y], here[y] = after[y];
        }
    }
}

TARGET void feed_forward(const Ffn &ffn, const Tile &tile, float *work) {
    const int hidden = ffn.widen.padded, width = tile.right - tile.left;
    const long row_floats = (long)(width + 2) * hidden;
    float *ring = work, *mixed = ring + 3 * row_floats, *normal = mixed + (long)width * hidden,
          *narrow = normal + (long)(width + 2) * ffn.widen.in;
    const Margins &around = ffn.around;
    const int left = tile.left > -around.left ? tile.left - 1 : tile.left;
    const int right = tile.right < ffn.width + around.right ? tile.right + 1 : tile.right;
    for (int y = tile.top - 1; y <= tile.bottom; y++) {
        float *row = ring + (y + 3) % 3 * row_floats;
        // Beyond the image the hidden map is zero.
        if (y < -around.top || y >= ffn.height + around.bottom) {
            for (long i = 0; i < row_floats; i++) row[i] = 0;
        } else {
            const float *in = ffn.x + tile.batch * ffn.x_batch + y * ffn.x_row + left * ffn.x_column;
            long step = ffn.x_column;
            if (ffn.norm.weight) {
                normalise(ffn.norm, in, step, ffn.widen.in, right - left, normal);
                in = normal, step = ffn.widen.in;
            }
            const int first = left - (tile.left - 1);
            pointwise(ffn.widen, in, step, right - left, row + (long)first * hidden, true);
            if (first)
                for (int i = 0; i < hidden; i++) row[i] = 0;
            if (right == tile.right)
                for (int i = 0; i < hidden; i++) row[(long)(width + 1) * hidden + i] = 0;
        }
        if (y <= tile.top) continue;
        const float *rows[3];
        for (int i = 0; i < 3; i++) rows[i] = ring + (y + 1 + i) % 3 * row_floats;
        mix(ffn, rows, width, mixed);
        const int channels = ffn.narrow.out;
        float *out = ffn.out + tile.batch * ffn.out_batch + (y - 1) * ffn.out_row + (long)tile.left * channels;
        const bool direct = ffn.narrow.padded == channels;
        pointwise(ffn.narrow, mixed, hidden, width, direct ? out : narrow, false);
        if (!direct)
            for (int p = 0; p < width; p++)
                for (int c = 0; c < channels; c++) out[p * channels + c] = narrow[(long)p * ffn.narrow.padded + c];
    }
}

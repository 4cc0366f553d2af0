// The convolutional feed-forward network of ESC, on a CPU, in float32.
//
// Normalisation, 1x1 convolution, GELU, depth-wise 3x3 convolution, GELU, sum, 1x1 convolution run
// tile by tile, so that what lies between them stays in the cache of a core.
//
// Source: ESC, arXiv 2503.06671.

#include "intrinsics.hpp"
#include "layers.hpp"
#include "threads.hpp"
#include "tiles.hpp"

namespace {

constexpr int TILE_WIDTH = 64, TILE_HEIGHT = 32;

struct Ffn {
    const float *x;
    float *out;
    long x_batch, x_row, x_column, out_batch, out_row;
    int batch, height, width;
    Margins around;
    Norm norm;
    Pointwise widen, narrow;
    float *depthwise, *depthwise_bias;  // (9, padded), (padded)
};

#define KERNEL "conv_ffn.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    Ffn ffn;
    void (*feed_forward)(const Ffn &, const Tile &, float *);
    Tiles tiles;
    long next;
};

void *run(void *argument) {
    Work &work = *(Work *)argument;
    const Ffn &ffn = work.ffn;
    const long width = TILE_WIDTH + 2;
    const long floats = width * (4 * ffn.widen.padded + ffn.widen.in + ffn.narrow.padded);
    void *scratch = nullptr;
    if (posix_memalign(&scratch, 64, floats * sizeof(float))) return nullptr;
    for (long i; (i = take(work.next)) < work.tiles.count;) {
        const Tile tile = work.tiles.tile(i);
        work.feed_forward(ffn, tile, (float *)scratch);
    }
    free(scratch);
    return nullptr;
}

}  // namespace

// `around` are the margins of x at the top, bottom, left and right; the pixels of a row of out lie side by
// side.  Returns 0, or 1 when memory ran out.
extern "C" int esc_conv_ffn(const float *x, const long *x_strides, const int *around, float *out,
                            const long *out_strides, const float *norm_weight, const float *norm_bias, float eps,
                            const float *widen_weight, const float *widen_bias, const float *depthwise_weight,
                            const float *depthwise_bias, const float *narrow_weight,
                            const float *narrow_bias, int batch, int height, int width, int channels,
                            int hidden, int out_channels, int threads, int lanes) {
    Work work;
    Ffn &ffn = work.ffn;
    ffn.x = x, ffn.out = out;
    ffn.x_batch = x_strides[0], ffn.x_row = x_strides[1], ffn.x_column = x_strides[2];
    ffn.out_batch = out_strides[0], ffn.out_row = out_strides[1];
    ffn.around = {around[0], around[1], around[2], around[3]};
    ffn.batch = batch, ffn.height = height, ffn.width = width;
    ffn.norm = {norm_weight, norm_bias, eps};
    const long hidden_padded = round_up(hidden), out_padded = round_up(out_channels);
    const long floats = hidden_padded * (channels + 1 + 9 + 1) + out_padded * (hidden + 1);
    void *memory = nullptr;
    if (posix_memalign(&memory, 64, floats * sizeof(float))) return 1;
    float *at = (float *)memory;
    auto part = [&at](long size) { return at += size, at - size; };
    ffn.widen = {part(hidden_padded * channels), part(hidden_padded), channels, hidden, (int)hidden_padded};
    ffn.depthwise = part(9 * hidden_padded), ffn.depthwise_bias = part(hidden_padded);
    ffn.narrow = {part(out_padded * hidden), part(out_padded), hidden, out_channels, (int)out_padded};
    turn(ffn.widen, widen_weight, widen_bias);
    turn(ffn.narrow, narrow_weight, narrow_bias);
    for (int c = 0; c < hidden_padded; c++) {
        ffn.depthwise_bias[c] = c < hidden ? depthwise_bias[c] : 0;
        for (int i = 0; i < 9; i++) ffn.depthwise[i * hidden_padded + c] = c < hidden ? depthwise_weight[9 * c + i] : 0;
    }
    work.feed_forward = WIDEST(lanes, feed_forward);
    work.tiles = Tiles::of(batch, height, width, TILE_HEIGHT, TILE_WIDTH, 4, threads);
    work.next = 0;
    in_threads(work, threads < work.tiles.count ? threads : work.tiles.count, run);
    free(memory);
    return work.next < work.tiles.count;
}

// The convolutional feed-forward network of ESC, on a CPU, in float32.
//
// Normalisation, 1x1 convolution, GELU, depth-wise 3x3 convolution, GELU, sum, 1x1 convolution run
// tile by tile, so that what lies between them stays in the cache of a core.
//
// Source: ESC, arXiv 2503.06671.

#include "feature_map.hpp"
#include "intrinsics.hpp"
#include "layers.hpp"
#include "threads.hpp"
#include "tiles.hpp"

namespace {

constexpr int TILE_WIDTH = 64, TILE_HEIGHT = 32, LOWEST_TILE = 4;

struct ConvFfn {
    const ConvFfnCall &call;
    Pointwise widen;
    Pointwise narrow;
    float *depthwise;       // (9, padded hidden channels)
    float *depthwise_bias;  // (padded hidden channels)
};

#define KERNEL "conv_ffn.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    ConvFfn ffn;
    void (*feed_forward)(const ConvFfn &, const Tile &, float *);
    Tiles tiles;
    int64_t next;
};

// A thread that finds no memory leaves the tiles to the others.
void *run(void *argument) {
    Work &work = *(Work *)argument;
    const Pointwise &widen = work.ffn.widen;
    const int64_t width = TILE_WIDTH + 2;  // with the halo of the depth-wise convolution
    float *scratch = floats_in_cache_lines(width * (4 * widen.padded + widen.in + work.ffn.narrow.padded));
    if (!scratch) return nullptr;
    for (int64_t i; (i = take(work.next)) < work.tiles.count;)
        work.feed_forward(work.ffn, work.tiles.tile(i), scratch);
    free(scratch);
    return nullptr;
}

// From (hidden, 3, 3) to (9, padded).
void turn_depthwise(const Layer &layer, int hidden, int padded, float *weight, float *bias) {
    for (int c = 0; c < padded; c++) {
        bias[c] = c < hidden ? layer.bias[c] : 0;
        for (int i = 0; i < 9; i++) weight[i * padded + c] = c < hidden ? layer.weight[9 * c + i] : 0;
    }
}

}  // namespace

extern "C" int esc_conv_ffn(const ConvFfnCall *call) {
    if (call->size != sizeof *call) return OTHER_VERSION;
    const int hidden = call->hidden_channels;
    const int padded = round_up(hidden);
    const int64_t widen_floats = Pointwise::floats(call->channels, padded);
    const int64_t depthwise_floats = 9 * padded;
    const int64_t narrow_floats = Pointwise::floats(hidden, round_up(call->out_channels));
    float *memory = floats_in_cache_lines(widen_floats + depthwise_floats + padded + narrow_floats);
    if (!memory) return NO_MEMORY;
    float *depthwise = memory + widen_floats;
    float *depthwise_bias = depthwise + depthwise_floats;
    Work work = {
        {
            *call,
            turn(call->widen, call->channels, hidden, memory),
            turn(call->narrow, hidden, call->out_channels, depthwise_bias + padded),
            depthwise,
            depthwise_bias,
        },
        WIDEST(call->lanes, feed_forward),
        Tiles::of(call->map, TILE_HEIGHT, TILE_WIDTH, LOWEST_TILE, call->threads),
        0,
    };
    turn_depthwise(call->depthwise, hidden, padded, depthwise, depthwise_bias);
    in_threads(work, call->threads, work.tiles.count, run);
    free(memory);
    return work.next < work.tiles.count ? NO_MEMORY : DONE;
}

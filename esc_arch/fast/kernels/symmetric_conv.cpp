// Convolution by a kernel with the symmetries of the square, and by a depth-wise one of each image.
//
// Pixels at the places that flips and turns take to each other, an orbit, have one weight: they are
// added up first.  A 13x13 kernel has 28 orbits, so 28 multiplications do the work of 169 for each
// pair of channels.
//
// Source: ESC, arXiv 2503.06671, ConvAttn.

#include "feature_map.hpp"
#include "intrinsics.hpp"
#include "threads.hpp"
#include "tiles.hpp"

namespace {

constexpr int TILE_WIDTH = 96, TILE_HEIGHT = 16, LOWEST_TILE = 2, MOST_SPAN = 24, MOST_LANES = 16;

struct SymmetricConv {
    const SymmetricConvCall &call;
    int radius;
    int orbits;
    int64_t tile_row;     // floats of a row of a tile, with its halo
    const float *weight;  // (orbits, channels in, channels out)
};

#define KERNEL "symmetric_conv.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    SymmetricConv conv;
    void (*convolve)(const SymmetricConv &, const Tile &, float *);
    Tiles tiles;
    int64_t next;
};

// A thread that finds no memory leaves the tiles to the others.
void *run(void *argument) {
    Work &work = *(Work *)argument;
    const SymmetricConv &conv = work.conv;
    const int r = conv.radius;
    const int64_t tile_floats = conv.tile_row * (work.tiles.tile_height + 2 * r);
    const int64_t sums_floats = MOST_SPAN * (conv.call.channels + 4 * MOST_LANES);
    const int64_t folded_floats = (r + (int64_t)1) * (MOST_SPAN + 2 * r) * MOST_LANES;
    float *scratch = floats_in_cache_lines(tile_floats + sums_floats + folded_floats);
    if (!scratch) return nullptr;
    for (int64_t i; (i = take(work.next)) < work.tiles.count;) work.convolve(conv, work.tiles.tile(i), scratch);
    free(scratch);
    return nullptr;
}

// The weight of the orbit of (a, b) rows and columns from the centre, from (out, in) to (in, out).
void turn_orbit(const Kernel &kernel, int a, int b, int channels, float *weight) {
    const int radius = kernel.size / 2;
    const float *at = kernel.data + (radius + a) * kernel.row_stride + (radius + b) * kernel.column_stride;
    for (int i = 0; i < channels; i++)
        for (int o = 0; o < channels; o++)
            weight[(int64_t)i * channels + o] = at[o * kernel.out_stride + i * kernel.in_stride];
}

}  // namespace

extern "C" int esc_symmetric_conv(const SymmetricConvCall *call) {
    if (call->size != sizeof *call) return OTHER_VERSION;
    const int channels = call->channels;
    const int radius = call->kernel.size / 2;
    const int orbits = (radius + 1) * (radius + 2) / 2;
    const int64_t orbit_floats = (int64_t)channels * channels;
    float *weight = floats_in_cache_lines(orbits * orbit_floats);
    if (!weight) return NO_MEMORY;
    float *of_orbit = weight;
    for (int a = 0; a <= radius; a++)
        for (int b = a; b <= radius; b++) {
            turn_orbit(call->kernel, a, b, channels, of_orbit);
            of_orbit += orbit_floats;
        }
    // The last span may reach over the right of a tile.
    const int64_t tile_row = (int64_t)(TILE_WIDTH + MOST_SPAN + 2 * radius) * channels;
    Work work = {
        {*call, radius, orbits, tile_row, weight},
        WIDEST(call->lanes, convolve),
        Tiles::of(call->map, TILE_HEIGHT, TILE_WIDTH, LOWEST_TILE, call->threads),
        0,
    };
    in_threads(work, call->threads, work.tiles.count, run);
    free(weight);
    return work.next < work.tiles.count ? NO_MEMORY : DONE;
}

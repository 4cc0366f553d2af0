// Convolution by a kernel with the symmetries of the square, and by a depth-wise one of each image.
//
// Pixels at the places that flips and turns take to each other, an orbit, have one weight: they are
// added up first.  A 13x13 kernel has 28 orbits, so 28 multiplications do the work of 169 for each
// pair of channels.
//
// Source: ESC, arXiv 2503.06671, ConvAttn.

#include "intrinsics.hpp"
#include "threads.hpp"
#include "tiles.hpp"

namespace {

constexpr int TILE_WIDTH = 96, TILE_HEIGHT = 16, MOST_SPAN = 24, MOST_LANES = 16;

struct Conv {
    const float *x;
    float *out;
    long x_batch, x_row, x_column;
    int batch, height, width, p, radius, orbits;
    Margins around;
    const float *weight;   // (orbits, p in, p out)
    const float *dynamic;  // (batch, 9, p)
    long tile_row;         // floats of a row of a tile, with what lies around it
};

#define KERNEL "symmetric_conv.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    Conv conv;
    void (*convolve)(const Conv &, const Tile &, float *);
    Tiles tiles;
    long next;
};

void *run(void *argument) {
    Work &work = *(Work *)argument;
    const Conv &conv = work.conv;
    const int r = conv.radius;
    const long floats = conv.tile_row * (work.tiles.tile_height + 2 * r) + MOST_SPAN * (conv.p + 4 * MOST_LANES) +
                        (r + 1L) * (MOST_SPAN + 2 * r) * MOST_LANES;
    void *memory = nullptr;
    if (posix_memalign(&memory, 64, floats * sizeof(float))) return nullptr;
    for (long i; (i = take(work.next)) < work.tiles.count;) {
        const Tile tile = work.tiles.tile(i);
        work.convolve(conv, tile, (float *)memory);
    }
    free(memory);
    return nullptr;
}

}  // namespace

// `kernel` is (p, p, k, k) with any strides, p a multiple of 16; `dynamic` is (batch, 9, p);
// `around` are the margins of x at the top, bottom, left and right.  Returns 0, or 1 when memory ran out.
extern "C" int esc_symmetric_conv(const float *x, const long *x_strides, const int *around, float *out,
                                  const float *kernel, const long *kernel_strides, const float *dynamic,
                                  int batch, int height, int width, int p, int k, int threads, int lanes) {
    const int r = k / 2, orbits = (r + 1) * (r + 2) / 2;
    Work work;
    Conv &conv = work.conv;
    // The last span may reach over the right of a tile.
    conv.tile_row = (long)(TILE_WIDTH + MOST_SPAN + 2 * r) * p;
    void *memory = nullptr;
    if (posix_memalign(&memory, 64, (long)orbits * p * p * sizeof(float))) return 1;
    float *weight = (float *)memory;
    int o = 0;
    for (int a = 0; a <= r; a++)
        for (int b = a; b <= r; b++, o++)
            for (int i = 0; i < p; i++)
                for (int j = 0; j < p; j++)  // from (out, in) to (in, out)
                    weight[((long)o * p + i) * p + j] =
                        kernel[j * kernel_strides[0] + i * kernel_strides[1] + (r + a) * kernel_strides[2] +
                               (r + b) * kernel_strides[3]];
    conv.x = x, conv.out = out;
    conv.x_batch = x_strides[0], conv.x_row = x_strides[1], conv.x_column = x_strides[2];
    conv.around = {around[0], around[1], around[2], around[3]};
    conv.batch = batch, conv.height = height, conv.width = width;
    conv.p = p, conv.radius = r, conv.orbits = orbits;
    conv.weight = weight, conv.dynamic = dynamic;
    work.convolve = WIDEST(lanes, convolve);
    work.tiles = Tiles::of(batch, height, width, TILE_HEIGHT, TILE_WIDTH, 2, threads);
    work.next = 0;
    in_threads(work, threads < work.tiles.count ? threads : work.tiles.count, run);
    free(memory);
    return work.next < work.tiles.count;
}

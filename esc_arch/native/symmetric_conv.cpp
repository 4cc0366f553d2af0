// Convolution by a kernel with the symmetries of the square, and by a depth-wise one of each image.
//
// Pixels at the places that flips and turns take to each other, an orbit, have one weight: they are
// added up first.  A 13x13 kernel has 28 orbits, so 28 multiplications do the work of 169 for each
// pair of channels.
//
// Source: ESC, arXiv 2503.06671, ConvAttn.

#include "threads.hpp"

namespace {

constexpr int TILE_WIDTH = 64, TILE_HEIGHT = 16;

struct Orbit {
    int size;
    long places[8];  // where its pixels lie in a tile, from the middle
};

struct Conv {
    const float *x;
    float *out;
    long x_batch, x_row, x_column;
    int batch, height, width, p, radius, orbits;
    const float *weight;   // (orbits, p in, p out)
    const float *dynamic;  // (batch, 9, p)
    long tile_row;
    Orbit *orbit;
};

struct Tile {
    int batch, top, bottom, left, right;
};

#define KERNEL "symmetric_conv.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    Conv conv;
    void (*convolve)(const Conv &, const Tile &, const float *, float *);
    int across, down, tile_height;
    long tiles, next;
};

// Copies a tile and what lies around it; zeros beyond the image, and for as many columns as a span
// may reach over the tile's right.
void copy_in(const Conv &conv, const Tile &tile, float *to) {
    const int p = conv.p, r = conv.radius;
    const int columns = conv.tile_row / p;
    for (int y = tile.top - r; y < tile.bottom + r; y++, to += conv.tile_row) {
        const bool inside = y >= 0 && y < conv.height;
        for (int i = 0; i < columns; i++) {
            const int x = tile.left - r + i;
            if (inside && x >= 0 && x < conv.width)
                __builtin_memcpy(to + (long)i * p, conv.x + tile.batch * conv.x_batch + y * conv.x_row + x * conv.x_column, p * sizeof(float));
            else
                __builtin_memset(to + (long)i * p, 0, p * sizeof(float));
        }
    }
}

void *run(void *argument) {
    Work &work = *(Work *)argument;
    const Conv &conv = work.conv;
    const long tile_floats = conv.tile_row * (work.tile_height + 2 * conv.radius);
    const long floats = tile_floats + 16 * conv.p + 16 * 16 * 4;
    void *memory = nullptr;
    if (posix_memalign(&memory, 64, floats * sizeof(float))) return nullptr;
    float *buffer = (float *)memory;
    for (long i; (i = take(work.next)) < work.tiles;) {
        Tile tile;
        tile.left = i % work.across * TILE_WIDTH;
        tile.top = i / work.across % work.down * work.tile_height;
        tile.batch = i / work.across / work.down;
        tile.right = tile.left + TILE_WIDTH < conv.width ? tile.left + TILE_WIDTH : conv.width;
        tile.bottom = tile.top + work.tile_height < conv.height ? tile.top + work.tile_height : conv.height;
        copy_in(conv, tile, buffer);
        work.convolve(conv, tile, buffer, buffer + tile_floats);
    }
    free(memory);
    return nullptr;
}

// The places of an orbit, (a, b) one of them.
Orbit orbit_of(long a, long b, long row, long column) {
    Orbit orbit;
    orbit.size = 0;
    for (int turn = 0; turn < 8; turn++) {
        long y = turn & 1 ? b : a, x = turn & 1 ? a : b;
        if (turn & 2) y = -y;
        if (turn & 4) x = -x;
        const long place = y * row + x * column;
        bool known = false;
        for (int i = 0; i < orbit.size; i++) known |= orbit.places[i] == place;
        if (!known) orbit.places[orbit.size++] = place;
    }
    return orbit;
}

}  // namespace

// `kernel` is (p, p, k, k) with any strides, p a multiple of 16; `dynamic` is (batch, 9, p).
// Returns 0, or 1 when memory ran out.
extern "C" int esc_symmetric_conv(const float *x, const long *x_strides, float *out, const float *kernel,
                                  const long *kernel_strides, const float *dynamic, int batch, int height,
                                  int width, int p, int k, int threads, int lanes) {
    const int r = k / 2, orbits = (r + 1) * (r + 2) / 2;
    const long spare = 16;  // a span may reach over the right of a tile
    Work work;
    Conv &conv = work.conv;
    conv.tile_row = (long)(TILE_WIDTH + spare + 2 * r) * p;
    void *memory = nullptr;
    const long weights = (long)orbits * p * p;
    if (posix_memalign(&memory, 64, weights * sizeof(float) + orbits * sizeof(Orbit))) return 1;
    float *weight = (float *)memory;
    conv.orbit = (Orbit *)(weight + weights);
    int o = 0;
    for (int a = 0; a <= r; a++)
        for (int b = a; b <= r; b++, o++) {
            conv.orbit[o] = orbit_of(a, b, conv.tile_row, p);
            const Orbit in_kernel = orbit_of(a, b, kernel_strides[2], kernel_strides[3]);
            for (int i = 0; i < p; i++)
                for (int j = 0; j < p; j++) {
                    // From (out, in) to (in, out).
                    const float *from = kernel + j * kernel_strides[0] + i * kernel_strides[1] +
                                        r * (kernel_strides[2] + kernel_strides[3]);
                    weight[((long)o * p + i) * p + j] = from[in_kernel.places[0]];
                }
        }
    conv.x = x, conv.out = out;
    conv.x_batch = x_strides[0], conv.x_row = x_strides[1], conv.x_column = x_strides[2];
    conv.batch = batch, conv.height = height, conv.width = width;
    conv.p = p, conv.radius = r, conv.orbits = orbits;
    conv.weight = weight, conv.dynamic = dynamic;
    work.convolve = WIDEST(lanes, convolve);
    work.across = (width + TILE_WIDTH - 1) / TILE_WIDTH;
    // Small maps on many cores: lower tiles, so that there is work for all.
    work.tile_height = TILE_HEIGHT;
    do {
        work.down = (height + work.tile_height - 1) / work.tile_height;
        work.tiles = (long)batch * work.across * work.down;
    } while (work.tiles < 4L * threads && work.tile_height > 2 && (work.tile_height /= 2));
    work.next = 0;
    in_threads(work, threads < work.tiles ? threads : work.tiles, run);
    free(memory);
    return work.next < work.tiles;
}

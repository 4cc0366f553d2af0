// One tile of a convolution by a symmetric kernel; see symmetric_conv.cpp.
//
// Included by instruction_sets.inc.  SPAN pixels of a row are worked on at one time, with their sums of
// GROUP orbits: what that takes stays in the first cache.

constexpr int SPAN = REGISTERS == 32 ? 24 : 12, GROUP = 4;

// Copies a tile and its halo of `radius` pixels; zeros beyond the image, and to the row's end.
TARGET inline void copy_in(const SymmetricConv &conv, const Tile &tile, float *to) {
    const SymmetricConvCall &call = conv.call;
    const int p = call.channels;
    const int r = conv.radius;
    const int64_t columns = conv.tile_row / p;
    const int64_t column_stride = call.x.column_stride;
    const int64_t first = -call.margins.left;
    const int64_t end = call.map.width + call.margins.right;
    for (int y = tile.top - r; y < tile.bottom + r; y++) {
        const float *row = pixel(call.x, tile.image, y, 0);
        const bool inside = y >= -call.margins.top && y < call.map.height + call.margins.bottom;
        for (int64_t i = 0; i < columns; i++) {
            const int64_t x = tile.left - r + i;
            for (int c = 0; c < p; c += LANES)
                store(to + i * p + c, inside && x >= first && x < end ? load(row + x * column_stride + c) : vec{});
        }
        to += conv.tile_row;
    }
}

// folded[a][column] = the sum of the pixels that lie a rows above and below, for the columns that a
// span's kernels reach.
TARGET inline void fold(const float *at, int64_t row, int p, int radius, float *folded) {
    const int columns = SPAN + 2 * radius;
    at -= radius * p;
    for (int a = 0; a <= radius; a++) {
        for (int i = 0; i < columns; i++) {
            vec pixel = load(at + a * row + i * p);
            store(folded + i * LANES, a ? pixel + load(at - a * row + i * p) : pixel);
        }
        folded += columns * LANES;
    }
}

// sums[pixel] = the sum over the orbit of (a, b), 0 <= a <= b.
TARGET inline void add_up(const float *folded, int radius, int a, int b, float *sums) {
    const int64_t row = (SPAN + 2 * radius) * LANES;
    const float *of_a = folded + a * row + radius * LANES;
    const float *of_b = folded + b * row + radius * LANES;
    a *= LANES;
    b *= LANES;
    for (int i = 0; i < SPAN * LANES; i += LANES) {
        vec total = load(of_a + i + b);
        if (b) total += load(of_a + i - b);
        if (a != b) total += load(of_b + i + a);
        if (a && a != b) total += load(of_b + i - a);
        store(sums + i, total);
    }
}

// out[pixel][LANES output channels] += sums of `orbits` orbits times their weights.
TARGET inline void multiply_sums(const float *sums, const float *weight, int orbits, int p, float *out) {
    vec acc[SPAN];
#pragma GCC unroll 24
    for (int pixel = 0; pixel < SPAN; pixel++) acc[pixel] = load(out + pixel * p);
    for (int o = 0; o < orbits; o++)
        for (int lane = 0; lane < LANES; lane++) {
            vec w = load(weight + ((int64_t)o * p + lane) * p);
            const float *sum = sums + o * SPAN * LANES + lane;
#pragma GCC unroll 24
            for (int pixel = 0; pixel < SPAN; pixel++) acc[pixel] += splat(sum[pixel * LANES]) * w;
        }
#pragma GCC unroll 24
    for (int pixel = 0; pixel < SPAN; pixel++) store(out + pixel * p, acc[pixel]);
}

// out = the depth-wise 3x3 convolution by the dynamic kernel.
TARGET inline void start(const float *dynamic, const float *at, int64_t row, int p, float *out) {
    for (int c = 0; c < p; c += LANES) {
        vec tap[9];
#pragma GCC unroll 9
        for (int i = 0; i < 9; i++) tap[i] = load(dynamic + i * p + c);
        for (int pixel = 0; pixel < SPAN; pixel++) {
            vec total = {};
#pragma GCC unroll 9
            for (int i = 0; i < 9; i++) total += tap[i] * load(at + (i / 3 - 1) * row + (pixel + i % 3 - 1) * p + c);
            store(out + pixel * p + c, total);
        }
    }
}

// out[pixel] += the convolution by the symmetric kernel of LANES channels, from c on, at `centre`.
TARGET inline void add_channels(const SymmetricConv &conv, const float *centre, int c, float *folded, float *sums,
                                float *out) {
    const int p = conv.call.channels;
    const int r = conv.radius;
    fold(centre + c, conv.tile_row, p, r, folded);
    int a = 0;
    int b = 0;
    for (int first = 0; first < conv.orbits; first += GROUP) {
        const int count = conv.orbits - first < GROUP ? conv.orbits - first : GROUP;
        for (int o = 0; o < count; o++) {
            add_up(folded, r, a, b, sums + o * SPAN * LANES);
            if (++b > r) b = ++a;
        }
        for (int v = 0; v < p; v += LANES)
            multiply_sums(sums, conv.weight + ((int64_t)first * p + c) * p + v, count, p, out + v);
    }
}

TARGET void convolve(const SymmetricConv &conv, const Tile &at, float *scratch) {
    const SymmetricConvCall &call = conv.call;
    const int p = call.channels;
    const int r = conv.radius;
    const int height = at.bottom - at.top;
    const int width = at.right - at.left;
    const int64_t row = conv.tile_row;
    const float *dynamic = call.dynamic_kernel + (int64_t)at.image * 9 * p;
    float *out = scratch;
    float *sums = out + SPAN * p;
    float *folded = sums + GROUP * SPAN * LANES;
    float *tile = folded + (r + 1) * (SPAN + 2 * r) * LANES;
    copy_in(conv, at, tile);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x += SPAN) {
            const float *centre = tile + (y + r) * row + (int64_t)(x + r) * p;
            start(dynamic, centre, row, p, out);
            for (int c = 0; c < p; c += LANES) add_channels(conv, centre, c, folded, sums, out);
            float *to = pixel(call.out, at.image, at.top + y, at.left + x);
            const int64_t floats = (int64_t)(width - x < SPAN ? width - x : SPAN) * p;
            for (int64_t i = 0; i < floats; i += LANES) store(to + i, load(out + i));
        }
}

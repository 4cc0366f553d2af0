// One tile of a convolution by a symmetric kernel; see symmetric_conv.cpp.
//
// Included by instruction_sets.inc.  SPAN pixels of a row are worked on at one time, with their sums of
// GROUP orbits.

constexpr int SPAN = REGISTERS == 32 ? 16 : 12, GROUP = 4;

// sums[pixel] = the sum of N pixels each, whose places lie `places` from it.
template <int N>
TARGET inline void add_up(const float *at, const long *places, int p, float *sums) {
    for (int pixel = 0; pixel < SPAN; pixel++) {
        vec total = load(at + pixel * p + places[0]);
#pragma GCC unroll 8
        for (int i = 1; i < N; i++) total += load(at + pixel * p + places[i]);
        store(sums + pixel * LANES, total);
    }
}

// out[pixel][first output channel...] += sums of orbits times their weights.
TARGET inline void multiply_sums(const float *sums, const float *weight, int orbits, int p, float *out) {
    vec acc[SPAN];
#pragma GCC unroll 16
    for (int pixel = 0; pixel < SPAN; pixel++) acc[pixel] = load(out + pixel * p);
    for (int o = 0; o < orbits; o++)
        for (int lane = 0; lane < LANES; lane++) {
            vec w = load(weight + ((long)o * p + lane) * p);
#pragma GCC unroll 16
            for (int pixel = 0; pixel < SPAN; pixel++)
                acc[pixel] += splat(sums[(o * SPAN + pixel) * LANES + lane]) * w;
        }
#pragma GCC unroll 16
    for (int pixel = 0; pixel < SPAN; pixel++) store(out + pixel * p, acc[pixel]);
}

// out = the depth-wise 3x3 convolution by the dynamic kernel.
TARGET inline void start(const Conv &conv, const float *dynamic, const float *at, long row, float *out) {
    const int p = conv.p;
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

// `tile` holds the pixels of the tile with `radius` rows and columns around them, zeros beyond the image.
TARGET void convolve(const Conv &conv, const Tile &at, const float *tile, float *work) {
    const int p = conv.p, height = at.bottom - at.top, width = at.right - at.left;
    const long row = conv.tile_row;
    float *out = work, *sums = work + SPAN * p;
    const float *dynamic = conv.dynamic + (long)at.batch * 9 * p;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x += SPAN) {
            const float *centre = tile + (y + conv.radius) * row + (long)(x + conv.radius) * p;
            start(conv, dynamic, centre, row, out);
            for (int c = 0; c < p; c += LANES)
                for (int first = 0; first < conv.orbits; first += GROUP) {
                    const int count = conv.orbits - first < GROUP ? conv.orbits - first : GROUP;
                    for (int o = 0; o < count; o++) {
                        const Orbit &orbit = conv.orbit[first + o];
                        float *to = sums + o * SPAN * LANES;
                        if (orbit.size == 8) add_up<8>(centre + c, orbit.places, p, to);
                        if (orbit.size == 4) add_up<4>(centre + c, orbit.places, p, to);
                        if (orbit.size == 1) add_up<1>(centre + c, orbit.places, p, to);
                    }
                    for (int v = 0; v < p; v += LANES)
                        multiply_sums(sums, conv.weight + ((long)first * p + c) * p + v, count, p, out + v);
                }
            float *to = conv.out + (((long)at.batch * conv.height + at.top + y) * conv.width + at.left + x) * p;
            const int pixels = width - x < SPAN ? width - x : SPAN;
            for (long i = 0; i < (long)pixels * p; i += LANES) store(to + i, load(out + i));
        }
}

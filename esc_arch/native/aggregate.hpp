// The last step of ConvAttn for a run of pixels; see aggregate.cpp.
//
// Included by instruction_sets.inc, after pointwise.hpp.

struct Aggregation {
    const Maps &maps;
    long start;

    template <int P, int V>
    TARGET inline void run(int pixel, int column) const {
        const Pointwise &layer = maps.layer;
        const float *weight = layer.weight + column;
        float *at = maps.residual + (start + pixel) * layer.out + column;
        vec acc[P][V];
#pragma GCC unroll 6
        for (int i = 0; i < P; i++)
#pragma GCC unroll 5
            for (int j = 0; j < V; j++)
                acc[i][j] = load(at + i * layer.out + j * LANES) + load(layer.bias + column + j * LANES);
        accumulate(acc, maps.first + (start + pixel) * maps.split, maps.split, maps.split, weight, layer.padded);
        accumulate(acc, maps.rest + (start + pixel) * layer.in + maps.split, layer.in, layer.in - maps.split,
                   weight + (long)maps.split * layer.padded, layer.padded);
#pragma GCC unroll 6
        for (int i = 0; i < P; i++)
#pragma GCC unroll 5
            for (int j = 0; j < V; j++) store(at + i * layer.out + j * LANES, acc[i][j]);
    }
};

TARGET void aggregate(const Maps &maps, long start, int pixels) {
    for_blocks(Aggregation{maps, start}, pixels, maps.layer.out);
}

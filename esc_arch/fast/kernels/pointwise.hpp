// 1x1 convolutions of pixels whose channels lie side by side.
//
// Included by instruction_sets.inc.  PIXELS pixels times COLUMNS vectors of output channels are held
// in registers.

constexpr int COLUMNS = REGISTERS == 32 ? 5 : 2;
constexpr int PIXELS = REGISTERS == 32 ? 5 : 6;

// acc[pixel][column] += sum over channels of in[pixel][channel] * weight[channel][column].
template <int P, int V>
TARGET inline void accumulate(vec (&acc)[P][V], const float *in, int64_t in_stride, int channels,
                              const float *weight, int64_t weight_stride) {
    for (int c = 0; c < channels; c++) {
        vec w[V];
#pragma GCC unroll 5
        for (int j = 0; j < V; j++) w[j] = load(weight + c * weight_stride + j * LANES);
#pragma GCC unroll 6
        for (int i = 0; i < P; i++) {
            vec b = splat(in[i * in_stride + c]);
#pragma GCC unroll 5
            for (int j = 0; j < V; j++) acc[i][j] += b * w[j];
        }
    }
}

template <int V, class Block>
TARGET inline void for_pixels(const Block &block, int pixels, int column) {
    int pixel = 0;
    for (; pixel + PIXELS <= pixels; pixel += PIXELS) block.template run<PIXELS, V>(pixel, column);
    const int rest = pixels - pixel;  // one by one, its products would wait for each other
    if (rest == 1) block.template run<1, V>(pixel, column);
    if (rest == 2) block.template run<2, V>(pixel, column);
    if (rest == 3) block.template run<3, V>(pixel, column);
    if (rest == 4) block.template run<4, V>(pixel, column);
    if constexpr (PIXELS > 5)
        if (rest == 5) block.template run<5, V>(pixel, column);
}

// Calls block.run<P, V>(pixel, column) for all blocks of `pixels` times `channels`.
template <class Block>
TARGET inline void for_blocks(const Block &block, int pixels, int channels) {
    int vectors = channels / LANES;
    int column = 0;
    for (; vectors >= COLUMNS; vectors -= COLUMNS) {
        for_pixels<COLUMNS>(block, pixels, column);
        column += COLUMNS * LANES;
    }
    if (vectors == 1) for_pixels<1>(block, pixels, column);
    if constexpr (COLUMNS > 2) {
        if (vectors == 2) for_pixels<2>(block, pixels, column);
        if (vectors == 3) for_pixels<3>(block, pixels, column);
        if (vectors == 4) for_pixels<4>(block, pixels, column);
    }
}

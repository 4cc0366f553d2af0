// One tile of a convolutional feed-forward network; see conv_ffn.cpp.
//
// Included by instruction_sets.inc.

constexpr int COLUMNS = REGISTERS == 32 ? 5 : 2;  // vectors of output channels held at one time
constexpr int PIXELS = REGISTERS == 32 ? 5 : 6;

template <int P, int V>
TARGET inline void multiply(const float *in, long in_step, int channels, const float *weight, long step,
                            const float *bias, float *out, long out_step, bool activate) {
    vec acc[P][V];
#pragma GCC unroll 6
    for (int i = 0; i < P; i++)
#pragma GCC unroll 5
        for (int j = 0; j < V; j++) acc[i][j] = load(bias + j * LANES);
    for (int c = 0; c < channels; c++) {
        vec w[V];
#pragma GCC unroll 5
        for (int j = 0; j < V; j++) w[j] = load(weight + c * step + j * LANES);
#pragma GCC unroll 6
        for (int i = 0; i < P; i++) {
            vec b = splat(in[i * in_step + c]);
#pragma GCC unroll 5
            for (int j = 0; j < V; j++) acc[i][j] += b * w[j];
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < P; i++)
#pragma GCC unroll 5
        for (int j = 0; j < V; j++) store(out + i * out_step + j * LANES, activate ? gelu(acc[i][j]) : acc[i][j]);
}

template <int V>
TARGET inline void multiply_columns(const float *in, long in_step, int pixels, int channels,
                                    const float *weight, long step, const float *bias, float *out,
                                    long out_step, bool activate) {
    int p = 0;
    for (; p + PIXELS <= pixels; p += PIXELS)
        multiply<PIXELS, V>(in + p * in_step, in_step, channels, weight, step, bias, out + p * out_step,
                            out_step, activate);
    for (; p < pixels; p++)
        multiply<1, V>(in + p * in_step, in_step, channels, weight, step, bias, out + p * out_step,
                       out_step, activate);
}

// A 1x1 convolution of a row of pixels.
TARGET inline void pointwise(const Pointwise &layer, const float *in, long in_step, int pixels, float *out,
                             bool activate) {
    int vectors = layer.padded / LANES, first = 0;
    for (; vectors >= COLUMNS; vectors -= COLUMNS, first += COLUMNS * LANES)
        multiply_columns<COLUMNS>(in, in_step, pixels, layer.in, layer.weight + first, layer.padded,
                                  layer.bias + first, out + first, layer.padded, activate);
#define REST(V)                                                                                          \
    if (vectors == V)                                                                                    \
        multiply_columns<V>(in, in_step, pixels, layer.in, layer.weight + first, layer.padded,           \
                            layer.bias + first, out + first, layer.padded, activate);
    REST(1)
#if REGISTERS == 32
    REST(2) REST(3) REST(4)
#endif
#undef REST
}

TARGET inline void normalise(const Ffn &ffn, const float *in, long in_step, int pixels, float *out) {
    const int channels = ffn.widen.in, whole = channels / LANES * LANES;
    for (int p = 0; p < pixels; p++, in += in_step, out += channels) {
        vec total = {};
        float mean = 0, variance = 0;
        for (int c = 0; c < whole; c += LANES) total += load(in + c);
        for (int c = whole; c < channels; c++) mean += in[c];
        mean = (mean + sum(total)) / channels;
        total = vec{};
        for (int c = 0; c < whole; c += LANES) {
            vec d = load(in + c) - mean;
            total += d * d;
        }
        for (int c = whole; c < channels; c++) variance += (in[c] - mean) * (in[c] - mean);
        variance = (variance + sum(total)) / channels;
        const float factor = 1 / __builtin_sqrtf(variance + ffn.eps);
        for (int c = 0; c < whole; c += LANES)
            store(out + c, (load(in + c) - mean) * factor * load(ffn.norm_weight + c) + load(ffn.norm_bias + c));
        for (int c = whole; c < channels; c++)
            out[c] = (in[c] - mean) * factor * ffn.norm_weight[c] + ffn.norm_bias[c];
    }
}

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
    const int left = tile.left > 0 ? tile.left - 1 : 0, right = tile.right < ffn.width ? tile.right + 1 : ffn.width;
    for (int y = tile.top - 1; y <= tile.bottom; y++) {
        float *row = ring + (y + 3) % 3 * row_floats;
        // Beyond the image the hidden map is zero.
        if (y < 0 || y >= ffn.height) {
            for (long i = 0; i < row_floats; i++) row[i] = 0;
        } else {
            const float *in = ffn.x + tile.batch * ffn.x_batch + y * ffn.x_row + left * ffn.x_column;
            long step = ffn.x_column;
            if (ffn.norm_weight) {
                normalise(ffn, in, step, right - left, normal);
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
        float *out = ffn.out + ((long)(tile.batch * ffn.height + y - 1) * ffn.width + tile.left) * channels;
        const bool direct = ffn.narrow.padded == channels;
        pointwise(ffn.narrow, mixed, hidden, width, direct ? out : narrow, false);
        if (!direct)
            for (int p = 0; p < width; p++)
                for (int c = 0; c < channels; c++) out[p * channels + c] = narrow[(long)p * ffn.narrow.padded + c];
    }
}

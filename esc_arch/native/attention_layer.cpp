// x + attention of the normalised x inside windows, on a CPU, in float32.
//
// A thread takes a whole window: its queries, keys and values stay in the cache of a core, and of
// the feature map nothing but the input and the result is in memory.
//
// Source: ESC, arXiv 2503.06671, section 3; softmax by tiles as in FlashAttention, arXiv 2205.14135.

#include "attention_map.hpp"
#include "intrinsics.hpp"
#include "layers.hpp"
#include "threads.hpp"

namespace {

constexpr int TILE = 128;  // see window_attention.cpp
constexpr int RUN = 120;   // pixels that are normalised and convolved at one time; whole blocks of 5 and 6

struct Layer {
    const float *x;
    float *y;
    long x_batch, x_row, x_column, y_batch, y_row;
    Norm norm;
    Pointwise to_qkv, to_out;
};

#define KERNEL "attention_layer.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    Layer layer;
    Map image, window;  // `window` is a window of its own, with memory of each thread
    void (*attend_window)(const Layer &, const Map &, Keys &, const Window &, const long *, const long *, float *,
                          float *, float *);
    long next;
};

void *run(void *argument) {
    Work &work = *(Work *)argument;
    const Layer &layer = work.layer;
    Map map = work.window;
    const long tokens = (long)map.window * map.window;
    Keys keys = Keys::of(map, 8);
    const long of_qkv = tokens * layer.to_qkv.padded, of_normal = (long)RUN * layer.to_qkv.in;
    const long floats = keys.floats() + (map.d + TILE + keys.channels) * 32L + of_qkv + of_normal;
    void *memory = nullptr;
    if (posix_memalign(&memory, 64, floats * sizeof(float) + keys.offset_bytes() + map.window * sizeof(long)))
        return nullptr;
    long *places = (long *)memory;
    float *qkv = keys.use(places + map.window), *normal = qkv + of_qkv, *scratch = normal + of_normal;
    for (int i = 0; i < map.window; i++) places[i] = i;
    map.rows = map.columns = places;
    map.qkv = qkv;
    // A head's result takes the place of its queries, which nobody else reads.
    map.out = qkv;
    const long windows = work.image.windows();
    for (long item; (item = take(work.next)) < windows;) {
        const Window at = work.image.window_of(item);
        work.attend_window(layer, map, keys, at, work.image.rows + at.row, work.image.columns + at.column, qkv, normal,
                           scratch);
    }
    free(memory);
    return nullptr;
}

}  // namespace

// `channels` has to fill whole vectors of 16; y must not be x, and the pixels of its rows lie side by side.
// Returns 0, or 1 when memory ran out.
extern "C" int esc_attention_layer(const float *x, const long *x_strides, float *y, const long *y_strides,
                                   const float *norm_weight, const float *norm_bias, float eps,
                                   const float *qkv_weight, const float *qkv_bias,
                                   const float *out_weight, const float *out_bias,
                                   const float *bias, const long *rows, const long *columns, int batch,
                                   int height, int width, int channels, int heads, int window, int bias_row,
                                   float scale, int threads, int lanes) {
    Work work;
    Layer &layer = work.layer;
    layer.x = x, layer.y = y;
    layer.x_batch = x_strides[0], layer.x_row = x_strides[1], layer.x_column = x_strides[2];
    layer.y_batch = y_strides[0], layer.y_row = y_strides[1];
    layer.norm = {norm_weight, norm_bias, eps};
    const long padded = round_up(3L * channels);
    void *memory = nullptr;
    if (posix_memalign(&memory, 64, (padded + channels) * (channels + 1L) * sizeof(float))) return 1;
    float *turned = (float *)memory, *turned_out = turned + padded * (channels + 1L);
    layer.to_qkv = {turned, turned + padded * channels, channels, 3 * channels, (int)padded};
    layer.to_out = {turned_out, turned_out + (long)channels * channels, channels, channels, channels};
    turn(layer.to_qkv, qkv_weight, qkv_bias);
    turn(layer.to_out, out_weight, out_bias);
    Map &image = work.image;
    image = Map();
    image.rows = rows, image.columns = columns, image.bias = bias;
    image.batch = batch, image.height = height, image.width = width;
    image.heads = heads, image.d = channels / heads, image.window = window;
    image.bias_row = bias_row, image.bias_head = (long)(2 * window - 1) * bias_row;
    image.scale = scale;
    work.window = image;
    work.window.qkv_column = work.window.out_column = padded;
    work.window.qkv_row = work.window.out_row = padded * window;
    work.window.qkv_batch = work.window.out_batch = padded * window * window;
    work.attend_window = WIDEST(lanes, attend_window);
    work.next = 0;
    const long windows = image.windows();
    in_threads(work, threads < windows ? threads : windows, run);
    free(memory);
    return work.next < windows;
}

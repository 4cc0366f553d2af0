// Attention inside windows of a feature map, on a CPU, in float32.
//
// Source: ESC, arXiv 2503.06671, section 3; softmax by tiles as in FlashAttention, arXiv 2205.14135.

#include "threads.hpp"

namespace {

constexpr int TILE = 128;  // keys whose scores are held at one time: 16 KB, in the first cache

struct Window {
    int batch, row, column;  // of its upper left pixel
    int rows, columns;       // of the image inside the window
};

// The feature map, its result, and the table of biases.
struct Map {
    const float *qkv;
    float *out;
    const float *bias;
    const long *rows, *columns;  // where a row or column of the extended map lies in the image
    long qkv_batch, qkv_row, qkv_column, out_batch, out_row, out_column;
    int batch, height, width, heads, d, window;
    long bias_head, bias_row;
    float scale;

    const float *token(const Window &at, int y, int x) const {
        return qkv + at.batch * qkv_batch + rows[at.row + y] * qkv_row + columns[at.column + x] * qkv_column;
    }
    float *result(const Window &at, int y, int x) const {
        return out + at.batch * out_batch + (at.row + y) * out_row + (at.column + x) * out_column;
    }
};

// Keys and values of one head in one window, after each other.
struct Keys {
    float *k, *v;
    long *offset;  // of a key's biases in the table
    int n, padded, d, channels;
};

#define KERNEL "window_attention.hpp"
#include "instruction_sets.inc"
#undef KERNEL

using Attend = void (*)(const Map &, const Keys &, const Window &, int, int, int, float *);

struct Work {
    Map map;
    Attend attend;
    int parts;  // into which the rows of a window are cut
    long items;
    long next;
};

void pack(const Map &map, const Window &window, int head, Keys &keys) {
    const int w = map.window, d = map.d;
    const long channels = (long)map.heads * d;
    for (int i = 0; i < keys.padded; i++) {
        const int token = i < keys.n ? i : keys.n - 1;
        const float *from = map.token(window, token / w, token % w) + head * d;
        for (int c = 0; c < d; c++) keys.k[(long)i * d + c] = from[channels + c];
        for (int c = 0; c < keys.channels; c++)
            keys.v[(long)i * keys.channels + c] = c < d && i < keys.n ? from[2 * channels + c] : 0;
        keys.offset[i] = (long)(token / w) * map.bias_row - token % w;
    }
}

void *run(void *argument) {
    Work &work = *(Work *)argument;
    const Map &map = work.map;
    const int w = map.window, d = map.d;
    Keys keys;
    keys.n = w * w, keys.padded = (keys.n + 7) / 8 * 8, keys.d = d, keys.channels = (d + 7) / 8 * 8;
    const long floats = (long)keys.padded * (d + keys.channels) + (d + TILE + keys.channels) * 32L;
    const long offsets = keys.padded * (long)sizeof(long);
    void *memory = nullptr;
    if (posix_memalign(&memory, 64, floats * sizeof(float) + offsets))
        return nullptr;
    keys.offset = (long *)memory;
    keys.k = (float *)((char *)memory + offsets), keys.v = keys.k + (long)keys.padded * d;
    float *scratch = keys.v + (long)keys.padded * keys.channels;
    const int across = (map.width + w - 1) / w, down = (map.height + w - 1) / w;
    for (;;) {
        long item = take(work.next);
        if (item >= work.items) break;
        const int part = item % work.parts;
        item /= work.parts;
        const int head = item % map.heads;
        item /= map.heads;
        Window window;
        window.column = item % across * w;
        window.row = item / across % down * w;
        window.batch = item / across / down;
        window.rows = map.height - window.row < w ? map.height - window.row : w;
        window.columns = map.width - window.column < w ? map.width - window.column : w;
        const int first = window.rows * part / work.parts, last = window.rows * (part + 1) / work.parts;
        if (first == last) continue;
        pack(map, window, head, keys);
        work.attend(map, keys, window, head, first, last, scratch);
    }
    free(memory);
    return nullptr;
}

}  // namespace

// Returns 0, or 1 when memory ran out.
extern "C" int esc_window_attention(const float *qkv, const long *qkv_strides, float *out, const float *bias,
                                    const long *rows, const long *columns, int batch, int height,
                                    int width, int heads, int d, int window, int bias_row, float scale,
                                    int threads, int lanes) {
    Work work;
    Map &map = work.map;
    map.qkv = qkv, map.out = out, map.bias = bias, map.rows = rows, map.columns = columns;
    map.qkv_batch = qkv_strides[0], map.qkv_row = qkv_strides[1], map.qkv_column = qkv_strides[2];
    map.out_column = (long)heads * d, map.out_row = map.out_column * width, map.out_batch = map.out_row * height;
    map.batch = batch, map.height = height, map.width = width;
    map.heads = heads, map.d = d, map.window = window;
    map.bias_row = bias_row, map.bias_head = (long)(2 * window - 1) * bias_row;
    map.scale = scale;
    work.attend = WIDEST(lanes, attend_rows);
    const long windows = (long)((height + window - 1) / window) * ((width + window - 1) / window);
    const long whole = batch * windows * heads;
    // Small maps on many cores: parts of a window, so that there is work for all.
    work.parts = 1;
    while (whole * work.parts < 4L * threads && work.parts * 2 <= window) work.parts *= 2;
    work.items = whole * work.parts;
    work.next = 0;
    in_threads(work, threads < work.items ? threads : work.items, run);
    return work.next < work.items;
}

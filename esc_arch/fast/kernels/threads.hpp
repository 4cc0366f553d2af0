// Sharing numbered pieces of work among threads.
#pragma once

#include <stdint.h>
#include <stdlib.h>  // what threads work in

// Calls run(work) in up to `threads` threads, this one among them, and waits for all; see threads.cpp.
void in_threads(void *work, int64_t threads, void *(*run)(void *));

// The same for pieces of work, of which no more threads than pieces are needed.
template <class Work>
void in_threads(Work &work, int64_t threads, int64_t pieces, void *(*run)(void *)) {
    in_threads((void *)&work, threads < pieces ? threads : pieces, run);
}

// The next piece of work that no thread has taken.
inline int64_t take(int64_t &next) { return __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED); }

// Memory in whole lines of the caches, for free(); null when there is none.
inline void *cache_lines(int64_t bytes) {
    void *memory = nullptr;
    return posix_memalign(&memory, 64, bytes) ? nullptr : memory;
}

inline float *floats_in_cache_lines(int64_t floats) { return (float *)cache_lines(floats * sizeof(float)); }

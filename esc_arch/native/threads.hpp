// Sharing numbered pieces of work among threads.
#pragma once

#include <stdlib.h>  // what threads work in

// Calls run(work) in up to `threads` threads, this one among them, and waits for all; see threads.cpp.
void in_threads(void *work, long threads, void *(*run)(void *));

template <class Work>
void in_threads(Work &work, long threads, void *(*run)(void *)) {
    in_threads((void *)&work, threads, run);
}

// The next piece of work that no thread has taken.
inline long take(long &next) { return __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED); }

/* A pool of helper threads, on which the decoder runs its loops. */
#ifndef EDGESAM_THREAD_POOL_H
#define EDGESAM_THREAD_POOL_H

typedef struct thread_pool thread_pool;

/* Starts a pool of `helpers` threads, which may be 0; NULL when the system starts none. */
thread_pool *thread_pool_new(int helpers);

/* Ends the helpers and frees the pool; no loop may be running. */
void thread_pool_free(thread_pool *);

/* Calls body(context, i) for every i in [0, count), on the calling thread and on at most `threads` - 1 idle helpers.
 * Returns when all calls have returned. Several threads may call it at the same time: each works on its own loop, so
 * that none waits for the loop of another. */
void thread_pool_run(thread_pool *, int threads, int count, void (*body)(void *context, int i), void *context);

#endif

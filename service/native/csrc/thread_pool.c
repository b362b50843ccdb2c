#ifdef __linux__
#define _GNU_SOURCE /* for the affinity of threads */
#include <sched.h>
#endif

#include "thread_pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

/* A loop in progress, on the stack of the thread that called thread_pool_run. */
typedef struct loop {
    void (*body)(void *, int);
    void *context;
    int next, count;
    int running;    /* helpers that work on it */
    int open_slots; /* helpers that may still join it */
    struct loop *following;
} loop;

struct thread_pool {
    pthread_mutex_t mutex;
    pthread_cond_t has_work, has_left;
    loop *loops;
    bool is_closing;
    int avoided_processor; /* the processor that helpers keep away from; -1 for none */
    int helpers;
    pthread_t threads[];
};

/* Takes the next index of a loop. The mutex is held, without contention: a body takes 0.1 ms and more. */
static bool next_index(loop *l, int *i)
{
    if (l->next >= l->count)
        return false;
    *i = l->next++;
    return true;
}

static void run_indices(thread_pool *pool, loop *l)
{
    int i;
    while (next_index(l, &i)) {
        pthread_mutex_unlock(&pool->mutex);
        l->body(l->context, i);
        pthread_mutex_lock(&pool->mutex);
    }
}

static loop *joinable(thread_pool *pool)
{
    for (loop *l = pool->loops; l; l = l->following)
        if (l->open_slots > 0 && l->next < l->count)
            return l;
    return NULL;
}

static void *helper_main(void *argument)
{
    thread_pool *pool = argument;
    pthread_mutex_lock(&pool->mutex);
    while (!pool->is_closing) {
        loop *l = joinable(pool);
        if (!l) {
            pthread_cond_wait(&pool->has_work, &pool->mutex);
            continue;
        }
        l->open_slots--;
        l->running++;
        run_indices(pool, l);
        if (--l->running == 0)
            pthread_cond_broadcast(&pool->has_left);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

thread_pool *thread_pool_new(int helpers)
{
    thread_pool *pool = calloc(1, sizeof *pool + (size_t)helpers * sizeof(pthread_t));
    if (!pool)
        return NULL;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->has_work, NULL);
    pthread_cond_init(&pool->has_left, NULL);
    pool->avoided_processor = -1;
    for (; pool->helpers < helpers; pool->helpers++)
        if (pthread_create(&pool->threads[pool->helpers], NULL, helper_main, pool)) {
            thread_pool_free(pool);
            return NULL;
        }
    return pool;
}

void thread_pool_free(thread_pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    pool->is_closing = true;
    pthread_cond_broadcast(&pool->has_work);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < pool->helpers; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->has_work);
    pthread_cond_destroy(&pool->has_left);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

/* Keeps helpers from waking up on the processor of the caller. Linux wakes a thread that slept for some milliseconds
 * beside the thread that wakes it, even if another processor is idle. It moves the thread only after 15 ms and more,
 * which is longer than a prompt takes (measured on Linux 6.18 with two virtual processors). */
static void avoid_processor_of_caller(thread_pool *pool)
{
#ifdef __linux__
    int mine = sched_getcpu();
    cpu_set_t others;
    if (mine < 0 || mine == pool->avoided_processor || sched_getaffinity(0, sizeof others, &others) ||
        !CPU_ISSET(mine, &others))
        return;
    CPU_CLR(mine, &others);
    if (CPU_COUNT(&others) == 0)
        return;
    for (int i = 0; i < pool->helpers; i++)
        pthread_setaffinity_np(pool->threads[i], sizeof others, &others); /* may fail, which only costs time */
    pool->avoided_processor = mine;
#else
    (void)pool;
#endif
}

void thread_pool_run(thread_pool *pool, int threads, int count, void (*body)(void *, int), void *context)
{
    if (threads <= 1 || count <= 1 || pool->helpers == 0) {
        for (int i = 0; i < count; i++)
            body(context, i);
        return;
    }
    loop l = {.body = body, .context = context, .count = count, .open_slots = threads - 1};
    pthread_mutex_lock(&pool->mutex);
    if (!pool->loops) /* otherwise the helpers are awake already */
        avoid_processor_of_caller(pool);
    l.following = pool->loops;
    pool->loops = &l;
    for (int i = 0; i < l.open_slots; i++)
        pthread_cond_signal(&pool->has_work);
    run_indices(pool, &l);
    while (l.running > 0)
        pthread_cond_wait(&pool->has_left, &pool->mutex);
    loop **link = &pool->loops;
    while (*link != &l)
        link = &(*link)->following;
    *link = l.following;
    pthread_mutex_unlock(&pool->mutex);
}

#ifdef __linux__
#define _GNU_SOURCE /* for the affinity of threads */
#include <sched.h>
#endif

#include "team.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

/* A loop in progress; it lives on the stack of the thread that asked for it. */
typedef struct loop {
    void (*body)(void *, int);
    void *context;
    int next, count;
    int running; /* helpers inside it */
    int places;  /* helpers that may still join */
    struct loop *following;
} loop;

struct team {
    pthread_mutex_t mutex;
    pthread_cond_t has_work, has_left;
    loop *loops;
    bool is_closing;
    int avoided; /* the processor that helpers keep away from; -1 for none */
    int helpers;
    pthread_t threads[];
};

/* Takes the next index under the mutex: a body takes a tenth of a millisecond and more, so nobody queues here. */
static bool take(loop *l, int *i)
{
    if (l->next >= l->count)
        return false;
    *i = l->next++;
    return true;
}

static void work(team *t, loop *l)
{
    int i;
    while (take(l, &i)) {
        pthread_mutex_unlock(&t->mutex);
        l->body(l->context, i);
        pthread_mutex_lock(&t->mutex);
    }
}

static loop *joinable(team *t)
{
    for (loop *l = t->loops; l; l = l->following)
        if (l->places > 0 && l->next < l->count)
            return l;
    return NULL;
}

static void *help(void *argument)
{
    team *t = argument;
    pthread_mutex_lock(&t->mutex);
    while (!t->is_closing) {
        loop *l = joinable(t);
        if (!l) {
            pthread_cond_wait(&t->has_work, &t->mutex);
            continue;
        }
        l->places--;
        l->running++;
        work(t, l);
        if (--l->running == 0)
            pthread_cond_broadcast(&t->has_left);
    }
    pthread_mutex_unlock(&t->mutex);
    return NULL;
}

team *team_new(int helpers)
{
    team *t = calloc(1, sizeof *t + (size_t)helpers * sizeof(pthread_t));
    if (!t)
        return NULL;
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->has_work, NULL);
    pthread_cond_init(&t->has_left, NULL);
    t->avoided = -1;
    for (; t->helpers < helpers; t->helpers++)
        if (pthread_create(&t->threads[t->helpers], NULL, help, t)) {
            team_free(t);
            return NULL;
        }
    return t;
}

void team_free(team *t)
{
    pthread_mutex_lock(&t->mutex);
    t->is_closing = true;
    pthread_cond_broadcast(&t->has_work);
    pthread_mutex_unlock(&t->mutex);
    for (int i = 0; i < t->helpers; i++)
        pthread_join(t->threads[i], NULL);
    pthread_cond_destroy(&t->has_work);
    pthread_cond_destroy(&t->has_left);
    pthread_mutex_destroy(&t->mutex);
    free(t);
}

/* Keeps helpers from waking up on the caller's own processor. Linux puts a thread that slept for some milliseconds next
   to the one that wakes it, even if another processor is idle, and moves it away only after 15 ms and more: longer than
   a click takes, which then has one processor (measured on Linux 6.18 with two virtual processors). */
static void spread(team *t)
{
#ifdef __linux__
    int mine = sched_getcpu();
    cpu_set_t others;
    if (mine < 0 || mine == t->avoided || sched_getaffinity(0, sizeof others, &others) || !CPU_ISSET(mine, &others))
        return;
    CPU_CLR(mine, &others);
    if (CPU_COUNT(&others) == 0)
        return;
    for (int i = 0; i < t->helpers; i++)
        pthread_setaffinity_np(t->threads[i], sizeof others, &others); /* a wish: it may fail */
    t->avoided = mine;
#else
    (void)t;
#endif
}

void team_run(team *t, int threads, int count, void (*body)(void *, int), void *context)
{
    if (threads <= 1 || count <= 1 || t->helpers == 0) {
        for (int i = 0; i < count; i++)
            body(context, i);
        return;
    }
    loop l = {.body = body, .context = context, .count = count, .places = threads - 1};
    pthread_mutex_lock(&t->mutex);
    if (!t->loops) /* else they are at work, each where it is */
        spread(t);
    l.following = t->loops;
    t->loops = &l;
    for (int i = 0; i < l.places; i++)
        pthread_cond_signal(&t->has_work);
    work(t, &l);
    while (l.running > 0)
        pthread_cond_wait(&t->has_left, &t->mutex);
    loop **link = &t->loops;
    while (*link != &l)
        link = &(*link)->following;
    *link = l.following;
    pthread_mutex_unlock(&t->mutex);
}

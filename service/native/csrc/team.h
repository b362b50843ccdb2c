/* Threads that share the loops of decoder calls. */
#ifndef EDGESAM_TEAM_H
#define EDGESAM_TEAM_H

typedef struct team team;

/* Starts `helpers` threads; NULL when the system gives none. Zero helpers are a team, too. */
team *team_new(int helpers);

/* Waits for the helpers to end; no loop may be running. */
void team_free(team *);

/* Calls body(context, i) for every i in [0, count), on the calling thread and on at most `threads` - 1 idle helpers;
 * returns when all are done. May be called from several threads at a time: each call's own thread always makes
 * progress, so none waits for another's loop. */
void team_run(team *, int threads, int count, void (*body)(void *context, int i), void *context);

#endif

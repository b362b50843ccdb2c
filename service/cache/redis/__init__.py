"""Everything that replicas share through Redis: the cache tier, locks, rate buckets and deletions."""

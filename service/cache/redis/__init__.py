"""The Redis backend, which all replicas share: the cache tier, locks, rate buckets and deletions."""

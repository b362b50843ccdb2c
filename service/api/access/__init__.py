"""Access control: API keys, the policy of each route, and rate limits."""

"""Waiting time of a click: queues of several servers with any distribution of service times."""

from math import factorial


def waiting_s(*, rate_per_s: float, service_s: float, servers: int, variation: float) -> float:
    """Return the mean time in the queue by Allen and Cunneen's approximation of M/G/c; infinite if overloaded.

    Args:
        rate_per_s: Rate of random (Poisson) arrivals.
        service_s: Mean service time, in seconds.
        servers: Number of servers.
        variation: Standard deviation of the service time, divided by its mean.
    """
    load = rate_per_s * service_s
    if load >= servers:
        return float("inf")
    return _all_busy(load, servers) * service_s / (servers - load) * (1.0 + variation**2) / 2.0


def _all_busy(load: float, servers: int) -> float:
    """Return the probability that all servers are busy (Erlang C)."""
    top = load**servers / factorial(servers) * servers / (servers - load)
    return top / (sum(load**k / factorial(k) for k in range(servers)) + top)

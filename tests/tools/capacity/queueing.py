"""How long a click waits: queues of several servers with any distribution of service times."""

from math import factorial


def waiting_s(*, rate_per_s: float, service_s: float, servers: int, variation: float) -> float:
    """Mean time in the queue, Allen and Cunneen's approximation of M/G/c; infinite where the load is too much.

    Args:
        rate_per_s: of random (Poisson) arrivals.
        service_s: mean time of service.
        servers: at the same time.
        variation: standard deviation of the service time, divided by its mean.
    """
    load = rate_per_s * service_s
    if load >= servers:
        return float("inf")
    return _all_busy(load, servers) * service_s / (servers - load) * (1.0 + variation**2) / 2.0


def _all_busy(load: float, servers: int) -> float:
    """Erlang's C: the probability that an arrival finds all servers busy."""
    top = load**servers / factorial(servers) * servers / (servers - load)
    return top / (sum(load**k / factorial(k) for k in range(servers)) + top)

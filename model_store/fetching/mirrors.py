"""Addresses of mirrors: which are allowed, how messages show them, and where they may redirect."""

import ipaddress

import httpx


class MirrorError(Exception):
    """The mirror does not have the file; another attempt is useless."""


def mirrored(urls: tuple[str, ...], mirror: str) -> tuple[str, ...]:
    """Return the addresses of the same files at a mirror, which has them under the same paths.

    Args:
        urls: Official addresses.
        mirror: Base address that replaces scheme and host, for instance `https://mirror.example/models`.
    """
    return tuple(mirror.rstrip("/") + httpx.URL(url).path for url in urls)


def shown_url(url: httpx.URL | str) -> str:
    """Return the URL without credentials, query or fragment, which may be secrets that no log may contain."""
    try:
        return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))
    except httpx.InvalidURL:
        return "the given URL"


def url_problem(url: httpx.URL | str) -> str | None:
    """Return the reason why a URL is not allowed, or None: https everywhere, http only to this machine."""
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError) as error:  # the second one from a host that is no IDNA name
        return f"not a URL ({error})"
    if host and (parsed.scheme == "https" or (parsed.scheme == "http" and _is_loopback(host))):
        return None
    return "only https is allowed, and http to this machine"


def refuse_redirect(response: httpx.Response) -> None:
    """Check where a redirect leads, before httpx follows it. From outside, it may not lead into this network."""
    if not response.has_redirect_location:
        return
    try:
        target = response.url.join(response.headers["Location"])
    except (httpx.InvalidURL, UnicodeError) as error:
        raise MirrorError(f"redirected to something that is not a URL ({error})") from error
    problem = url_problem(target)
    if problem is None and _is_private(target.host) and not _is_private(response.url.host):
        problem = "an address inside this network"
    if problem is not None:
        raise MirrorError(f"redirected to {shown_url(target)}: {problem}")
    if isinstance(response.stream, httpx.SyncByteStream):  # httpx would read a body of any length into memory
        response.stream.close()
    response.stream = httpx.ByteStream(b"")


def _is_private(host: str) -> bool:
    """Return whether a host is this machine, or an address that is not of the public internet."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

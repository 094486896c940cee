"""Getting a page from the web for a model, which may ask for anything.

Addresses of this machine and of private networks are refused, at each redirect anew; the
connection goes to the very address that was checked. Bodies are bounded in size and time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

import httpx

from baltoro.tools.tool import ToolError

MAX_REDIRECTS = 5
READABLE = ("text/", "application/json", "application/xml", "application/xhtml+xml")
# All that the public internet has of IPv6. Outside it are old and local uses of every kind, some
# with an address of IPv4 inside.
PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True)
class Page:
    url: str  # after redirects
    kind: str  # content type
    text: str


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ToolError(f"The host '{host}' is not known: {error}.") from None
    return [str(entry[4][0]) for entry in found]


class Fetcher:
    """Gets pages. `allowed` names hosts, as `host` or `host:port`, that may be private."""

    def __init__(
        self,
        *,
        allowed: Collection[str] = (),
        blocked: Collection[str] = (),  # domains that are refused with all below them
        max_bytes: int = 5_000_000,
        max_seconds: float = 30.0,
        resolve: Resolve = resolve,
    ):
        self.allowed = frozenset(allowed)
        self.blocked = tuple(blocked)
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds
        self.resolve = resolve

    async def get(self, url: str) -> Page:
        """The page at an address. Raises `ToolError` with what was wrong."""
        try:
            async with asyncio.timeout(self.max_seconds):
                return await self._follow(url)
        except TimeoutError:
            raise ToolError(f"{url} took longer than {self.max_seconds:g} seconds.") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ToolError(f"{url} could not be read: {error or type(error).__name__}.") from None

    async def _follow(self, url: str) -> Page:
        # No proxy and no variables of the user: they would look up hosts on their own.
        client = httpx.AsyncClient(trust_env=False, timeout=self.max_seconds)
        async with client:
            for _ in range(MAX_REDIRECTS + 1):
                target = httpx.URL(url)
                request = await self._request(client, target)
                response = await client.send(request, stream=True)
                try:
                    if response.is_redirect:
                        url = str(target.join(response.headers["location"]))
                        continue
                    return Page(url, *await self._read(url, response))
                finally:
                    await response.aclose()
        raise ToolError(f"{url} leads on and on: more than {MAX_REDIRECTS} redirects.")

    async def _request(self, client: httpx.AsyncClient, url: httpx.URL) -> httpx.Request:
        """A request to an address that was checked, whatever the name leads to a moment later."""
        if url.scheme not in ("http", "https") or not url.host:
            raise ToolError(f"'{url}' is no http or https address.")
        if any(url.host == each or url.host.endswith(f".{each}") for each in self.blocked):
            raise ToolError(f"The host '{url.host}' is blocked. Use another source.")
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await self.resolve(url.host, port)
        if not {url.host, f"{url.host}:{port}"} & self.allowed:
            for address in addresses:
                if not is_public(address):
                    raise ToolError(
                        f"'{url.host}' is an address of this machine or of a private network. "
                        "Only pages on the public web can be opened."
                    )
        if not addresses:
            raise ToolError(f"The host '{url.host}' has no address.")
        headers = {"Host": url.netloc.decode(), "Accept": "text/html,text/plain,application/json"}
        extensions = {"sni_hostname": url.host} if url.scheme == "https" else {}
        pinned = url.copy_with(host=addresses[0])
        return client.build_request("GET", pinned, headers=headers, extensions=extensions)

    async def _read(self, url: str, response: httpx.Response) -> tuple[str, str]:
        if response.status_code != 200:
            raise ToolError(f"{url} answered {response.status_code} {response.reason_phrase}.")
        kind = response.headers.get("content-type", "text/plain").split(";")[0].strip().lower()
        if not kind.startswith(READABLE):
            raise ToolError(f"{url} is {kind}, which cannot be read here. Find a page in HTML.")
        body = bytearray()
        async for piece in response.aiter_bytes(65536):
            body += piece[: self.max_bytes - len(body)]
            if len(body) >= self.max_bytes:
                break  # the beginning of a huge page is still of use
        try:
            text = body.decode(response.charset_encoding or "utf-8", errors="replace")
        except LookupError:  # a charset that does not exist
            text = body.decode("utf-8", errors="replace")
        return kind, text


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, also one that is wrapped in another."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in ipaddress.ip_network("64:ff9b::/96") or ip in ipaddress.ip_network("::/96"):
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        known = [each for each in inner if each is not None]
        if known:
            return all(each.is_global and not each.is_multicast for each in known)
        return ip.is_global and ip in PUBLIC_IPV6
    return ip.is_global and not ip.is_multicast

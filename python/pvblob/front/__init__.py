"""The blob service over plain HTTP, for every program that speaks Azure's REST API.

The flow: socket → `connection` (aiohttp's parser) → `server` (who is it?) → a `Backend` → `content` → socket.
"""

from pvblob.front.limits import FrontCounters, FrontLimits
from pvblob.front.server import HttpFront

__all__ = ["FrontCounters", "FrontLimits", "HttpFront"]

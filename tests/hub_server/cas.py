"""The API of the Xet storage, first version: the second answers 404, which clients take as "ask the first".

Format: the OpenAPI description in https://github.com/huggingface/xet-core.
"""

import re
import secrets
import time

from starlette.responses import JSONResponse, Response

from .api import ranged_response
from .state import Hub, HubError

_TOKEN_SECONDS = 3600


class Cas:
    """The handlers of the Xet storage and of the tokens that open it.

    Args:
        hub (`hub_server.state.Hub`):
            All state.
    """

    def __init__(self, hub: Hub):
        self.hub = hub

    async def token(self, request) -> Response:
        """A token for the storage, in the body and in headers."""
        scope = request.path_params["scope"]
        if scope == "write":
            self.hub.writable(request)
        else:
            self.hub.downloadable(request)
        token, expiry, url = f"xet_{secrets.token_hex(16)}", int(time.time()) + _TOKEN_SECONDS, f"{self.hub.url}/cas"
        self.hub.xet_tokens[token] = scope
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expiry)}
        return JSONResponse({"casUrl": url, "accessToken": token, "exp": expiry}, headers=headers)

    async def upload_xorb(self, request) -> Response:
        """Keep a xorb."""
        self._check_token(request, "write")
        try:
            inserted = self.hub.storage.xet.add_xorb(request.path_params["hash"], await request.body())
        except (ValueError, OSError) as error:
            raise HubError(400, f"bad xorb: {error}") from error
        return JSONResponse({"was_inserted": inserted})

    async def upload_shard(self, request) -> Response:
        """Register the files of a shard."""
        self._check_token(request, "write")
        try:
            self.hub.storage.xet.add_shard(await request.body())
        except ValueError as error:
            raise HubError(400, f"bad shard: {error}") from error
        return JSONResponse({"result": 1})

    async def reconstruction(self, request) -> Response:
        """How to fetch a file, or the part of it that `Range` names."""
        self._check_token(request, "read")
        file = self.hub.storage.xet.by_hash.get(request.path_params["hash"])
        if file is None:
            raise HubError(404, "no such file")
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        start = int(match[1]) if match else 0
        end = min(int(match[2]) + 1, file.size) if match and match[2] else file.size
        if start >= end:
            raise HubError(416, f"Range Not Satisfiable: {file.size} bytes")
        return JSONResponse(self.hub.storage.xet.reconstruction(file, start, end, f"{self.hub.url}/cas/xorbs/"))

    async def download_xorb(self, request) -> Response:
        """A part of a xorb. Its address is all that it takes, as for an address that was signed."""
        path = self.hub.storage.xet.folder / request.path_params["hash"]
        if not path.is_file():
            raise HubError(404, "no such xorb")
        return ranged_response(request, path.read_bytes(), {})

    def _check_token(self, request, scope: str) -> None:
        allowed = self.hub.xet_tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if allowed is None:
            raise HubError(401, "Missing or expired token")
        if scope == "write" and allowed != "write":
            raise HubError(403, "The token's scope is not enough")

"""Large files for clients without Xet: uploads by git-lfs, in one piece or in parts, and downloads.

The files go to and come from another address than the API's, the storage, which must never get a token of the Hub.

Formats: https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md; the multipart transfer is the Hub's own.
"""

import hashlib

from starlette.responses import JSONResponse, Response

from .api import ranged_response
from .state import Hub, HubError


class Lfs:
    """The handlers of the large-file API.

    Args:
        hub (`hub_server.state.Hub`):
            All state.
    """

    def __init__(self, hub: Hub):
        self.hub = hub

    async def batch(self, request) -> Response:
        """Where to put each file; a file that is already here gets no actions."""
        self.hub.writable(request)
        body = await request.json()
        if body["operation"] != "upload":
            raise HubError(400, "only uploads")
        objects, transfer, size = [], "basic", self.hub.multipart_chunk_size
        for wanted in body["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if not self.hub.storage.has(wanted["oid"]):
                self.hub.storage.announced[wanted["oid"]] = wanted["size"]
                url, upload = f"{self.hub.storage_url}/lfs/{wanted['oid']}", {}
                verify = f"{self.hub.url}/lfs/{wanted['oid']}/verify"
                if wanted["size"] > size and "multipart" in body["transfers"]:
                    transfer = "multipart"
                    parts = range(1, -(-wanted["size"] // size) + 1)
                    header = {"chunk_size": str(size), **{str(part): f"{url}/{part}" for part in parts}}
                    upload = {"href": f"{url}/complete", "header": header}
                else:
                    upload = {"href": url, "header": {}}
                answer["actions"] = {"upload": upload, "verify": {"href": verify, "header": {}}}
            objects.append(answer)
        return JSONResponse({"transfer": transfer, "objects": objects})

    async def upload(self, request) -> Response:
        """One file, or one part of it."""
        self._refuse_token(request)
        oid, data = self._announced(request), await request.body()
        if "part" in request.path_params:
            self.hub.storage.parts.setdefault(oid, {})[request.path_params["part"]] = data
        else:
            self.hub.storage.write(oid, data)
        return Response(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    async def complete(self, request) -> Response:
        """Join the parts."""
        self._refuse_token(request)
        oid, body = self._announced(request), await request.json()
        parts = self.hub.storage.parts.get(oid, {})
        for part in body["parts"]:
            etag = f'"{hashlib.md5(parts.get(part["partNumber"], b"")).hexdigest()}"'
            if part["etag"] != etag:
                raise HubError(400, f"part {part['partNumber']} of {oid} did not come as told")
        self.hub.storage.write(oid, b"".join(parts[number] for number in sorted(parts)))
        del self.hub.storage.parts[oid]
        return JSONResponse({"success": True})

    async def verify(self, request) -> Response:
        """Whether the file is complete."""
        if self.hub.user(request) is None:
            raise HubError(401, "Invalid username or password.")
        oid, body = self._announced(request), await request.json()
        if not self.hub.storage.has(oid) or len(self.hub.storage.read(oid)) != body["size"]:
            raise HubError(404, f"{oid} did not come whole")
        return JSONResponse({"success": True})

    async def download(self, request) -> Response:
        """A large file, complete or in part, for anyone who has the signed address."""
        self._refuse_token(request)
        sha256 = self.hub.signatures.get(request.query_params.get("X-Amz-Signature"))
        if sha256 is None or sha256 != request.path_params["oid"]:
            raise HubError(403, "The signature does not match")
        return ranged_response(request, self.hub.storage.read(sha256), {"ETag": f'"{sha256}"'})

    def _refuse_token(self, request) -> None:
        """The storage takes one kind of proof only, the signed address; a token must not leave the Hub."""
        if "authorization" in request.headers:
            raise HubError(400, "Only one auth mechanism allowed")

    def _announced(self, request) -> str:
        """The file of a request, which a batch request must have announced: otherwise its address is not secret."""
        oid = request.path_params["oid"]
        if oid not in self.hub.storage.announced:
            raise HubError(403, "this address was not given out")
        return oid

"""A hub in memory, which answers the requests of huggingface_hub."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import huggingface_hub
from huggingface_hub.utils import httpx
from huggingface_hub.utils._http import default_client_factory


@dataclass
class Repository:
    """Files of the newest commit, and the messages of all commits."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(len(self.messages)).encode()).hexdigest()


class LocalHub:
    """
    The part of the hub's HTTP interface that sending and fetching a folder needs.

    :param reachable: whether there is a connection
    """

    def __init__(self, reachable: bool = True) -> None:
        self.repositories: dict[str, Repository] = {}
        self.reachable = reachable

    @contextmanager
    def in_use(self) -> Iterator[LocalHub]:
        """huggingface_hub talks to this hub instead of the network."""
        huggingface_hub.set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(self.answer)))
        try:
            yield self
        finally:
            huggingface_hub.set_client_factory(default_client_factory)

    def answer(self, request: Any) -> Any:
        """The response to a request."""
        if not self.reachable:
            raise httpx.ConnectError("no network")
        path = unquote(request.url.path)
        if path == "/api/repos/create":
            return self._create(json.loads(request.content))
        if path == "/api/validate-yaml":
            return httpx.Response(200, json={"errors": [], "warnings": []})
        found = re.match(r"(?:/api/models)?/([\w.-]+/[\w.-]+)(/.*|$)", path)
        if found is None or found[1] not in self.repositories:
            headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            return httpx.Response(404, headers=headers, request=request)
        return self._of_repository(self.repositories[found[1]], found[1], found[2], request)

    def _create(self, wanted: dict[str, Any]) -> Any:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.repositories:
            return httpx.Response(409, json={"url": f"https://huggingface.co/{name}", "error": "exists"})
        self.repositories[name] = Repository(wanted.get("visibility") == "private" or wanted.get("private") is True)
        return httpx.Response(200, json={"url": f"https://huggingface.co/{name}", "name": name})

    def _of_repository(self, repository: Repository, name: str, action: str, request: Any) -> Any:
        if action.startswith("/preupload/"):
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for one in json.loads(request.content)["files"]
            ]
            return httpx.Response(200, json={"files": files})
        if action.startswith("/commit/"):
            for line in map(json.loads, request.content.decode().splitlines()):
                if line["key"] == "header":
                    repository.messages.append(line["value"]["summary"])
                elif line["key"] == "file":
                    repository.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"https://huggingface.co/{name}/commit/{repository.sha}"
            return httpx.Response(200, json={"success": True, "commitOid": repository.sha, "commitUrl": url, "hookOutput": ""})
        if action.startswith("/resolve/"):
            return self._file(repository, action.split("/", 3)[3], request)
        if action.startswith("/tree/"):
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in repository.files.items()
            ]
            return httpx.Response(200, json=entries)
        siblings = [{"rfilename": path} for path in repository.files]
        return httpx.Response(200, json={"id": name, "sha": repository.sha, "siblings": siblings})

    def _file(self, repository: Repository, path: str, request: Any) -> Any:
        content = repository.files[path]
        headers = {
            "X-Repo-Commit": repository.sha,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Content-Length": str(len(content)),
        }
        return httpx.Response(200, headers=headers, content=b"" if request.method == "HEAD" else content)

"""A small W&B server: the calls that the SDK makes for runs, their files, artifacts and reports, kept in memory.

What the SDK sends was seen on wandb 0.31 and wandb-workspaces 0.4. A call that is not known here is answered with an
error, so that a test notices it.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


class Server:
    """Listens on a free port of this machine while entered; `url` is for WANDB_BASE_URL.

    runs: what arrived, by run id: upsert (merged variables), config, history (rows), events (system metrics), summary,
    files, complete, exit_code, sessions (how often it was begun). artifacts: by name, type, run, files by path.
    reports: the upserted views. calls: the names of all calls.
    Faults: `delay`, seconds, makes every answer late; and, once `after` calls are answered as they should be, `status`
    is the answer to every other one, or, `silent`, there is none, as where a network is gone.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.unknown: list[str] = []
        self.after, self.status, self.silent, self.delay = 0, 200, False, 0.0
        self.gone = threading.Event()
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Server:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gone.set()
        self._http.shutdown()
        self._http.server_close()

    def run(self, name: str) -> dict[str, Any]:
        """What is known of a run; begun where it is new."""
        empty: dict[str, Any] = {"upsert": {}, "config": {}, "history": [], "events": [], "summary": {}, "files": {}}
        return self.runs.setdefault(name, empty | {"complete": False, "exit_code": None, "sessions": 0})

    def graphql(self, name: str, given: Mapping[str, Any]) -> Any:
        """The data that answers a call; None for one that is not known."""
        project = {"id": "project", "name": "project", "entityName": "me", "entity": {"id": "entity", "name": "me"}}
        answer = getattr(self, f"_{name}", None)
        return answer(given, project) if answer else None

    def _Viewer(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        teams = {"edges": [{"node": {"name": "me"}}]}
        return {"viewer": {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": teams}}

    _GetDefaultEntity = _Viewer

    def _ServerFeaturesQuery(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        return {"entity": {"organization": None}}

    def _RunResumeStatus(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        run = self.runs.get(given["name"])
        if run is None:
            return {"model": {**project, "bucket": None}}
        bucket = {"id": given["name"], "name": given["name"], "displayName": given["name"], "tags": [], "notes": None}
        bucket |= {
            "summaryMetrics": json.dumps(run["summary"]),
            "config": json.dumps({key: {"value": value} for key, value in run["config"].items()}),
        }
        bucket |= {"historyLineCount": len(run["history"]), "logLineCount": 0, "eventsLineCount": len(run["events"])}
        bucket |= {"historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]), "eventsTail": "[]"}
        return {"model": {**project, "bucket": bucket | {"wandbConfig": json.dumps({"t": 1})}}}

    def _UpsertBucket(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        inserted = given["name"] not in self.runs
        run = self.run(given["name"])
        run["sessions"] += given.get("host") is not None
        run["upsert"] |= {key: value for key, value in given.items() if value is not None}
        for key, value in json.loads(given.get("config") or "{}").items():
            run["config"][key] = value["value"]
        bucket = {"id": given["name"], "name": given["name"], "displayName": given["displayName"], "description": None}
        bucket |= {"config": given.get("config"), "sweepName": None, "project": project}
        bucket |= {"historyLineCount": len(run["history"])}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _CreateRunFiles(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.url}/put/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        asked = given["input"]
        made: dict[str, Any] = {"name": asked["artifactCollectionName"], "type": asked["artifactTypeName"]}
        made |= {"run": asked.get("runName"), "digest": asked["digest"], "files": {}, "committed": False}
        self.artifacts.append(made)
        number = str(len(self.artifacts) - 1)
        artifact = {"id": number, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        url = f"{self.url}/artifact/{given['artifactID']}/manifest"
        file = {"id": "file", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": file}}}

    _UpdateArtifactManifest = None

    def _CreateArtifactFiles(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        edges = []
        for file in given["input"]["artifactFiles"]:
            number = file["artifactID"]
            node = {"storagePath": f"{number}/{file['name']}", "uploadHeaders": [], "uploadMultipartUrls": None}
            node |= {"uploadUrl": f"{self.url}/artifact/{number}/files/{file['name']}", "artifact": {"id": number}}
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        made = self.artifacts[int(given["artifactID"])]
        made["committed"] = True
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": made["digest"]}}}

    def _ProjectInternalId(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        return {"project": {"id": "project", "internalId": "project"}}

    def _GetProjects(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        node = {"__typename": "Project", "id": "project", "name": "flare-sweeps", "entityName": "me", "user": None}
        node |= {"createdAt": "2026-01-01T00:00:00", "isBenchmark": False}
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": node}]}}

    def _upsertView(self, given: Mapping[str, Any], project: Mapping[str, Any]) -> Any:
        self.reports.append(dict(given))
        view = {"id": "VmlldzoxMjM=", "name": given["name"], "displayName": given["displayName"], "project": project}
        view |= {"type": given["type"], "description": given["description"], "spec": given["spec"], "updatedAt": None}
        return {"upsertView": {"view": view, "inserted": True}}

    def put(self, path: str, body: bytes) -> Any:
        """Take a file of a run or of an artifact."""
        kind, name, rest = unquote(path.split("?")[0]).lstrip("/").split("/", 2)
        if kind == "put":
            self.run(name)["files"][rest] = body
        else:
            self.artifacts[int(name)]["files"][rest.removeprefix("files/")] = body
        return {}

    def stream(self, run: str, sent: Mapping[str, Any]) -> None:
        """Take a post of the file stream: lines from an offset on."""
        known = self.run(run)
        for name, chunk in sent.get("files", {}).items():
            lines = [json.loads(line) if name != "output.log" else line for line in chunk["content"]]
            if name == "wandb-summary.json":
                known["summary"] = lines[-1]
            elif name in ("wandb-history.jsonl", "wandb-events.jsonl"):
                rows = known[name[6:].removesuffix(".jsonl")]
                rows[chunk["offset"] : chunk["offset"] + len(lines)] = lines
        if sent.get("complete"):
            known["complete"], known["exit_code"] = True, sent.get("exitcode")


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None: ...  # the SDK left without a word


class _Handler(BaseHTTPRequestHandler):
    """One connection; what it does is the server's."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def _answer(self) -> None:
        owner: Server = self.server.owner  # type: ignore[attr-defined]
        body = self._body()
        stream = re.fullmatch(r"/files/[^/]*/[^/]*/([^/]+)/file_stream", self.path)
        asked = json.loads(body) if self.path == "/graphql" else {}
        owner.gone.wait(owner.delay)
        if owner.silent and len(owner.calls) >= owner.after:
            owner.gone.wait()
            self.close_connection = True
            return
        with owner._lock:
            named = re.search(r"(?:query|mutation)\s+(\w+)", asked.get("query", ""))
            name = named[1] if named else f"{self.command} {self.path.split('?')[0]}"
            owner.calls.append(name)
            if owner.status != 200 and len(owner.calls) > owner.after:
                return self._send({"errors": [{"message": "broken for a test"}]}, owner.status)
            if stream:
                owner.stream(stream[1], json.loads(body))
                return self._send({"exitcode": None, "limits": {}})
            if self.command == "PUT":
                return self._send(owner.put(self.path, body))
            if asked:
                data = owner.graphql(name, asked.get("variables") or {})
                if data is not None:
                    return self._send({"data": data})
                owner.unknown.append(asked["query"])
            self._send({"errors": [{"message": "not known here"}]}, 400 if asked else 404)

    do_GET = do_POST = do_PUT = _answer

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, content: Any, status: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

"""What the loopback Hub answers: one function per route. The protocol is the one that
huggingface_hub 2.4 was seen to speak.
"""

import base64
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from loopback.store import SDKS, SEVERAL, Commit, File, Refusal, Repo, User, card_data
from loopback.xet import FAR

LARGE = (
    ".safetensors",
    ".parquet",
    ".bin",
    ".onnx",
    ".png",
    ".jpg",
    ".npz",
    ".pt2",
    ".arrow",
    ".zip",
)
REGULAR_LIMIT = 10 * 2**20


@dataclass(frozen=True)
class Request:
    """A request, read completely; `path` is raw, with its query."""

    method: str
    path: str
    headers: Any
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        """The last value of every parameter."""
        return {name: values[-1] for name, values in parse_qs(self.path.partition("?")[2]).items()}

    def json(self) -> dict:
        """The body."""
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: object, status: int = 200, headers: dict | None = None) -> "Answer":
        """Any JSON value."""
        return cls(
            json.dumps(value).encode(),
            status,
            {"Content-Type": "application/json; charset=utf-8"} | (headers or {}),
        )

    @classmethod
    def refusal(cls, error: Refusal) -> "Answer":
        """An error as the Hub sends it."""
        headers = (
            {"X-Error-Message": error.message}
            | ({"X-Error-Code": error.code} if error.code else {})
            | error.headers
        )
        return cls.json({"error": error.message} | error.extra, error.status, headers)


ROUTES: list[tuple[str, re.Pattern, Callable]] = []
PLACES = {
    "type": "models|datasets|spaces",
    "repo": "[^/]+/[^/]+",
    "path": ".+",
    "kind": "read|write",
}


def route(methods: str, pattern: str) -> Callable:
    """Register a function; `{rev}` takes one segment of the RAW path (a quoted slash is inside it),
    `[..]` may be missing.
    """
    pattern = pattern.replace("[", "(?:").replace("]", ")?")
    pattern = re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{PLACES.get(m[1], '[^/]+')})", pattern)

    def register(function: Callable) -> Callable:
        ROUTES.append((methods, re.compile(pattern), function))
        return function

    return register


def respond(hub: Any, request: Request) -> Answer:
    """The answer to a request; `hub` is a HubServer."""
    raw = request.path.partition("?")[0]
    try:
        user = hub.store.user(request.headers.get("Authorization"))
        for methods, pattern, function in ROUTES:
            if request.method in methods.split() and (found := pattern.fullmatch(raw)):
                groups = {
                    name: unquote(value) if value else value
                    for name, value in found.groupdict().items()
                }
                with hub.store.lock:
                    return function(hub, request, user, **groups)
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")
    except Refusal as error:
        return Answer.refusal(error)


@route("GET", "/api/whoami-v2")
def whoami(hub: Any, request: Request, user: User | None) -> Answer:
    """Who the token is of."""
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    auth = {
        "type": "access_token",
        "accessToken": {"displayName": "test", "role": "write" if user.write else "read"},
    }
    orgs = [{"type": "org", "name": name} for name in user.orgs]
    return Answer.json(
        {
            "type": "user",
            "id": user.name,
            "name": user.name,
            "fullname": user.name,
            "orgs": orgs,
            "auth": auth,
        }
    )


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: Any, request: Request, user: User | None) -> Answer:
    """Whether a README's metadata can be read and has no null in its lists; the real Hub checks
    more.
    """
    try:
        data = card_data(request.json()["content"])
        bad = [name for name, value in data.items() if isinstance(value, list) and None in value]
        errors = [{"message": f'"{name}" must not contain null'} for name in bad]
    except ValueError as error:
        errors = [{"message": str(error)}]
    return Answer.json(
        {"errors": errors, "warnings": []} if errors else {"warnings": []}, 400 if errors else 200
    )


def location(repo: Repo) -> str:
    """The path of a repository's page."""
    return f"/{'' if repo.type == 'models' else repo.type + '/'}{repo.id}"


def wanted(user: User | None, data: dict) -> tuple[str, str]:
    """Type and id of the repository that a request for the user's own repositories names."""
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    id = f"{data.get('organization') or user.name}/{data['name']}"
    if not user.write or not user.owns(id):
        raise Refusal(
            403,
            "You don't have the rights to create a model under the namespace"
            f' "{id.split("/")[0]}"',
        )
    return SEVERAL[data.get("type") or "model"], id


@route("POST", "/api/repos/create")
def create(hub: Any, request: Request, user: User | None) -> Answer:
    """A new repository; 409 with its url where it exists."""
    data = request.json()
    type, id = wanted(user, data)
    if not re.fullmatch(r"[\w.-]{1,96}", data["name"]) or re.search(
        r"--|\.\.|\.git$|^[-.]|[-.]$", data["name"]
    ):
        raise Refusal(400, f"Invalid repo name: {data['name']}")
    existing = hub.store.repos.get((type, id))
    if existing:
        raise Refusal(409, "You already created this repo", url=hub.url + location(existing))
    if type == "spaces" and data.get("sdk") not in SDKS:
        raise Refusal(400, f"sdk must be one of {', '.join(SDKS)}")
    repo = hub.store.repos[type, id] = Repo(
        type, id, data.get("visibility") == "private", user.name, sdk=data.get("sdk")
    )
    return Answer.json({"url": hub.url + location(repo), "name": id, "id": id})


@route("DELETE", "/api/repos/delete")
def delete(hub: Any, request: Request, user: User | None) -> Answer:
    """The repository is gone."""
    type, id = wanted(user, request.json())
    hub.store.writable(user, type, id)
    del hub.store.repos[type, id]
    return Answer.json({})


@route("PUT", "/api/{type}/{repo}/settings")
def settings(hub: Any, request: Request, user: User | None, type: str, repo: str) -> Answer:
    """Private or public, gated or not."""
    found, data = hub.store.writable(user, type, repo), request.json()
    found.private = data.get("visibility", "private" if found.private else "public") == "private"
    found.gated = data.get("gated", found.gated)
    return Answer.json({"private": found.private, "gated": found.gated})


@route("POST", "/api/{type}/{repo}/preupload/{rev}")
def preupload(
    hub: Any, request: Request, user: User | None, type: str, repo: str, rev: str
) -> Answer:
    """How each file is to be sent, and what is there already."""
    by_pull_request = "create_pr" in request.query
    files = hub.store.writable(user, type, repo, by_pull_request=by_pull_request).commit(rev).files

    def mode(file: dict) -> str:
        large = file["path"].endswith(LARGE) or file["size"] > REGULAR_LIMIT
        return "lfs" if large and not hub.regular_only else "regular"

    return Answer.json(
        {
            "files": [
                {"path": f["path"], "uploadMode": mode(f), "shouldIgnore": False}
                | ({"oid": files[f["path"]].etag} if f["path"] in files else {})
                for f in request.json()["files"]
            ]
        }
    )


@route("POST", "/[(?P<prefix>datasets|spaces)/]{repo}\\.git/info/lfs/objects/batch")
def lfs_batch(
    hub: Any, request: Request, user: User | None, prefix: str | None, repo: str
) -> Answer:
    """Signed URLs for the large files that are not there yet; in parts where `hub.part_size` says
    so.
    """
    type, objects = prefix or "models", []
    found = hub.store.writable(user, type, repo, by_pull_request=True)
    for item in request.json()["objects"]:
        oid, size = item["oid"], item["size"]
        answer = {"oid": oid, "size": size}
        if oid not in found.objects:
            url = f"{hub.url}/lfs/{hub.store.ticket('upload', found, oid, {})}"
            upload: dict = {"href": url}
            if hub.part_size and size > hub.part_size:
                parts = range(1, math.ceil(size / hub.part_size) + 1)
                upload["header"] = {"chunk_size": str(hub.part_size)} | {
                    str(n): f"{url}/{n}" for n in parts
                }
            answer["actions"] = {
                "upload": upload,
                "verify": {"href": f"{hub.url}/api/{type}/{repo}/lfs-verify"},
            }
        objects.append(answer)
    return Answer.json({"transfer": "multipart" if hub.part_size else "basic", "objects": objects})


@route("PUT POST", "/lfs/{ticket}[/{part}]")
def lfs_put(hub: Any, request: Request, user: User | None, ticket: str, part: str | None) -> Answer:
    """The bytes of a large file, of one part of it (PUT), or the end of the parts (POST)."""
    kind, repo, oid, parts = hub.store.tickets.get(ticket, (None,) * 4)
    if kind != "upload":
        raise Refusal(403, "The signature of the URL does not match")
    etag = File(request.body).oid
    if request.method == "PUT" and part:
        parts[int(part)] = (request.body, etag)
    elif request.method == "PUT":
        repo.objects[oid] = request.body
    else:
        claimed = {p["partNumber"]: p["etag"].strip('"') for p in request.json()["parts"]}
        if claimed != {number: etag for number, (_, etag) in parts.items()}:
            raise Refusal(400, "Parts are missing or have another ETag")
        repo.objects[oid] = b"".join(parts[number][0] for number in sorted(parts))
    return Answer(headers={"ETag": f'"{etag}"'})


@route("POST", "/api/{type}/{repo}/lfs-verify")
def lfs_verify(hub: Any, request: Request, user: User | None, type: str, repo: str) -> Answer:
    """Whether what arrived is what was announced; it is thrown away where not."""
    data = request.json()
    hub.store.writable(user, type, repo, by_pull_request=True).uploaded(data["oid"], data["size"])
    return Answer.json({})


@route("GET", "/api/{type}/{repo}/xet-{kind}-token/{rev}")
def xet_token(
    hub: Any, request: Request, user: User | None, type: str, repo: str, kind: str, rev: str
) -> Answer:
    """Where hf_xet finds its storage: a local folder."""
    if hub.xet is None:
        raise Refusal(404, "Xet is not enabled on this server")
    if kind == "write":
        hub.store.writable(user, type, repo, by_pull_request="create_pr" in request.query)
        url = hub.xet.write_url()
    else:
        files = hub.store.readable(user, type, repo).commit(rev).files
        url = hub.xet.read_url([file for file in files.values() if file.xet])
    headers = {
        "X-Xet-Cas-Url": url,
        "X-Xet-Access-Token": "xet",
        "X-Xet-Token-Expiration": str(FAR),
    }
    return Answer.json({"accessToken": "xet", "exp": FAR, "casUrl": url}, headers=headers)


def changed(hub: Any, repo: Repo, files: dict[str, File], key: str, value: dict) -> None:
    """Apply one line of a commit to `files`."""
    path = value["path"]
    if key in ("deletedFile", "deletedFolder"):
        gone = [
            p
            for p in files
            if p == path or (key == "deletedFolder" and p.startswith(path.rstrip("/") + "/"))
        ]
        if not gone:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound")
        for name in gone:
            del files[name]
        return
    if not path or path.startswith("/") or {"", ".", "..", ".git"} & set(path.split("/")):
        raise Refusal(400, f"Invalid path: {path}")
    if key == "lfsFile":
        known = {f.sha256: f.xet for c in repo.commits.values() for f in c.files.values() if f.lfs}
        xet = known.get(value["oid"])
        if value["oid"] not in repo.objects and hub.xet is not None:
            xet = hub.xet.take(repo, value["oid"], value["size"])
        files[path] = File(repo.uploaded(value["oid"], value.get("size")), lfs=True, xet=xet)
        return
    data = (
        base64.b64decode(value["content"])
        if value.get("encoding") == "base64"
        else value["content"].encode()
    )
    if len(data) > REGULAR_LIMIT and not hub.regular_only:
        raise Refusal(400, f"{path} is larger than 10 MiB: use LFS")
    files[path] = File(data)


@route("POST", "/api/{type}/{repo}/commit/{rev}")
def commit(hub: Any, request: Request, user: User | None, type: str, repo: str, rev: str) -> Answer:
    """Add, replace and delete files, all or nothing; on a new pull request with ?create_pr=1."""
    by_pull_request = "create_pr" in request.query
    found = hub.store.writable(
        user, type, repo, by_pull_request=by_pull_request or rev.startswith("refs/pr/")
    )
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    head, files = found.commit(rev), dict(found.commit(rev).files)
    if header.get("parentCommit", head.oid) != head.oid:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    ref = found.ref(rev)
    if ref is None or ref.startswith("refs/tags/"):
        raise Refusal(400, f"{rev} is not a branch")
    for line in lines:
        if line["key"] != "header":
            changed(hub, found, files, line["key"], line["value"])
    answer = {}
    if by_pull_request:
        number = found.discuss(
            user.name, header["summary"], header.get("description", ""), True, rev
        )["num"]
        ref, answer = (
            f"refs/pr/{number}",
            {"pullRequestUrl": f"{hub.url}{location(found)}/discussions/{number}"},
        )
    new = found.add(
        ref, Commit(files, header["summary"], user.name, header.get("description", ""), head.oid)
    )
    url = f"{hub.url}{location(found)}/commit/{new.oid}"
    return Answer.json(
        answer | {"success": True, "commitOid": new.oid, "commitUrl": url, "hookOutput": ""}
    )


def page(hub: Any, request: Request, items: list) -> Answer:
    """A part of a list, with a link to the next one."""
    start = int(request.query.get("cursor", 0))
    headers, end = {}, start + hub.page_size
    if end < len(items):
        bare = re.sub(r"[?&]cursor=\d+", "", request.path)
        headers["Link"] = (
            f"<{hub.url}{quote(bare, safe='/?&=%')}{'&' if '?' in bare else '?'}cursor={end}>;"
            ' rel="next"'
        )
    return Answer.json(items[start:end], headers=headers)

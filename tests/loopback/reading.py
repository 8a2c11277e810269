"""What the loopback Hub answers to those who read: information, listings, refs, discussions,
downloads. See loopback/routes.py for writing.
"""

import re
from typing import Any
from urllib.parse import parse_qs, quote

from loopback.routes import Answer, Request, page, route
from loopback.store import Commit, File, Refusal, Repo, User

FILE_HEADERS = {"Accept-Ranges": "bytes", "Access-Control-Expose-Headers": "*"}


def entry(path: str, file: File | None, commit: Commit, expand: bool = False) -> dict:
    """A line of a listing; a folder where there is no file."""
    if file is None:
        found: dict = {"type": "directory", "path": path, "size": 0, "oid": File(path.encode()).oid}
    else:
        found = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
        if file.lfs:
            found["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
        if file.xet:
            found["xetHash"] = file.xet
    if expand:  # simplified: the commit that was asked for, not the one that changed the file
        found["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
    return found


def sibling(path: str, file: File) -> dict:
    """A file of repository information with blobs=true."""
    found: dict = {"rfilename": path, "size": file.size, "blobId": file.oid}
    if file.lfs:
        found["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    return found


def described(repo: Repo, commit: Commit, blobs: bool = False) -> dict:
    """What the Hub says about a repository."""
    card = commit.card()
    tags = [*card.get("tags", []), *([card["library_name"]] if "library_name" in card else [])]
    tags += [f"license:{card['license']}"] if "license" in card else []
    found = {
        "_id": repo.id,
        "id": repo.id,
        "author": repo.id.split("/")[0],
        "sha": commit.oid,
        "lastModified": commit.date,
    }
    found |= {
        "createdAt": repo.created,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
    }
    found |= {
        "tags": tags,
        "cardData": card,
        "usedStorage": sum(f.size for f in commit.files.values()),
    }
    found |= {name: card[name] for name in ("library_name", "pipeline_tag", "sdk") if name in card}
    found["siblings"] = [
        sibling(p, f) if blobs else {"rfilename": p} for p, f in sorted(commit.files.items())
    ]
    return found


@route("GET", "/api/{type}")
def search(hub: Any, request: Request, user: User | None, type: str) -> Answer:
    """All repositories that this user may see; `author` and `search` select."""
    asked = request.query
    found = [
        r
        for (t, _), r in sorted(hub.store.repos.items())
        if t == type and (not r.private or (user and user.owns(r.id)))
    ]
    found = [
        r
        for r in found
        if asked.get("author") in (None, r.id.split("/")[0])
        and asked.get("search", "").lower() in r.id.lower()
    ]
    return page(hub, request, [described(r, r.commit()) for r in found])


@route("GET", "/api/{type}/{repo}[/revision/{rev}]")
def info(
    hub: Any, request: Request, user: User | None, type: str, repo: str, rev: str | None
) -> Answer:
    """model_info, dataset_info; all fields, whatever `expand` says."""
    found = hub.store.readable(user, type, repo)
    return Answer.json(
        described(
            found,
            found.commit(rev or "main"),
            request.query.get("blobs", "").lower() in ("1", "true"),
        )
    )


@route("GET HEAD", "/api/{type}/(?P<name>[^/]+)")
def nameless(hub: Any, request: Request, user: User | None, type: str, name: str) -> Answer:
    """Old ids without a user, which this Hub does not have."""
    return Answer.refusal(Refusal(404 if user else 401, "Repository not found", "RepoNotFound"))


@route("GET", "/api/{type}/{repo}/tree/{rev}[/{path}]")
def tree(
    hub: Any, request: Request, user: User | None, type: str, repo: str, rev: str, path: str | None
) -> Answer:
    """Files and folders, in one folder or below it."""
    found = hub.store.readable(user, type, repo).commit(rev)
    recursive, expand = (
        request.query.get(name, "").lower() in ("1", "true") for name in ("recursive", "expand")
    )
    folder = path.strip("/") + "/" if path else ""
    if folder and folder[:-1] not in found.folders():
        raise Refusal(404, "Entry not found", "EntryNotFound", headers={"X-Repo-Commit": found.oid})
    below = {p: None for p in found.folders()} | found.files
    below = {
        p: f
        for p, f in below.items()
        if p.startswith(folder) and (recursive or "/" not in p[len(folder) :])
    }
    return page(hub, request, [entry(p, f, found, expand) for p, f in sorted(below.items())])


@route("POST", "/api/{type}/{repo}/paths-info/{rev}")
def paths_info(
    hub: Any, request: Request, user: User | None, type: str, repo: str, rev: str
) -> Answer:
    """The given files and folders; what does not exist is left out."""
    found = hub.store.readable(user, type, repo).commit(rev)
    if "json" in request.headers.get("Content-Type", ""):
        paths, expand = request.json()["paths"], bool(request.json().get("expand"))
    else:
        form = parse_qs(request.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", [""])[-1].lower() == "true"
    known = {p: None for p in found.folders()} | found.files
    return Answer.json([entry(p, known[p], found, expand) for p in paths if p in known])


@route("GET", "/api/{type}/{repo}/commits/{rev}")
def commits(
    hub: Any, request: Request, user: User | None, type: str, repo: str, rev: str
) -> Answer:
    """The history, newest first."""
    history = hub.store.readable(user, type, repo).history(rev)
    found = (
        {
            "id": c.oid,
            "title": c.title,
            "message": c.message,
            "date": c.date,
            "authors": [{"user": c.author}],
        }
        for c in history
    )
    return page(hub, request, list(found))


@route("GET", "/api/{type}/{repo}/refs")
def refs(hub: Any, request: Request, user: User | None, type: str, repo: str) -> Answer:
    """Branches, tags, and pull requests if asked."""
    found = hub.store.readable(user, type, repo)

    def starting(prefix: str) -> list[dict]:
        names = [name for name in found.refs if name.startswith(prefix)]
        return [
            {"name": n.removeprefix(prefix), "ref": n, "targetCommit": found.refs[n]} for n in names
        ]

    answer = {"branches": starting("refs/heads/"), "converts": [], "tags": starting("refs/tags/")}
    return Answer.json(
        answer | ({"pullRequests": starting("refs/pr/")} if "include_prs" in request.query else {})
    )


@route("POST DELETE", "/api/{type}/{repo}/(?P<what>branch|tag)/{rev}")
def name_commit(
    hub: Any, request: Request, user: User | None, type: str, repo: str, what: str, rev: str
) -> Answer:
    """Create or delete a branch (its name is in the path) or a tag (to create one the path has the
    revision, the body its name).
    """
    found, data = (
        hub.store.writable(user, type, repo),
        request.json() if request.method == "POST" else {},
    )
    kind, name = ("heads", rev) if what == "branch" else ("tags", data.get("tag", rev))
    ref = f"refs/{kind}/{name}"
    if request.method == "DELETE":
        if ref not in found.refs:
            raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        if ref == "refs/heads/main":
            raise Refusal(403, "Cannot delete main")
        del found.refs[ref]
        return Answer.json({})
    if ref in found.refs:
        raise Refusal(409, f"Reference already exists: {name}")
    found.refs[ref] = found.commit(rev if what == "tag" else data.get("startingPoint", "main")).oid
    return Answer.json({"url": f"{hub.url}/{repo}"})


@route("GET POST", "/api/{type}/{repo}/discussions")
def discussions(hub: Any, request: Request, user: User | None, type: str, repo: str) -> Answer:
    """Open one, or list them."""
    if request.method == "GET":
        found = hub.store.readable(user, type, repo).discussions
        return Answer.json({"discussions": found, "count": len(found), "start": 0})
    found, data = hub.store.writable(user, type, repo, by_pull_request=True), request.json()
    return Answer.json(
        found.discuss(
            user.name, data["title"], data.get("description", ""), bool(data.get("pullRequest"))
        )
    )


@route("GET", "/api/{type}/{repo}/discussions/{number}")
def discussion(
    hub: Any, request: Request, user: User | None, type: str, repo: str, number: str
) -> Answer:
    """One of them."""
    for found in hub.store.readable(user, type, repo).discussions:
        if str(found["num"]) == number:
            return Answer.json(found)
    raise Refusal(404, "Discussion not found")


@route("POST", "/api/{type}/{repo}/discussions/{number}/merge")
def merge(
    hub: Any, request: Request, user: User | None, type: str, repo: str, number: str
) -> Answer:
    """What a pull request changed, on main."""
    found = hub.store.writable(user, type, repo)
    head, base = found.commit(f"refs/pr/{number}"), found.commit()
    start = next(c for c in found.history(head.oid) if c in found.history())
    files = {p: f for p, f in base.files.items() if p in head.files or p not in start.files}
    files |= {p: f for p, f in head.files.items() if start.files.get(p) != f}
    new = found.add("refs/heads/main", Commit(files, head.title, user.name, parent=base.oid))
    found.discussions[int(number) - 1] |= {"status": "merged"}
    found.discussions[int(number) - 1]["changes"]["mergeCommitId"] = new.oid
    return Answer.json({"newStatus": "merged"})


def ranged(request: Request, data: bytes, headers: dict) -> Answer:
    """The content, or the part of it that a Range header asks for."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if not found or found.group(0) == "bytes=-":
        return Answer(data, 200, headers)
    first, last = found.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    end = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= end:
        return Answer(b"", 416, headers | {"Content-Range": f"bytes */{len(data)}"})
    return Answer(
        data[start:end], 206, headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
    )


@route("GET HEAD", "/[(?P<prefix>datasets|spaces)/]{repo}/resolve/{rev}/{path}")
def resolve(
    hub: Any,
    request: Request,
    user: User | None,
    prefix: str | None,
    repo: str,
    rev: str,
    path: str,
) -> Answer:
    """A file. Elsewhere: /api/resolve-cache with `hub.resolve_cache` (small files), `hub.cdn`
    (large files).
    """
    type = prefix or "models"
    found = hub.store.readable(user, type, repo)
    commit, file = found.commit(rev), found.file(path, rev)
    if found.gated and not (user and user.owns(repo)):
        raise Refusal(403 if user else 401, f"Access to {repo} is restricted", "GatedRepo")
    headers = {
        "X-Repo-Commit": commit.oid,
        "ETag": f'"{file.etag}"',
        "Content-Type": "application/octet-stream",
    } | FILE_HEADERS
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    if file.xet and hub.xet is not None:
        headers["X-Xet-Hash"] = file.xet
        headers["X-Xet-Refresh-Route"] = f"{hub.url}/api/{type}/{repo}/xet-read-token/{commit.oid}"
    if file.lfs and hub.cdn:
        return Answer(
            b"",
            302,
            headers | {"Location": f"{hub.cdn.url}/signed/{hub.store.ticket('download', file)}"},
        )
    if not file.lfs and hub.resolve_cache:
        return Answer(
            b"",
            307,
            headers | {"Location": f"/api/resolve-cache/{type}/{repo}/{commit.oid}/{quote(path)}"},
        )
    return ranged(request, file.data, headers)


@route("GET HEAD", "/api/resolve-cache/{type}/{repo}/{rev}/{path}")
def resolve_cache(
    hub: Any, request: Request, user: User | None, type: str, repo: str, rev: str, path: str
) -> Answer:
    """Where the real Hub sends those who want a small file."""
    file = hub.store.readable(user, type, repo).file(path, rev)
    return ranged(
        request, file.data, {"X-Repo-Commit": rev, "ETag": f'"{file.etag}"'} | FILE_HEADERS
    )


@route("GET HEAD", "/signed/{ticket}")
def signed(hub: Any, request: Request, user: User | None, ticket: str) -> Answer:
    """A large file, for whoever has the URL."""
    kind, file = (*hub.store.tickets.get(ticket, (None,)), None)[:2]
    if kind != "download":
        raise Refusal(403, "The signature of the URL does not match")
    return ranged(request, file.data, {"ETag": f'"{file.sha256}"'} | FILE_HEADERS)

"""What the loopback Hub of the tests keeps, without any HTTP: users, repositories, commits, refs,
discussions, large files.
"""

import datetime
import hashlib
import itertools
import re
import secrets
import threading
from dataclasses import dataclass, field
from functools import cached_property

import yaml

SEVERAL = {"model": "models", "dataset": "datasets", "space": "spaces"}
SDKS = ("gradio", "streamlit", "docker", "static")  # of Spaces
INVALID = "Invalid credentials in Authorization header"
_counter = itertools.count()


class Refusal(Exception):
    """An answer that is an error as the Hub words it; `code` becomes X-Error-Code, `extra` goes
    into the JSON.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        headers: dict | None = None,
        **extra,
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.headers, self.extra = (
            status,
            message,
            code,
            headers or {},
            extra,
        )


def now() -> str:
    """The time as the Hub writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def card_data(text: str) -> dict:
    """The front matter of a README; ValueError where it cannot be read."""
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|$)", text, re.DOTALL)
    try:
        data = yaml.safe_load(found.group(1)) if found else {}
    except yaml.YAMLError as error:
        raise ValueError(f"Invalid YAML: {error}") from error
    if not isinstance(data or {}, dict):
        raise ValueError("The front matter must be a mapping")
    return data or {}


def require_runnable(files: dict[str, "File"]) -> None:
    """Refuse the README of a Space whose metadata do not say by what it is run."""
    try:
        data = card_data(files["README.md"].data.decode()) if "README.md" in files else {}
    except ValueError as error:
        raise Refusal(400, f"Invalid metadata in README.md: {error}") from error
    if data.get("sdk") not in SDKS:
        raise Refusal(400, f'Invalid metadata in README.md: "sdk" is none of {", ".join(SDKS)}')
    if not isinstance(data.get("sdk_version", ""), str):
        raise Refusal(400, 'Invalid metadata in README.md: "sdk_version" must be a string')


@dataclass(frozen=True)
class User:
    """Who a token stands for; `write=False` is a read-only token."""

    name: str
    orgs: tuple[str, ...] = ()
    write: bool = True

    def owns(self, repo_id: str) -> bool:
        """Whether the repository is this user's, or of one of this user's organizations."""
        return repo_id.split("/")[0] in (self.name, *self.orgs)


@dataclass(frozen=True)
class File:
    """A file of one commit; `xet` is its xet hash where it was pushed that way."""

    data: bytes
    lfs: bool = False
    xet: str | None = None

    @property
    def size(self) -> int:
        """Bytes of the content, not of the LFS pointer."""
        return len(self.data)

    @cached_property
    def sha256(self) -> str:
        """Hash of the content."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git keeps for an LFS file."""
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize"
            f" {self.size}\n".encode()
        )

    @cached_property
    def oid(self) -> str:
        """The git blob's hash."""
        data = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        """What identifies the content to a downloading client."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """A state of all files."""

    files: dict[str, File]
    title: str
    author: str
    message: str = ""
    parent: str | None = None
    date: str = field(default_factory=now)
    oid: str = field(
        default_factory=lambda: hashlib.sha1(
            secrets.token_bytes(16) + b"%d" % next(_counter)
        ).hexdigest()
    )

    def folders(self) -> list[str]:
        """Every folder that holds a file, however deep."""
        parts = [path.split("/")[:-1] for path in self.files]
        return sorted({"/".join(p[: n + 1]) for p in parts for n in range(len(p))})

    def card(self) -> dict:
        """The README's metadata, empty where there is none."""
        try:
            return card_data(self.files["README.md"].data.decode())
        except (KeyError, ValueError):
            return {}


class Repo:
    """A repository; refs are full names: refs/heads/main, refs/tags/v1, refs/pr/1."""

    def __init__(self, type: str, id: str, private: bool, author: str, sdk: str | None = None):
        self.type, self.id, self.private, self.gated = type, id, private, False
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        self.discussions: list[dict] = []
        # large files as they were uploaded, by the sha256 that the client claimed
        self.objects: dict[str, bytes] = {}
        self.created = now()
        files = {".gitattributes": File(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")}
        if type == "spaces":  # a README that says how to run what is to come
            about = f"---\ntitle: {id.split('/')[1]}\nemoji: 🐨\nsdk: {sdk}\npinned: false\n---\n"
            files["README.md"] = File(f"{about}\nCheck out the configuration reference\n".encode())
        self.add("refs/heads/main", Commit(files, "initial commit", author))

    def add(self, ref: str, commit: Commit) -> Commit:
        """Move a ref to a new commit."""
        if self.type == "spaces":
            require_runnable(commit.files)
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit

    def ref(self, revision: str) -> str | None:
        """The full name of a branch, tag or pull request."""
        return next(
            (
                r
                for r in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision)
                if r in self.refs
            ),
            None,
        )

    def commit(self, revision: str = "main") -> Commit:
        """The commit that a branch, tag, pull request or hash names."""
        oid = self.refs.get(self.ref(revision) or "", revision)
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def file(self, path: str, revision: str = "main") -> File:
        """One file; for tests, and for downloads."""
        commit = self.commit(revision)
        if path not in commit.files:
            raise Refusal(
                404, "Entry not found", "EntryNotFound", headers={"X-Repo-Commit": commit.oid}
            )
        return commit.files[path]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """All contents but .gitattributes, for tests."""
        return {
            path: file.data
            for path, file in self.commit(revision).files.items()
            if path != ".gitattributes"
        }

    def history(self, revision: str = "main") -> list[Commit]:
        """Newest first."""
        found, oid = [], self.commit(revision).oid
        while oid is not None:
            found.append(self.commits[oid])
            oid = found[-1].parent
        return found

    def uploaded(self, oid: str, size: int | None = None) -> bytes:
        """A large file as it was uploaded, if it is what its name says."""
        data = self.objects.get(oid)
        if data is None:
            raise Refusal(400, f"LFS object {oid} was never uploaded")
        if hashlib.sha256(data).hexdigest() != oid or size not in (None, len(data)):
            del self.objects[oid]
            raise Refusal(400, f"LFS object {oid}: checksum or size of the upload differs")
        return data

    def discuss(
        self, user: str, title: str, description: str, pull_request: bool, base: str = "main"
    ) -> dict:
        """Open a discussion, or a draft pull request with its ref."""
        number, date, author = len(self.discussions) + 1, now(), {"name": user}
        kind = {plural: one for one, plural in SEVERAL.items()}[self.type]
        comment = {"id": f"{number:024x}", "type": "comment", "createdAt": date, "author": author}
        comment["data"] = {"edited": False, "hidden": False, "latest": {"raw": description}}
        found = {
            "num": number,
            "title": title,
            "author": author,
            "createdAt": date,
            "isPullRequest": pull_request,
        }
        found |= {
            "status": "draft" if pull_request else "open",
            "repo": {"name": self.id, "type": kind},
            "events": [comment],
        }
        if pull_request:
            self.refs[f"refs/pr/{number}"] = self.commit(base).oid
            found |= {"changes": {"base": "refs/heads/main"}, "filesWithConflicts": [], "diff": ""}
        self.discussions.append(found)
        return found


class Store:
    """All users and repositories; `lock` is held while a request changes them."""

    def __init__(self):
        self.users = {"hf_me": User("me"), "hf_other": User("other")}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.tickets: dict[str, tuple] = {}  # what a signed URL gives a right to
        self.lock = threading.RLock()

    def repo(self, id: str, type: str = "models") -> Repo:
        """A repository by name, for tests; KeyError where there is none."""
        return self.repos[type, id]

    def ticket(self, *what) -> str:
        """A secret for a URL that needs no token."""
        key = secrets.token_hex(16)
        self.tickets[key] = what
        return key

    def user(self, authorization: str | None) -> User | None:
        """Who asks; None is anonymous, an unknown token is refused."""
        if not authorization:
            return None
        found = self.users.get(authorization.removeprefix("Bearer ").strip())
        if found is None:
            raise Refusal(401, INVALID)
        return found

    def readable(self, user: User | None, type: str, id: str) -> Repo:
        """The repository, if this user may know that it exists."""
        found = self.repos.get((type, id))
        if found is None or (found.private and not (user and user.owns(id))):
            refused = (
                (404, "Repository not found") if user else (401, "Invalid username or password.")
            )
            raise Refusal(*refused, "RepoNotFound")
        return found

    def writable(
        self, user: User | None, type: str, id: str, *, by_pull_request: bool = False
    ) -> Repo:
        """The repository, if this user may change it, or propose a change."""
        found = self.readable(user, type, id)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if not user.write or not (user.owns(id) or by_pull_request):
            raise Refusal(403, f"Forbidden: you must have write access to {id}")
        return found

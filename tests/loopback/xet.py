"""Xet without a storage server: hf_xet itself reads and writes a folder where the casUrl is
local://FOLDER.

A process that has opened such a folder keeps it locked. So every token gets a folder of its own: an
empty one to write to, a freshly filled one to read from; and the folder that a client wrote to is
read from a copy.
"""

import shutil
import struct
import tempfile
import threading
from pathlib import Path

from loopback.store import Repo

FAR = 4102444800  # a time that no token lives to see, in 2100


class Xet:
    """The folders of one server, below one temporary folder."""

    def __init__(self):
        self.root = Path(tempfile.mkdtemp(prefix="hub_xet_"))
        self.lock = threading.Lock()
        self.written: list[Path] = []
        self.shared: dict[tuple, Path] = {}

    def close(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.root, ignore_errors=True)

    def folder(self) -> Path:
        """A new empty one."""
        return Path(tempfile.mkdtemp(dir=self.root))

    def write_url(self) -> str:
        """Where a client may push to."""
        with self.lock:
            self.written.append(self.folder())
            return f"local://{self.written[-1]}"

    def read_url(self, files: list) -> str:
        """Where a client may pull these files from: a copy of a folder that holds them, filled
        once.
        """
        from hf_xet import XetSession

        key = tuple(sorted({file.sha256 for file in files}))
        with self.lock:
            if key not in self.shared:
                self.shared[key] = self.folder()
                with XetSession().new_upload_commit(
                    endpoint=f"local://{self.shared[key]}"
                ) as commit:
                    for file in files:
                        commit.start_upload_bytes(file.data, sha256=file.sha256)
            copy = self.folder()
        return f"local://{shutil.copytree(self.shared[key], copy, dirs_exist_ok=True)}"

    def take(self, repo: Repo, sha256: str, size: int) -> str | None:
        """Copy a pushed file into the repository's objects; its xet hash, None where it was never
        pushed by xet.
        """
        with self.lock:
            found = next(
                ((f, h) for f in reversed(self.written) if (h := xet_hashes(f).get(sha256))), None
            )
            if found is None:
                return None
            repo.objects[sha256] = self.fetch(*found, size)
        return found[1]

    def fetch(self, folder: Path, hash: str, size: int) -> bytes:
        """The bytes that a client wrote to a folder."""
        from hf_xet import XetFileInfo, XetSession

        copy = shutil.copytree(folder, self.folder(), dirs_exist_ok=True)
        target = self.folder() / "file"
        with XetSession().new_file_download_group(endpoint=f"local://{copy}") as group:
            group.start_download_file(XetFileInfo(hash, size), str(target))
        return target.read_bytes()


def xet_hashes(folder: Path) -> dict[str, str]:
    """Content hash -> xet hash, read from the shards: records of 48 bytes, a header, then per file
    one and what belongs to it.
    """
    found = {}
    for shard in folder.rglob("*.mdb"):
        data, at = shard.read_bytes(), 48
        while at + 48 <= len(data) and data[at : at + 32] != b"\xff" * 32:
            flags, entries = struct.unpack("<II", data[at + 32 : at + 40])
            end = at + 48 * (1 + entries + (entries if flags >> 31 & 1 else 0))
            if flags >> 30 & 1:
                found[_hex(data[end : end + 32])] = _hex(data[at : at + 32])
                end += 48
            at = end
    return found


def _hex(hash: bytes) -> str:
    return "".join(f"{part:016x}" for part in struct.unpack("<4Q", hash))

"""Failures: the folder in which wrong images are collected, one folder per true class, as
`timm_repair.repair` takes it.
"""

import re
from collections import Counter
from pathlib import Path

from PIL import Image

from timm_repair.app.uploads import Upload
from timm_repair.errors import DataError, OutputError
from timm_repair.hub.folder import writable
from timm_repair.images.classes import Classes, fold
from timm_repair.images.folders import SPLITS

# a class may be called so in a folder of any system
_PLAIN = re.compile(r"[^\W_][\w ,()+&'=@-]*(?<! )")
_RESERVED = re.compile(r"(?i:con|prn|aux|nul|com\d|lpt\d)")
# of formats that several endings are used for
_ENDINGS = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "MPO": ".jpg", "PNG": ".png"}


class Failures:
    """Wrong images with their true classes, on disk.

    A folder is called as its class, or by the class's number where not all classes are called by
    what a folder can be called.

    Args:
        folder: made when the first one is collected.
        classes: of the model.
    """

    def __init__(self, folder: Path, classes: Classes):
        self.folder, self.classes = folder, classes
        names = classes.names or ()
        self.by_name = bool(names) and all(map(_is_plain, names))
        self.by_name &= len(set(map(fold, names))) == len(names)
        self._last: list[Path] = []

    @property
    def label_map(self) -> dict[str, int] | None:
        """What the folders' names mean, where they are numbers."""
        return None if self.by_name else {str(i): i for i in range(self.classes.count)}

    def called(self, label: int) -> str:
        """The name of a class's folder."""
        return self.classes.names[label] if self.by_name and self.classes.names else str(label)

    def add(self, uploads: list[Upload], label: int) -> int:
        """Keep copies; returns how many are new. One that was collected as another class before is
        moved.

        Raises:
            DataError: there is no such class.
            OutputError: the folder cannot be written.
        """
        if not 0 <= label < self.classes.count:
            raise DataError(f"there is no class {label}: the model has {self.classes.count}")
        place, new = writable(self.folder / self.called(label)), []
        for upload in uploads:
            name = f"{upload.digest}{_ending(upload.format)}"
            if (place / name).exists():
                continue
            for other in self.folder.glob(f"*/{name}"):
                other.unlink()
            try:
                (place / name).write_bytes(upload.content)
            except OSError as error:
                (place / name).unlink(missing_ok=True)
                raise OutputError(f"cannot write to {str(place)!r} ({error}): make room") from error
            new.append(place / name)
        self._last = new or self._last
        return len(new)

    def take_back(self) -> int:
        """Remove those that were collected last; returns how many."""
        gone = [path for path in self._last if path.is_file()]
        for path in gone:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
        self._last = []
        return len(gone)

    def contents(self) -> list[str]:
        """Every file, as class/name, sorted."""
        if not self.folder.is_dir():
            return []
        files = (path for path in self.folder.glob("*/*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    def counts(self) -> dict[str, int]:
        """How many there are of each class's folder."""
        return dict(sorted(Counter(name.partition("/")[0] for name in self.contents()).items()))


def _is_plain(name: str) -> bool:
    plain = len(name) <= 100 and _PLAIN.fullmatch(name) and not _RESERVED.fullmatch(name)
    return bool(plain) and name.lower() not in SPLITS  # which would be read as such


def _ending(format: str) -> str:
    endings = (end for end, known in Image.registered_extensions().items() if known == format)
    return _ENDINGS.get(format) or next(endings, ".png")

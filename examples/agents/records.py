"""A directory of JSON files, one for each key."""

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Records:
    """Tickets, cases, receipts: what must exist once, however often it is asked for.

    A file is either there in full or not at all, also after a crash.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, key: str) -> Path:
        """The file of a key: readable, safe as a file name, different for different keys."""
        readable = re.sub(r"[^a-zA-Z0-9]+", "-", key).strip("-")[:60]
        return self.directory / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"

    def create(self, key: str, record: Record) -> bool:
        """Write a record if there is none with this key; says whether it was written."""
        draft = self._draft(record)
        try:
            # A link is refused if the name exists, which a rename is not.
            os.link(draft, self.path(key))
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def replace(self, key: str, record: Record) -> None:
        """Write a record in place of the one with this key."""
        os.replace(self._draft(record), self.path(key))

    def read(self, key: str) -> Record | None:
        """The record with this key."""
        try:
            return json.loads(self.path(key).read_text())
        except FileNotFoundError:
            return None

    def all(self) -> list[Record]:
        """Every record, in the order of the file names."""
        return [json.loads(path.read_text()) for path in sorted(self.directory.glob("*.json"))]

    def _draft(self, record: Record) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.directory, prefix=".draft-")
        with os.fdopen(handle, "w") as file:
            json.dump(record, file, indent=2, ensure_ascii=False)
            file.write("\n")
        return Path(name)

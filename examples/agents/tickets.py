"""Where the data quality agent files its tickets: one JSON file each."""

import hashlib
import threading
from pathlib import Path

from examples.agents.records import Record, Records


class Tickets:
    """Open tickets by key: a second one with the same key is a note on the first."""

    def __init__(self, directory: Path) -> None:
        self._records = Records(directory)
        self._lock = threading.Lock()

    def file(self, key: str, title: str, severity: str, night: str, details: str) -> Record:
        """File a ticket, or note on the one with this key that it was seen again."""
        record: Record = {
            "id": "DQ-" + hashlib.sha256(key.encode()).hexdigest()[:6].upper(),
            "key": key,
            "status": "open",
            "severity": severity,
            "title": title,
            "details": details,
            "filed_for": night,
            "seen_on": [night],
            "escalations": [],
        }
        with self._lock:
            if self._records.create(key, record):
                return record
            return self._change(key, "seen_on", night)

    def escalate(self, key: str, night: str, reason: str) -> Record:
        """Note once for a night that the ticket needs a person now. Raises KeyError if there is no such ticket."""
        with self._lock:
            return self._change(key, "escalations", {"night": night, "reason": reason})

    def all(self) -> list[Record]:
        """Every ticket."""
        return self._records.all()

    def _change(self, key: str, field: str, addition: object) -> Record:
        ticket = self._records.read(key)
        if ticket is None:
            raise KeyError(key)
        if addition not in ticket[field]:
            ticket[field].append(addition)
            self._records.replace(key, ticket)
        return ticket

"""The report of a mail: everything that the three services found, in one line of JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

import msgspec
from msgspec import Struct, field

from examples.totalemail.facts import Attachment, Headers


class Report(Struct, frozen=True):
    """The facts of one mail, in the order of their line."""

    file: str
    sha256: str
    size: int
    subject: str | None
    from_: str | None = field(name="from")
    from_name: str | None
    from_address: str | None
    message_id: str | None
    n_parts: int
    n_leaf_parts: int
    content_types: list[str]
    n_attachments: int
    attachments: list[Attachment]
    urls: list[str]
    defects: list[str]

    @classmethod
    def of(
        cls, file: str, sha256: str, size: int, headers: Headers, urls: list[str], attachments: list[Attachment]
    ) -> Report:
        return cls(
            file=file,
            sha256=sha256,
            size=size,
            subject=headers.subject,
            from_=headers.from_,
            from_name=headers.from_name,
            from_address=headers.from_address,
            message_id=headers.message_id,
            n_parts=len(headers.content_types),
            n_leaf_parts=headers.n_leaf_parts,
            content_types=headers.content_types,
            n_attachments=len(attachments),
            attachments=attachments,
            urls=urls,
            defects=headers.defects,
        )


def write_lines(reports: Iterable[Report], to: IO[bytes]) -> int:
    """One JSON object a line, UTF-8. Gives how many."""
    written = 0
    for written, report in enumerate(reports, start=1):  # noqa: B007 - its last value is the answer
        to.write(msgspec.json.encode(report) + b"\n")
    return written

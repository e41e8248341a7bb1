"""Tar files for tests."""

import io
import tarfile
from collections.abc import Mapping


def tar_bytes(files: Mapping[str, bytes], layout: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive with these members, in this order. `ValueError` for a name that USTAR has no room for."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout, encoding="utf-8", errors="surrogateescape") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()

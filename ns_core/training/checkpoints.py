"""Resume checkpoints: everything that training needs to go on in the same bits, safe against any kind of end.

In a `ResumeFolder`, which is a local folder or S3, two files a checkpoint:

    step-00001234.safetensors   the tensors
    step-00001234.json          {"body": {fingerprint, step, size, sha256, document}, "sha256": of the body}

The JSON is written last and is the commit: `size` and `sha256` are those of the tensors' file. What was cut,
changed, half written or saved under another fingerprint is recognised, and the checkpoint before it is taken.

Training waits while the tensors are copied within the host's memory, or to it, and for nothing else: a thread
hashes and writes. 107 MB, 1,800 tensors, on one busy core: 16 to 40 ms a save, 124 the first, which allocates
what the others copy into; `torch.save` to a local disk held it for 133 to 215.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from torch import Tensor

from ns_core.errors import StageFailed
from ns_core.resume import ResumeFolder
from ns_core.stage import log

_NAME = re.compile(r"step-(\d{8,})\.(json|safetensors)")


class Checkpoints:
    """Saves and finds the checkpoints of one attempt. Nothing is started or allocated before the first `save`.

    One thread of the caller's at a time. `close` at the end: without it an error of the last save is lost.
    """

    def __init__(self, resume: ResumeFolder, fingerprint: str, keep: int) -> None:
        assert keep >= 1, keep
        self._resume, self._fingerprint, self._keep = resume, fingerprint, keep
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._host: dict[str, Tensor] = {}
        """What is being written; kept, since the next save copies into the same arrays."""
        self._useless: set[int] = set()
        """Steps whose checkpoints `load` found unusable: the next commit deletes them."""

    def save(self, step: int, tensors: Mapping[str, Tensor], document: Mapping[str, JsonValue]) -> None:
        """Commits a checkpoint of `step` updates and deletes all but the newest `keep`, in the background.

        When this returns, tensors and document are copied and may change; `close` waits for the commit. Any dtype of
        safetensors, any shape and layout; two names of one tensor are saved twice. Waits for the save before it, and
        raises its error: an `OSError` or `UserError` of the store, `StageFailed` for numbers that are not finite.
        """
        frozen = json.loads(json.dumps(document))
        self._finish()
        self._host = _on_host(tensors, self._host)
        self._writing = self._writer.submit(self._write, step, frozen)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors, on the host and contiguous, and document of the newest whole checkpoint of this fingerprint.

        One warning for each newer one that cannot be used; None when no checkpoint is left. A store that does
        not answer is an `OSError` or `UserError`, no reason to start again at update 0.
        """
        self._finish()
        for step in _committed(self._resume.names()):
            try:
                return self._read(step)
            except _Useless as reason:
                self._useless.add(step)
                log.warning("the checkpoint of update %d is not used: %s; looking for one before it", step, reason)
        return None

    def close(self) -> None:
        """Waits for the save in flight, raises its error, and ends the thread."""
        self._writer.shutdown()
        self._host.clear()
        self._finish()

    def _finish(self) -> None:
        if self._writing is not None:
            error = self._writing.exception()
            self._writing = None
            if error is not None:
                raise error

    def _write(self, step: int, document: JsonValue) -> None:
        floats = ((name, tensor) for name, tensor in self._host.items() if tensor.is_floating_point())
        if broken := next((name for name, tensor in floats if not tensor.isfinite().all()), None):
            raise StageFailed(f"{broken} is not finite after update {step}, which was not saved: lower the lr")
        body: dict[str, JsonValue] = {"fingerprint": self._fingerprint, "step": step, "document": document}

        def write_tensors(path: Path) -> None:
            save_file({name: tensor.contiguous() for name, tensor in self._host.items()}, path)
            body["size"], body["sha256"] = _measured(path)

        self._resume.save(f"{_stem(step)}.safetensors", write_tensors)
        self._resume.save(f"{_stem(step)}.json", lambda path: path.write_bytes(_sealed(body)))
        self._useless.discard(step)
        self._forget()

    def _forget(self) -> None:
        """Deletes all but the newest checkpoints, JSON first, so that none is ever without its tensors.

        Tensors without JSON beyond the newest are left: another attempt may be about to commit them.
        """
        names = self._resume.names()
        kept = [step for step in _committed(names) if step not in self._useless][: self._keep]
        for step in sorted(_steps(names)):
            if step in self._useless or (step not in kept and step < kept[0]):
                self._resume.delete(f"{_stem(step)}.json")
                self._resume.delete(f"{_stem(step)}.safetensors")

    def _read(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        file = self._resume.load(f"{_stem(step)}.json")
        body = None if file is None else _opened(file.read_bytes())
        if body is None:
            raise _Useless("its JSON is damaged")
        if body["fingerprint"] != self._fingerprint or body["step"] != step:
            raise _Useless("it was saved under another fingerprint or step")
        path = self._resume.load(f"{_stem(step)}.safetensors")
        if path is None:
            raise _Useless("its tensors are gone")
        if _measured(path) != (body["size"], body["sha256"]):
            raise _Useless("its tensors are damaged")
        tensors = load_file(path)
        path.unlink()  # what is still mapped stays readable
        return tensors, body["document"]


class _Useless(Exception):
    """A checkpoint that must not be used, and why."""


def _stem(step: int) -> str:
    return f"step-{step:08d}"


def _steps(names: Iterable[str]) -> set[int]:
    """Steps of which there is a file."""
    return {int(match[1]) for name in names if (match := _NAME.fullmatch(name))}


def _committed(names: Iterable[str]) -> list[int]:
    """Steps of which there is a JSON, the newest first."""
    return sorted(_steps(name for name in names if name.endswith(".json")), reverse=True)


def _on_host(tensors: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in host memory, into those of `buffers` that fit; page-locked where they come from a GPU.

    The layout is the tensor's own: a straight copy of channels-last weights holds training for less time than
    one that sorts them, which the thread can do as well.
    """
    host, devices = {}, set()
    for name, tensor in tensors.items():
        source, buffer = tensor.detach(), buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (source.shape, source.dtype):
            buffer = torch.empty_like(source, device="cpu", pin_memory=source.is_cuda)
        host[name] = buffer.copy_(source, non_blocking=True)
        if source.is_cuda:
            devices.add(source.device)
    for device in devices:
        torch.cuda.current_stream(device).synchronize()
    return host


def _measured(path: Path) -> tuple[int, str]:
    """Size and sha256 of a file."""
    with path.open("rb") as stream:
        return path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()


def _sealed(body: JsonValue) -> bytes:
    """The bytes of a JSON that names the sha256 of its body."""
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({"body": body, "sha256": digest}).encode()


def _opened(data: bytes) -> dict[str, Any] | None:
    """The body of what `_sealed` gave; None for any other bytes."""
    try:
        body = json.loads(data)["body"]
    except (ValueError, LookupError, TypeError):
        return None
    return body if isinstance(body, dict) and _sealed(body) == data else None

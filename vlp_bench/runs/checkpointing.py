"""Lightning's checkpoints, written whole or not at all, and never executed when read."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vlp_bench.runs.errors import UserError


class WholeFiles(TorchCheckpointIO):
    """Writes beside the target, then renames.

    Lightning goes through the system's temporary folder: where that is another file system, the last step is a
    copy, and a kill or a full disk leaves half a file under the checkpoint's name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Save a checkpoint; OSError (no space, read-only) leaves what was there before."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getbuffer())

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """See `read_checkpoint`."""
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = None) -> dict[str, Any]:
    """The content of a checkpoint; nothing in it is executed.

    Raises:
        UserError: it is truncated, damaged or no checkpoint of ours.
        OSError: it cannot be read.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        if (damaged := zipfile.ZipFile(content).testzip()) is not None:  # torch itself would not look
            raise ValueError(f"its part {damaged} is not what was written")
        content.seek(0)
        found = torch.load(content, map_location=map_location, weights_only=True)
        if not isinstance(found, dict) or not isinstance(found.get("state_dict"), dict):
            raise TypeError("no checkpoint of this program")
    except Exception as error:  # what a damaged zip archive or its index makes of itself has many names
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be resumed from ({reason}); begin anew with force=true") from error
    return found


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file that is either the old one or all of the new one, whenever the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not say where
        raise
    finally:
        scratch.unlink(missing_ok=True)

